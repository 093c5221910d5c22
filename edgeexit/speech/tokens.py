"""Tokens: the symbols of a model's classes, in the ``tokens.txt`` format of k2, icefall and sherpa-onnx."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgeexit.bundle.speech_spec import LONGEST_TOKEN, MOST_TOKENS, SpeechSpec
from edgeexit.errors import DataError

BLANKS = ("<blk>", "<eps>", "<blank>")
"""Names of the blank; the first one present is used."""
DROPPED = ("<s>", "</s>", "SIL")
"""Names of classes that are decoded but left out of the text."""
SPACE = "▁"
"""Begins a word (U+2581), as SentencePiece writes it."""

_MOST_BYTES = 16 << 20
_LINE = re.compile(r"\s*(?:(\S+)\s+)?([0-9]{1,9})\s*")


@dataclass(frozen=True)
class Tokens:
    """Classes and their symbols."""

    symbols: tuple[str, ...]
    blank: int
    drop: tuple[int, ...] = ()

    @classmethod
    def named(cls, symbols: Iterable[str]) -> Tokens:
        """Tokens whose blank and dropped classes are identified by their names.

        Raises:
            DataError: no blank among them.
        """
        names = tuple(symbols)
        blank = next((names.index(name) for name in BLANKS if name in names), None)
        if blank is None:
            raise DataError(f"tokens: no blank among {len(names)} symbols; one must be called {' or '.join(BLANKS)}")
        return cls(names, blank, tuple(i for i, s in enumerate(names) if s in DROPPED))

    @classmethod
    def of(cls, spec: SpeechSpec) -> Tokens:
        return cls(spec.tokens, spec.blank, spec.drop)

    @classmethod
    def read(cls, path: Path | str) -> Tokens:
        """Read a `tokens.txt`: per line a symbol and its class; a line with a class alone is the space.

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
        symbols: dict[int, str] = {}
        for number, line in enumerate(text.split("\n"), 1):  # splitlines() would also cut at symbols
            if not line.strip():
                continue
            match = _LINE.fullmatch(line)
            if match is None or len(match[1] or "") > LONGEST_TOKEN:
                raise DataError(f"{path}: line {number}: expected a symbol and its class, found {line!r:.60}")
            if int(match[2]) in symbols:
                raise DataError(f"{path}: line {number}: class {match[2]} stands twice")
            symbols[int(match[2])] = match[1] or " "
        if not 2 <= len(symbols) <= MOST_TOKENS or set(symbols) != set(range(len(symbols))):
            raise DataError(
                f"{path}: {len(symbols)} tokens with classes up to {max(symbols, default=-1)}; expected every class "
                f"from 0 once, 2 to {MOST_TOKENS} of them"
            )
        try:
            return cls.named(symbols[i] for i in range(len(symbols)))
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
        """Text of a sequence of classes.

        >>> Tokens(("<blk>", "▁he", "llo", "▁you"), 0).text([1, 2, 3])
        'hello you'
        """
        dropped = {self.blank, *self.drop}
        return "".join(self.symbols[i] for i in ids if i not in dropped).replace(SPACE, " ").strip()
