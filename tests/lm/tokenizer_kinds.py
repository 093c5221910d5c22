"""One small tokenizer of each kind that language models come with, built by the `tokenizers` library."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

MARKS = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{b:02X}>" for b in range(256)]
WORDS = ["a", "b", "c", "h", "i", "é", " ", ".", "ab", "abc", "hi", "n't", "\u0301", "\u200d", "👩", "\ufffd"]


def fallback(strip: bool = True) -> Tokenizer:
    """Llama 2: characters, and bytes for those that are no token; without `strip` Gemma's."""
    vocab = {
        token: i for i, token in enumerate([*MARKS, *BYTES, "▁", *(w.replace(" ", "▁") for w in WORDS if w != " ")])
    }
    made = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence(
        [*([normalizers.Prepend("▁")] if strip else []), normalizers.Replace(" ", "▁")]
    )
    parts: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*parts, *([decoders.Strip(" ", 1, 0)] if strip else [])])
    made.add_special_tokens(MARKS)
    return made


def level() -> Tokenizer:
    """GPT-2: every byte a letter, some merged across characters, and tokens that were added in plain letters."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "a"), ("a", "b"), ("æ", "Ĺ"), ("¥", "æ"), ("Ġ", "ð"), ("Ł", "ĳ")]
    vocab = {token: i for i, token in enumerate([*MARKS, *letters, *(a + b for a, b in merges)])}
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(MARKS)
    made.add_tokens(["<日本>", "tool call"])
    return made


def unigram() -> Tokenizer:
    """T5 and XLNet: words that begin with a low line stand for a space."""
    pieces = [*MARKS, *(w.replace(" ", "▁") for w in WORDS), "▁ab", "▁hi"]
    made = Tokenizer(models.Unigram([(p, -float(i)) for i, p in enumerate(pieces)], unk_id=0, byte_fallback=False))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(MARKS)
    return made


def wordpiece() -> Tokenizer:
    """BERT: parts of a word begin with ##, spaces before marks are taken back."""
    pieces = [*MARKS, "ab", "hi", "##c", "##é", ".", ",", "n't", "do", "'", "s", "日", "##本", "👩", "##\u200d"]
    made = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(MARKS)
    return made


def suffix() -> Tokenizer:
    """GPT-1: the end of a word is part of its token, and the last one of a text has no space after it."""
    pieces = [*MARKS, "a", "b", "é", "ab</w>", "b</w>", "日</w>", "👩</w>", ".</w>"]
    made = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=[], unk_token="<unk>"))
    made.decoder = decoders.BPEDecoder("</w>")
    made.add_special_tokens(MARKS)
    return made


def words() -> Tokenizer:
    """No decoder: words with a space between."""
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*MARKS, *WORDS])}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens([AddedToken(m, special=True) for m in MARKS])
    return made


KINDS = {
    "fallback": fallback, "fallback without strip": lambda: fallback(strip=False), "level": level, "unigram": unigram,
    "wordpiece": wordpiece, "suffix": suffix, "words": words,
}  # fmt: skip
