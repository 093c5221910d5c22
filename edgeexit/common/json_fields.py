"""Fields of JSON objects that may be hostile: each must be there, of its type and within bounds.

Whatever is not raises BundleError, which names its place (`at`), what was expected and what was found.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from edgeexit.errors import BundleError

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

T = TypeVar("T")


class Reader:
    """A JSON object whose fields are taken one by one; what is asked for must be there and of its type."""

    def __init__(self, data: Any, at: str) -> None:
        if not isinstance(data, dict):
            raise BundleError(f"{at}: expected an object, found {type(data).__name__}")
        self.data, self.at = data, at

    def fail(self, key: str, expected: str) -> BundleError:
        """What to raise where a field is not as expected."""
        found = repr(self.data.get(key, "nothing"))
        return BundleError(f"{self.at}.{key}: expected {expected}, found {found[:60]}")

    def text(self, key: str, pattern: re.Pattern[str] | None = None, among: Collection[str] = ()) -> str:
        """Printable text that matches all of a pattern, or is one of a few."""
        value = text(self.data.get(key), f"{self.at}.{key}")
        if pattern is not None and not pattern.fullmatch(value):
            raise self.fail(key, "letters, digits, '.', '_' and '-', confined to the bundle")
        if among and value not in among:
            raise self.fail(key, f"one of {', '.join(among)}")
        return value

    def count(self, key: str, most: int = 1 << 62) -> int:
        """A whole number from 0 to `most`."""
        value = self.data.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise self.fail(key, f"a whole number from 0 to {most}")
        return value

    def count_or_none(self, key: str) -> int | None:
        """A count, or null where it is unknown; the field must be there."""
        if key in self.data and self.data[key] is None:
            return None
        return self.count(key)

    def optional(self, key: str, read: Callable[[Any, str], T]) -> T | None:
        """What `read` makes of a field; None where it is absent or null."""
        value = self.data.get(key)
        return None if value is None else read(value, f"{self.at}.{key}")

    def list(self, key: str, read: Callable[[Any, str], T], least: int = 0, most: int = 4096) -> tuple[T, ...]:
        """What `read` makes of each of `least` to `most` values."""
        value = self.data.get(key)
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise self.fail(key, f"a list of {least} to {most}")
        return tuple(read(v, f"{self.at}.{key}[{i}]") for i, v in enumerate(value))


def check_fields(data: Any, known: Sequence[str], at: str, optional: Sequence[str] = ()) -> None:
    """Refuse what is no object of exactly these fields: one that is not known might change what the others mean.

    Raises:
        BundleError: another type, a field that is not known, or one that is missing and not `optional`.
    """
    if not isinstance(data, Mapping):
        raise BundleError(f"{at}: expected an object, found {type(data).__name__}")
    if strange := [k for k in data if k not in known]:
        raise BundleError(f"{at}: {strange[0]!r:.60} is no field this version knows; known: {', '.join(known)}")
    if lacking := [k for k in known if k not in data and k not in optional]:
        raise BundleError(f"{at}: {lacking[0]!r} is missing")


def number(value: Any, at: str) -> float:
    """A number that a float holds."""
    # abs() and not isfinite(): JSON has whole numbers that no float can hold
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise BundleError(f"{at}: expected a number, found {value!r:.60}")
    return float(value)


def positive(value: Any, at: str) -> float:
    """A number above 0."""
    if (found := number(value, at)) <= 0:
        raise BundleError(f"{at}: expected a positive number, found {value!r:.60}")
    return found


def not_negative(value: Any, at: str) -> float:
    """A number of at least 0."""
    if (found := number(value, at)) < 0:
        raise BundleError(f"{at}: expected a number of at least 0, found {value!r:.60}")
    return found


def text(value: Any, at: str) -> str:
    """1 to 512 printable characters."""
    if not isinstance(value, str) or not 0 < len(value) <= 512 or _UNPRINTABLE.search(value):
        raise BundleError(f"{at}: expected text of 1 to 512 printable characters, found {value!r:.60}")
    return value
