"""Tokenizer of a model (`tokenizer.json`, by the `tokenizers` library), and streamed detokenization."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from edgeexit.errors import BackendMissing, BundleError, DataError
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.text.characters import LETTERS, Unit, Units
from edgeexit.lm.text.stop_strings import StopStrings

_CONTEXT = 4
"""Earlier units that are decoded together with the next ones."""
_MIDDLE: Unit = ("a",)
"""Placeholder for everything before them, so that decoders do not treat them as the beginning of a text."""


class Text:
    """A tokenizer."""

    def __init__(self, path: Path) -> None:
        """Raises: BackendMissing without `tokenizers`; BundleError for a file that it cannot read."""
        try:
            from tokenizers import Tokenizer
        except ImportError as e:
            raise BackendMissing(
                f"text needs the tokenizers library ({e}): pip install tokenizers, or work on token ids"
            ) from e
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(path))
        except Exception as e:  # the library raises bare Exception
            raise BundleError(f"{path}: not a tokenizer.json: {e}") from e
        added = self._tokenizer.get_added_tokens_decoder().values()
        self._special = frozenset(token.content for token in added if token.special)
        self._decoder = self._tokenizer.decoder
        # probed by decoding, as a decoder may be one of several in a row
        self._fallback = self.joined([("a", "<0xC3>", "<0xA9>")]) == "aé"
        self._level = self.joined([("a", LETTERS[0xC3] + LETTERS[0xA9])]) == "aé"

    def encode(self, text: str) -> list[int]:
        """Token ids of a text.

        Raises:
            DataError: lone surrogates, which a command line's bytes that are no UTF-8 become.
        """
        try:
            text.encode()
        except UnicodeEncodeError as e:
            raise DataError(f"{text!r:.60}: no text that UTF-8 can hold: {e.reason}") from e
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    @property
    def tokens(self) -> int:
        """One more than the largest token id."""
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)

    def tokens_of(self, word: str) -> list[int]:
        """Ids of tokens equal to a word, alone or with spaces around it; special ones such as ``</think>`` by name."""
        every = self._tokenizer.get_vocab(with_added_tokens=True)
        ids = [i for i in every.values() if word in ((text := self._tokenizer.decode([i])), text.strip())]
        return sorted({*ids, *([every[word]] if word in every else [])}) if word else []

    @property
    def start(self) -> int | None:
        """The token that the tokenizer itself puts before a text; None = none.

        Raises:
            DataError: it puts several.
        """
        plain, marked = self.encode("a"), self._tokenizer.encode("a", add_special_tokens=True).ids
        if not plain:
            return int(marked[0]) if marked else None
        before = next((i for i in range(len(marked)) if marked[i : i + len(plain)] == plain), 0)
        if before > 1:
            raise DataError(
                f"the tokenizer puts {before} tokens before a text ({', '.join(map(str, marked[:before]))}), and a "
                "bundle holds one: export without tokenizer (--no-tokenizer) and put them before the token ids"
            )
        return int(marked[0]) if before else None

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens; special tokens have none.

        As the library decodes, except for bytes that are not UTF-8: the library's byte-fallback decoder replaces all
        bytes in a row if one of them is bad, which a stream cannot know; here only bad bytes are replaced.
        """
        units = self.units()
        complete = [u for token in self.strings(ids) for u in units.add(token)]
        return self.joined([*complete, *units.rest()])

    def strings(self, ids: Sequence[int]) -> list[str]:
        """The tokens' strings, without special and unknown ones."""
        strings = map(self._tokenizer.id_to_token, ids)
        return [token for token in strings if token is not None and token not in self._special]

    def units(self) -> Units:
        """Regrouping of this tokenizer's token strings into whole characters; one per text."""
        return Units(self._fallback, self._level)

    def joined(self, units: Iterable[Unit]) -> str:
        """The text of units."""
        strings = [string for unit in units for string in unit]
        return " ".join(strings) if self._decoder is None else str(self._decoder.decode(strings))


def text_of(model: LanguageModel) -> Text:
    """Load the model's own tokenizer.

    Raises:
        DataError: its bundle has none.
        BackendMissing, BundleError: it cannot be used.
    """
    if model.tokenizer is None:
        raise DataError(f"{model.name} has no tokenizer: give token ids instead of text, or export it with one")
    return Text(model.tokenizer)


