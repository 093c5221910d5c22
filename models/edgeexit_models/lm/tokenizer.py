"""Byte-level BPE with a small vocabulary, by the `tokenizers` library: encoding is lossless.

It is small because in a small network the head over the vocabulary is a large part of the cost of every token and exit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeexit.errors import BackendMissing, DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END = "<|endoftext|>"
"""Ends a document; id 0 in tokenizers of `train_bpe`."""
SMALLEST = 257
"""Every byte and the end of text."""


def train_bpe(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Learns merges on `texts`; the same texts give the same tokenizer.

    Args:
        texts: documents.
        vocabulary: number of ids, at least 257; 512 to 2048 suit networks of a few million weights.

    Raises:
        DataError: too small a vocabulary, or texts too short for so many merges.
        BackendMissing: no `tokenizers`.
    """
    if vocabulary < SMALLEST:
        raise DataError(f"a vocabulary of {vocabulary} cannot hold the 256 bytes and {END}: at least {SMALLEST}")
    _library()
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocabulary:
        raise DataError(
            f"the text gives {tokenizer.get_vocab_size()} tokens, not {vocabulary}: more text, or a smaller vocabulary"
        )
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Reads a tokenizer.json.

    Raises:
        DataError: no such file, or not a tokenizer.
        BackendMissing: no `tokenizers`.
    """
    _library()
    from tokenizers import Tokenizer

    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{path}: cannot be read ({e})") from e
    try:
        return Tokenizer.from_str(text)
    except Exception as e:  # the library raises bare Exception
        raise DataError(f"{path}: not a tokenizer.json ({e})") from e


def encode_all(tokenizer: Tokenizer, texts: Iterable[str]) -> npt.NDArray[np.uint16]:
    """All documents in one row `(n,)`, each followed by the end of text.

    Raises:
        DataError: the tokenizer has no such token, or more ids than 16 bits hold.
    """
    end = tokenizer.token_to_id(END)
    if end is None or tokenizer.get_vocab_size() > 1 << 16:
        raise DataError(f"need a tokenizer with {END} and at most 65536 ids; it has {tokenizer.get_vocab_size()}")

    def parts() -> Iterator[npt.NDArray[np.uint16]]:
        for text in texts:
            yield np.array([*tokenizer.encode(text).ids, end], np.uint16)

    ids = list(parts())
    return np.concatenate(ids) if ids else np.zeros(0, np.uint16)


def _library() -> None:
    try:
        import tokenizers  # noqa: F401
    except ImportError as e:
        raise BackendMissing("tokenizers of language models need tokenizers: pip install 'edgeexit[lm]'") from e
