"""Kinds of JSON values: what a field of a record may hold, with strict reading from untrusted files."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any

MOST_TEXT = 512
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Misfit(Exception):
    """A value that its kind refuses; the place is completed from the inside out."""

    def __init__(self, text: str, place: str = "") -> None:
        super().__init__(text)
        self.text, self.place = text, place

    def within(self, step: str) -> Misfit:
        """The same, one level further out."""
        self.place = step + self.place
        return self


class Kind:
    """What a value may be. Kinds of single values annotate fields: ``Annotated[int, Whole(1, 8)]``."""

    @property
    def is_plain(self) -> bool:
        """Whether the Python value and the JSON value are the same."""
        return True

    @property
    def expected(self) -> str:
        """What a value should be, for error messages."""
        raise NotImplementedError

    def read(self, value: Any) -> Any:
        """The Python value of a JSON value; a Python value that is right already comes back equal.

        Raises:
            Misfit: it is of another kind.
        """
        raise NotImplementedError

    def write(self, value: Any) -> Any:
        """The JSON value of a Python value."""
        return value

    def misfit(self, value: Any) -> Misfit:
        return Misfit(f"expected {self.expected}, found {value!r:.60}")


class String(Kind):
    """Printable text: no control characters, no halves of surrogate pairs."""

    def __init__(self, most: int = MOST_TEXT) -> None:
        self.most = most

    @property
    def expected(self) -> str:
        return f"text of 1 to {self.most} printable characters"

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= self.most or _UNPRINTABLE.search(value):
            raise self.misfit(value)
        return value


class Matching(Kind):
    """Text of at most 512 characters that matches a whole pattern."""

    def __init__(self, pattern: str, expected: str) -> None:
        self.pattern, self._expected = pattern, expected

    @property
    def expected(self) -> str:
        return self._expected

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or len(value) > MOST_TEXT or not re.fullmatch(self.pattern, value):
            raise self.misfit(value)
        return value


class OneOf(Kind):
    """One of a few values of one type."""

    def __init__(self, *options: Any) -> None:
        self.options = options

    @property
    def expected(self) -> str:
        return f"{'one of ' if len(self.options) > 1 else ''}{', '.join(map(str, self.options))}"

    def read(self, value: Any) -> Any:
        if type(value) is not type(self.options[0]) or value not in self.options:
            raise self.misfit(value)
        return value


class RowOf(OneOf):
    """Name of a row of a table, which may also come from another distribution."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        super().__init__(*table)
        self.table = table

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or len(value) > MOST_TEXT or value not in self.table:
            raise self.misfit(value)
        return value


class Whole(Kind):
    """A whole number within bounds."""

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most

    @property
    def expected(self) -> str:
        return f"a whole number from {self.least} to {self.most}"

    def read(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not self.least <= value <= self.most:
            raise self.misfit(value)
        return value


class Number(Kind):
    """A number that a float holds, within bounds; None = no bound."""

    def __init__(self, least: float | None = None, most: float | None = None, *, positive: bool = False) -> None:
        self.least, self.most, self.positive = least, most, positive

    @property
    def expected(self) -> str:
        if self.positive:
            return "a positive number" + ("" if self.most is None else f" of at most {self.most:g}")
        if self.most is not None:
            return f"a number from {self.least:g} to {self.most:g}"
        return "a number" + ("" if self.least is None else f" of at least {self.least:g}")

    def read(self, value: Any) -> float:
        # abs() and not isfinite(): JSON has whole numbers that no float can hold
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            raise self.misfit(value)
        least, most = self.least, self.most
        if (least is not None and value < least) or (most is not None and value > most):
            raise self.misfit(value)
        if self.positive and value <= 0:
            raise self.misfit(value)
        return float(value)


class Flag(Kind):
    """True or false."""

    @property
    def expected(self) -> str:
        return "true or false"

    def read(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise self.misfit(value)
        return value


class AxisSize(Kind):
    """Size of a tensor's axis: a whole number, or the name of a free axis."""

    def __init__(self, size: Whole, name: String) -> None:
        self.size, self.name = size, name

    @property
    def expected(self) -> str:
        return "a size from 0 to 2^40 or the name of a free axis"

    def read(self, value: Any) -> int | str:
        try:
            return self.name.read(value) if isinstance(value, str) else self.size.read(value)
        except Misfit:
            raise self.misfit(value) from None


class Free(Kind):
    """An object with whatever JSON the document's limits allow."""

    @property
    def expected(self) -> str:
        return "an object"

    def read(self, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise Misfit(f"expected an object, found {type(value).__name__}")
        return value

    def write(self, value: Any) -> dict[str, Any]:
        return dict(value)


class Nullable(Kind):
    """A value of a kind, or null."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    @property
    def is_plain(self) -> bool:
        return self.kind.is_plain

    @property
    def expected(self) -> str:
        return f"{self.kind.expected}, or null"

    def read(self, value: Any) -> Any:
        return None if value is None else self.kind.read(value)

    def write(self, value: Any) -> Any:
        return None if value is None else self.kind.write(value)


class ListOf(Kind):
    """A list of values of one kind; a tuple in Python."""

    def __init__(self, item: Kind, least: int, most: int, unique: bool = False, rising: bool = False) -> None:
        self.item, self.least, self.most = item, least, most
        self.unique, self.rising = unique, rising

    @property
    def is_plain(self) -> bool:
        return False

    @property
    def expected(self) -> str:
        return f"a list of {_span(self.least, self.most)}"

    def read(self, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or not self.least <= len(value) <= self.most:
            raise self.misfit(value)
        read, items = self.item.read, []
        try:
            for item in value:
                items.append(read(item))
        except Misfit as e:
            raise e.within(f"[{len(items)}]") from None
        if self.rising and not all(a < b for a, b in itertools.pairwise(items)):
            raise Misfit(f"expected rising numbers, found {value!r:.60}")
        if self.unique and len(set(items)) != len(items):
            raise Misfit(f"expected no value twice, found {value!r:.60}")
        return tuple(items)

    def write(self, value: Any) -> list[Any]:
        return list(value) if self.item.is_plain else [self.item.write(v) for v in value]


class MapOf(Kind):
    """An object of `least` to `most` values of one kind, whose keys are of one kind, too."""

    def __init__(self, key: Kind, value: Kind, least: int, most: int) -> None:
        self.key, self.value, self.least, self.most = key, value, least, most

    @property
    def is_plain(self) -> bool:
        return False

    @property
    def expected(self) -> str:
        return "an object"

    def read(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise Misfit(f"expected an object, found {type(value).__name__}")
        if not self.least <= len(value) <= self.most:
            raise Misfit(f"expected {_span(self.least, self.most)} name{'s' * (self.most > 1)}, found {len(value)}")
        items = {}
        for key, v in value.items():
            name = self.key.read(key)
            try:
                items[name] = self.value.read(v)
            except Misfit as e:
                raise e.within(f".{name:.60}") from None
        return items

    def write(self, value: Any) -> dict[str, Any]:
        return {name: self.value.write(v) for name, v in value.items()}


NAME_PATTERN = "[A-Za-z0-9_][A-Za-z0-9._-]*"
_TEXT = String()
Text = Annotated[str, _TEXT]
Name = Annotated[str, Matching(NAME_PATTERN, "a name of letters, digits, '.', '_' and '-'")]
Count = Annotated[int, Whole(0, 1 << 62)]
Axis = Annotated[int | str, AxisSize(Whole(0, 1 << 40), _TEXT)]


def _span(least: int, most: int) -> str:
    return f"{least} to {most}" if most != least else f"{least}"
