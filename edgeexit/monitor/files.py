"""Safe reading of small files of /sys and /proc: bounded, never blocking, ASCII."""

from __future__ import annotations

import itertools
import os
import re
from typing import Any

from edgeexit.monitor.ranges import scaled
from edgeexit.monitor.reading import Reading, implausible

MAX_BYTES = 4096
MAX_LISTED = 256
_WHOLE = re.compile(r"[+-]?[0-9]{1,20}")
_DECIMAL = re.compile(r"[0-9]{1,19}(\.[0-9]{1,19})?")


def read(path: str, limit: int = MAX_BYTES) -> str:
    """The first `limit` bytes of a file.

    Raises:
        OSError: it cannot be read. A pipe without a writer reads as empty: opening one would block.
    """
    stream = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        return os.read(stream, limit).decode("ascii", "replace")
    finally:
        os.close(stream)


def text(path: str) -> str | None:
    """The first line of a file, at most 64 characters of it; None = unreadable or empty."""
    try:
        return read(path).strip("\0 \n").partition("\n")[0][:64].strip() or None
    except (OSError, ValueError):
        return None


def listed(folder: str) -> list[str]:
    """Names in a folder, numbers in order (zone2 before zone10); empty where there is none. At most 256."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in itertools.islice(entries, MAX_LISTED)]
    except (OSError, ValueError):
        return []
    return sorted(names, key=lambda n: [p.zfill(9) if p.isdigit() else p for p in re.split(r"([0-9]+)", n[:80])])


def whole(digits: str) -> int:
    """A whole number.

    Raises:
        ValueError: anything else.
    """
    if not _WHOLE.fullmatch(digits := digits.strip()):
        raise ValueError(f"expected a number, found {digits[:24]!r}")
    return int(digits)


def decimal(digits: str) -> float:
    """A number such as 12.5, not negative.

    Raises:
        ValueError: anything else.
    """
    if not _DECIMAL.fullmatch(digits := digits.strip()):
        raise ValueError(f"expected a number, found {digits[:24]!r}")
    return float(digits)


class ReadingBuilder:
    """Collects one reading: of each field the first plausible value, and all problems."""

    __slots__ = ("problems", "values")

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.problems: list[str] = []

    def put(self, field: str, value: object, source: str) -> None:
        """Store a value if it is plausible; else a problem that names the sensor."""
        if (why := implausible(field, value)) is not None:
            self.problem(field, source, why)
        elif field not in self.values:
            self.values[field] = value

    def problem(self, field: str, source: str, why: object) -> None:
        if isinstance(why, OSError):
            why = why.strerror or why
        self.problems.append(f"{field}: {source}: {why}")

    def number(self, field: str, path: str, source: str) -> int | None:
        """The whole number in a file; None and a problem if there is none."""
        try:
            return whole(read(path, 64))
        except (OSError, ValueError) as e:
            self.problem(field, source, e)
            return None

    def quantity(self, name: str, field: str, path: str, source: str) -> float | None:
        """A file's number in the unit of `ranges.RANGES[name]`; None and a problem if it is missing or implausible."""
        try:
            return scaled(name, whole(read(path, 64)))
        except (OSError, ValueError) as e:
            self.problem(field, source, e)
            return None

    def reading(self, at_seconds: float | None) -> Reading:
        return Reading(at_seconds=at_seconds, **self.values, problems=tuple(self.problems))
