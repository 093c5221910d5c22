"""Event log files: the parts of a log in order, and their lines, checked."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgeexit.errors import DataError

SCHEMA = 2
MAX_EVENTS = 1_000_000
MAX_LINE = 1 << 16
_SCHEMAS = (1, SCHEMA)
_RENAMED = {"because": "limiting_signal", "wish": "target"}
"""Fields of a `move` in schema 1 -> their names now."""
_LARGEST = 1e15
_MAX_EXITS = 256
_ATTEMPTS = 5
"""To read a log that is rotated meanwhile."""


def rotated_parts(path: Path | str) -> list[Path]:
    """The earlier parts of a log, oldest first: ``events.jsonl.000001``, ``events.jsonl.000002``, ..."""
    path = Path(path)
    numbered = re.compile(re.escape(path.name) + r"\.([0-9]{6,})")
    try:
        numbers = {int(m[1]): p for p in path.parent.iterdir() if (m := numbered.fullmatch(p.name))}
    except OSError:  # no such folder: then the log itself is reported as missing
        return []
    return [numbers[n] for n in sorted(numbers)]


def part_number(part: Path) -> int:
    """The number of a rotated part."""
    return int(part.suffix[1:])


def read_events(path: Path | str) -> list[dict[str, Any]]:
    """Read the lines of a log, those of its rotated parts first.

    A last line without its end, as a power cut leaves it, is skipped. Logs of schema 1 get the field names of today.

    Args:
        path: the log's newest file, as `EventLog` was given it; a rotated part by its own name is read alone.

    Raises:
        DataError: not such a log, too large, or with a part missing between two others.
    """
    path = Path(path)
    for _ in range(_ATTEMPTS):
        parts = rotated_parts(path)
        try:
            events = _read_parts(path, parts)
        except DataError:
            if rotated_parts(path) == parts:
                raise
            continue
        if rotated_parts(path) == parts:
            return events
    raise DataError(f"{path}: the log was rotated {_ATTEMPTS} times while it was read; read it again")


def _read_parts(path: Path, parts: list[Path]) -> list[dict[str, Any]]:
    for before, after in pairwise(parts):
        if part_number(after) != part_number(before) + 1:
            raise DataError(
                f"{path}: part {part_number(before) + 1} of the log is missing, expected it between {before.name} and "
                f"{after.name}; restore it, or delete the parts before it"
            )
    events: list[dict[str, Any]] = []
    for part in parts:
        _read_file(part, events)
    if not parts or path.exists():  # a power cut may come between the rotation and the new file's first line
        _read_file(path, events, may_be_empty=bool(parts))
    return events


def _read_file(path: Path, events: list[dict[str, Any]], may_be_empty: bool = False) -> None:
    """Append the lines of one file."""
    first = len(events)
    try:
        with path.open(encoding="utf-8") as stream:
            while line := stream.readline(MAX_LINE + 1):
                if len(line) > MAX_LINE or len(events) >= MAX_EVENTS:
                    raise DataError(
                        f"{path}: a line of more than {MAX_LINE} characters, or more than {MAX_EVENTS} lines"
                    )
                number = len(events) - first + 1
                try:
                    event = json.loads(line, parse_int=_whole, parse_float=_bounded, parse_constant=_bounded)
                except (ValueError, RecursionError) as e:
                    if not line.endswith("\n"):
                        break
                    raise DataError(f"{path}: line {number} is not JSON: {e}") from e
                if (
                    not isinstance(event, dict)
                    or not isinstance(event.get("event"), str)
                    or not _number(event.get("at"))
                ):
                    raise DataError(f"{path}: line {number} is no event: it needs `event` and `at`")
                if (problem := _problem(event)) is not None:
                    raise DataError(f"{path}: line {number}: {problem}")
                events.append(_renamed(event))
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{path}: cannot be read: {e}") from e
    if len(events) == first and may_be_empty:
        return
    if len(events) == first or events[first]["event"] != "start" or events[first].get("schema") not in _SCHEMAS:
        raise DataError(
            f"{path}: not an event log of schema {' or '.join(map(str, _SCHEMAS))}: "
            "its first line is no `start` of that schema"
        )


def drop_half_line(path: Path) -> None:
    """Cut a log behind its last whole line, so that appended lines stand on their own."""
    if not path.is_file():
        return
    with path.open("r+b") as stream:
        size = stream.seek(0, 2)
        tail = stream.seek(max(size - MAX_LINE - 1, 0))
        data = stream.read()
        if data and not data.endswith(b"\n"):
            stream.truncate(tail + data.rfind(b"\n") + 1)


def _renamed(event: dict[str, Any]) -> dict[str, Any]:
    if event["event"] != "move":
        return event
    return {_RENAMED.get(name, name): value for name, value in event.items()}


def _whole(word: str) -> int:
    _bounded(word)
    return int(word)


def _bounded(word: str) -> float:
    if not abs(value := float(word)) <= _LARGEST:
        raise ValueError(f"the number {word:.20} is none, or too large")
    return value


def _problem(event: dict[str, Any]) -> str | None:
    """Why a line cannot be summed up or drawn; None = it can."""
    if event["event"] == "start" and not isinstance(event.get("environment", {}), dict):
        return "the environment is an object"
    if event["event"] != "window":
        return None
    exits = event.get("exits", [])
    counts = [event.get("n", 0), event.get("missed", 0), *(exits if isinstance(exits, list) else [None])]
    if not all(isinstance(c, int) and not isinstance(c, bool) and c >= 0 for c in counts) or len(counts) > _MAX_EXITS:
        return f"n, missed and exits (at most {_MAX_EXITS}) of a window are whole numbers from 0, found {counts!s:.60}"
    return None


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
