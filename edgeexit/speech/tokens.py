"""The symbols of a model's classes, in the form that k2, icefall and sherpa-onnx share: ``tokens.txt``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgeexit.bundle.speech_spec import LONGEST_TOKEN, MOST_TOKENS, SpeechSpec
from edgeexit.errors import DataError

BLANKS = ("<blk>", "<eps>", "<blank>")
"""Names of the blank, the first that is there counts."""
DROPPED = ("<s>", "</s>", "SIL")
"""Names of classes that are decoded but not written."""
SPACE = "▁"
"""Begins a word (U+2581), as SentencePiece writes it."""

_MOST_BYTES = 16 << 20
_LINE = re.compile(r"\s*(?:(\S+)\s+)?([0-9]{1,9})\s*")


@dataclass(frozen=True)
class Tokens:
    """Classes and what they spell."""

    symbols: tuple[str, ...]
    blank: int
    drop: tuple[int, ...] = ()

    @classmethod
    def named(cls, symbols: Iterable[str]) -> Tokens:
        """With the blank and the classes that are not written found by their names.

        Raises:
            DataError: no blank among them.
        """
        found = tuple(symbols)
        blank = next((found.index(name) for name in BLANKS if name in found), None)
        if blank is None:
            raise DataError(f"tokens: no blank among {len(found)} symbols; one must be called {' or '.join(BLANKS)}")
        return cls(found, blank, tuple(i for i, s in enumerate(found) if s in DROPPED))

    @classmethod
    def of(cls, spec: SpeechSpec) -> Tokens:
        return cls(spec.tokens, spec.blank, spec.drop)

    @classmethod
    def read(cls, path: Path | str) -> Tokens:
        """A `tokens.txt`: per line a symbol and its class; a line with a class alone is the space.

        Raises:
            DataError: missing, not such a file, classes that are not 0 to n - 1 once each, or no blank among them.
        """
        path = Path(path)
        try:
            with path.open("rb") as stream:
                data = stream.read(_MOST_BYTES + 1)
            text = data.decode("utf-8-sig")
        except FileNotFoundError as e:
            raise DataError(f"{path}: no such file") from e
        except OSError as e:
            raise DataError(f"{path}: cannot be read: {e.strerror or e}") from e
        except UnicodeDecodeError as e:
            raise DataError(f"{path}: not a tokens file: {e.reason} at byte {e.start}; expected UTF-8") from e
        if len(data) > _MOST_BYTES:
            raise DataError(f"{path}: larger than {_MOST_BYTES} bytes; expected one symbol and one number per line")
        found: dict[int, str] = {}
        for number, line in enumerate(text.split("\n"), 1):  # splitlines() would also cut at symbols
            if not line.strip():
                continue
            match = _LINE.fullmatch(line)
            if match is None or len(match[1] or "") > LONGEST_TOKEN:
                raise DataError(f"{path}: line {number}: expected a symbol and its class, found {line!r:.60}")
            if int(match[2]) in found:
                raise DataError(f"{path}: line {number}: class {match[2]} stands twice")
            found[int(match[2])] = match[1] or " "
        if not 2 <= len(found) <= MOST_TOKENS or set(found) != set(range(len(found))):
            raise DataError(
                f"{path}: {len(found)} tokens with classes up to {max(found, default=-1)}; expected every class "
                f"from 0 once, 2 to {MOST_TOKENS} of them"
            )
        try:
            return cls.named(found[i] for i in range(len(found)))
        except DataError as e:
            raise DataError(f"{path}: {e}") from e

    def to_text(self) -> str:
        """The content of a `tokens.txt`.

        Raises:
            DataError: a symbol with white space in it, which that form cannot hold.
        """
        for i, symbol in enumerate(self.symbols):
            if symbol != " " and (not symbol or any(c.isspace() for c in symbol)):
                raise DataError(f"tokens: {symbol!r:.60} (class {i}) has white space; tokens.txt cannot hold it")
        return "".join(f"{i}\n" if s == " " else f"{s} {i}\n" for i, s in enumerate(self.symbols))

    def text(self, ids: Iterable[int]) -> str:
        """What a sequence of classes spells.

        >>> Tokens(("<blk>", "▁he", "llo", "▁you"), 0).text([1, 2, 3])
        'hello you'
        """
        dropped = {self.blank, *self.drop}
        return "".join(self.symbols[i] for i in ids if i not in dropped).replace(SPACE, " ").strip()
