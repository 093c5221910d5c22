"""Between text and tokens: a `tokenizer.json` by the `tokenizers` library, and text that comes piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from edgeexit.errors import BackendMissing, BundleError, DataError
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.text.characters import LETTERS, Unit, Units
from edgeexit.lm.text.stop_strings import StopStrings

_CONTEXT = 4
"""Units that the next ones are decoded after."""
_MIDDLE: Unit = ("a",)
"""Stands for everything before them, so that decoders do not take them for the beginning of a text."""


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
        # a decoder says what it does by doing it: it may be one of several in a row
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
        """The tokens that are this word, alone or with blanks around it; marks such as ``</think>`` by their names."""
        every = self._tokenizer.get_vocab(with_added_tokens=True)
        ids = [i for i in every.values() if word in ((found := self._tokenizer.decode([i])), found.strip())]
        return sorted({*ids, *([every[word]] if word in every else [])}) if word else []

    @property
    def start(self) -> int | None:
        """The token that it puts before a text by itself; None = it puts none.

        Raises:
            DataError: it puts several there.
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
        """The text of tokens; those that only mark something have none.

        It is the library's, but that bytes which are no UTF-8 do not take the whole characters beside them along: a
        byte-fallback decoder replaces all bytes in a row if one of them is bad, which no stream could know.
        """
        units = self.units()
        found = [u for token in self.strings(ids) for u in units.add(token)]
        return self.joined([*found, *units.rest()])

    def strings(self, ids: Sequence[int]) -> list[str]:
        """The tokens' strings, without those that only mark something and those that the tokenizer does not know."""
        found = map(self._tokenizer.id_to_token, ids)
        return [token for token in found if token is not None and token not in self._special]

    def units(self) -> Units:
        """What makes whole characters of this tokenizer's token strings; one for every text."""
        return Units(self._fallback, self._level)

    def joined(self, units: Iterable[Unit]) -> str:
        """The text of units."""
        strings = [string for unit in units for string in unit]
        return " ".join(strings) if self._decoder is None else str(self._decoder.decode(strings))


def text_of(model: LanguageModel) -> Text:
    """The model's own tokenizer.

    Raises:
        DataError: its bundle has none.
        BackendMissing, BundleError: it cannot be used.
    """
    if model.tokenizer is None:
        raise DataError(f"{model.name} has no tokenizer: give token ids instead of text, or export it with one")
    return Text(model.tokenizer)


def encoded(model: LanguageModel, text: Text, prompt: str) -> list[int]:
    """A prompt's tokens, after the model's start token if it has one.

    Raises:
        DataError: a tokenizer of another model, which knows tokens that the model does not.
    """
    ids = text.encode(prompt)
    if (bad := max(ids, default=0)) >= model.spec.vocab:
        raise DataError(f"the tokenizer gives token {bad}, the model knows 0..{model.spec.vocab - 1}: not its own?")
    bos = model.spec.bos
    return ids if bos is None else [bos, *ids]


class Pieces:
    """Tokens in, finished text out; ends at a stop string.

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
        """The last units, with one before them if there were more: what the next ones look like after them."""
        self._advance([u for token in text.strings(before) for u in self._units.add(token)])
        self._shown = text.joined([*self._context, *self._units.rest()])
        """The context's text, as far as it is out of our hands."""

    @property
    def stopped(self) -> bool:
        """Whether a stop string came."""
        return self._stops.stopped

    def add(self, token: int) -> str:
        """The text that is certain now; "" where none is. After a stop string `stopped` is set."""
        new = [u for string in self._text.strings([token]) for u in self._units.add(string)]
        return self._stops.add(self._new(new)) if new else ""

    def rest(self) -> str:
        """What was held back, once the last token is there: a character that stayed unfinished is shown as U+FFFD."""
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
    """The text that an answer's tokens make as they come, and what ended it."""

    def __init__(self, ends: Sequence[int], text: Text | None, stops: Sequence[str], prompt: Sequence[int]) -> None:
        """Nothing yet.

        Args:
            ends: tokens that end it and have no text.
            text: the tokenizer; None = there is no text.
            stops: strings that end it.
            prompt: what it goes on with.

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
        """The text that is certain now; "" where none is, or nothing comes any more."""
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
        """What was held back, at the end."""
        rest = "" if self._pieces is None else self._pieces.rest()
        self._parts.append(rest)
        return rest


def _shared(a: str, b: str) -> int:
    """Length of what both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
