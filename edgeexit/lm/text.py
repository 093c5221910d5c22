"""Between text and tokens: a `tokenizer.json` by the `tokenizers` library, and text that comes piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from edgeexit.errors import BackendMissing, BundleError, DataError
from edgeexit.lm.model import LanguageModel

UNFINISHED = "\ufffd"
"""What a decoder writes for bytes that are no whole character yet."""


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
        """The token that it puts before a text by itself; None = it puts none."""
        marked = self._tokenizer.encode("a", add_special_tokens=True).ids
        return int(marked[0]) if marked[:1] != self.encode("a")[:1] else None

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens; those that only mark something have none."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))


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
    """Tokens in, finished text out; ends at a stop string."""

    def __init__(self, text: Text, stops: Sequence[str], before: Sequence[int]) -> None:
        """Raises: DataError for an empty stop string.

        Args:
            text: the tokenizer.
            stops: strings that end the text; they are not part of it.
            before: the prompt's last tokens, so that a tokenizer that drops a first space keeps it here.
        """
        if any(not s for s in stops):
            raise DataError("a stop string is empty")
        self._text, self._stops = text, tuple(stops)
        self._ids = list(before[-4:])
        self._read = len(self._ids)
        self._start = 0
        self._held = ""
        """Finished text that may be the beginning of a stop string."""
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that is certain now; "" where none is. After a stop string `stopped` is set."""
        self._ids.append(token)
        before = self._text.decode(self._ids[self._start : self._read])
        now = self._text.decode(self._ids[self._start :])
        if now.endswith(UNFINISHED) and len(self._ids) - self._read < 8:
            return ""
        self._start, self._read = self._read, len(self._ids)
        return self._past(now[len(before) :])

    def rest(self) -> str:
        """What was held back."""
        if self.stopped:
            return ""
        before = self._text.decode(self._ids[self._start : self._read])
        now = self._text.decode(self._ids[self._start :])
        return self._past(now[len(before) :]) + self._held

    def _past(self, new: str) -> str:
        held = self._held + new
        found = [at for s in self._stops if (at := held.find(s)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return held[: min(found)]
        keep = max((_overlap(held, s) for s in self._stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]


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


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