def encoded(model: LanguageModel, text: Text, prompt: str) -> list[int]:
    """Encode a prompt, after the model's start token if it has one.

    Raises:
        DataError: a tokenizer of another model, which knows tokens that the model does not.
    """
    ids = text.encode(prompt)
    if (bad := max(ids, default=0)) >= model.spec.vocab:
        raise DataError(f"the tokenizer gives token {bad}, the model knows 0..{model.spec.vocab - 1}: not its own?")
    bos = model.spec.bos
    return ids if bos is None else [bos, *ids]


class Pieces:
    """Streamed detokenization: text of tokens as it becomes certain, up to a stop string.

    Together the pieces are the text of prompt and answer less that of the prompt. Whole characters only: bytes of one
    that is not finished wait for the next token, also where the prompt ends within it. Each token costs the decoding
    of a few tokens, however long the text is.
    """

    def __init__(self, text: Text, stops: Sequence[str], before: Sequence[int]) -> None:
        """Raises: DataError for an empty stop string.

        Args:
            text: the tokenizer.
            stops: strings that end the text; they are not part of it.
            before: the prompt's tokens: its last character may be unfinished, and where there is one a tokenizer that
                drops the first space of a text keeps that of the answer.
        """
        self._stops = StopStrings(stops)
        self._text, self._units = text, text.units()
        self._context: list[Unit] = []
        """The last units, with a placeholder before them if there were more; the next ones are decoded after them."""
        self._advance([u for token in text.strings(before) for u in self._units.add(token)])
        self._shown = text.joined([*self._context, *self._units.rest()])
        """Text of the context that was already returned."""

    @property
    def stopped(self) -> bool:
        """A stop string was matched."""
        return self._stops.stopped

    def add(self, token: int) -> str:
        """Add a token; returns the text that is certain now, "" if none. After a stop string `stopped` is set."""
        new = [u for string in self._text.strings([token]) for u in self._units.add(string)]
        return self._stops.add(self._new(new)) if new else ""

    def rest(self) -> str:
        """Return the text that was held back, after the last token; an unfinished character is returned as U+FFFD."""
        new, self._units = self._units.rest(), self._text.units()
        return self._stops.add(self._new(new)) + self._stops.rest()

    def _new(self, units: list[Unit]) -> str:
        """The text that these units add."""
        now = self._text.joined([*self._context, *units])
        new = now[_shared(now, self._shown) :]
        self._advance(units)
        self._shown = self._text.joined(self._context)
        return new

    def _advance(self, units: list[Unit]) -> None:
        self._context += units
        if len(self._context) > _CONTEXT + 1:
            self._context = [_MIDDLE, *self._context[-_CONTEXT:]]


class Writing:
    """Text of an answer as its tokens arrive, and the reason of its end."""

    def __init__(self, ends: Sequence[int], text: Text | None, stops: Sequence[str], prompt: Sequence[int]) -> None:
        """Nothing yet.

        Args:
            ends: tokens that end it and have no text.
            text: the tokenizer; None = there is no text.
            stops: strings that end it.
            prompt: tokens before it.

        Raises:
            DataError: stop strings without a tokenizer, or an empty one.
        """
        if stops and text is None:
            raise DataError("stop strings need the model's tokenizer")
        self._ends = frozenset(ends)
        self._pieces = None if text is None else Pieces(text, stops, prompt)
        self._parts: list[str] = []
        self.ended: Literal["end", "stop"] | None = None
        """None = not yet."""

    @property
    def text(self) -> str | None:
        """All of it so far; None without a tokenizer."""
        return None if self._pieces is None else "".join(self._parts)

    def add(self, token: int) -> str:
        """Add a token; returns the text that is certain now, "" if none or after the end."""
        if self.ended is None and token in self._ends:
            self.ended = "end"
        if self.ended is not None or self._pieces is None:
            return ""
        new = self._pieces.add(token)
        if self._pieces.stopped:
            self.ended = "stop"
        self._parts.append(new)
        return new

    def rest(self) -> str:
        """Return the text that was held back, at the end."""
        rest = "" if self._pieces is None else self._pieces.rest()
        self._parts.append(rest)
        return rest


def _shared(a: str, b: str) -> int:
    """Length of what both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
