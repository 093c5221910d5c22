"""A log of what an engine and its governor do, as JSON lines; off unless somebody makes one.

Every line has `event` and `at`, seconds since the log began: `start` (once), `window` (a summary of some inputs),
`move` (a step of the governor), `reading` (without one), `note` (what the program says itself).
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from edgeexit.common.environment import environment
from edgeexit.common.formatting import plain
from edgeexit.engine.decision import Decision
from edgeexit.engine.engine import Engine
from edgeexit.errors import DataError
from edgeexit.governor import Move
from edgeexit.monitor import Reading

SCHEMA = 1
MAX_EVENTS = 1_000_000
MAX_LINE = 1 << 16
_LARGEST = 1e15
_MAX_EXITS = 256


class EventLog:
    """Watches an engine and writes; give `on_move` to a governor.

    Lines are flushed one by one, so that what was written survives a power cut. Both threads may write. A log that can
    no longer be written (a full disk) stops nobody: it ends there, and `close` tells.
    """

    def __init__(
        self,
        path: Path | str,
        engine: Engine,
        *,
        every_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            path: of a ``.jsonl`` file; lines are added to one that is there, after a last one that was cut.
            engine: watched from now on, beside who watches it already.
            every_s: seconds that a window takes; one without inputs is not written.
            clock: seconds, monotone.

        Raises:
            DataError: the file cannot be written.
        """
        self.engine, self.every_s, self.clock = engine, every_s, clock
        self._begin = clock()
        self._lock = threading.Lock()
        self.path = Path(path)
        self.error: OSError | None = None
        """Why lines are missing; None = all were written."""
        try:
            _drop_half_a_line(self.path)
            self._file: IO[str] = self.path.open("a", encoding="utf-8")
        except OSError as e:
            raise DataError(f"{path}: cannot be written: {e.strerror or e}") from e
        self._seen: list[tuple[int, float, bool, bool]] = []
        self._right: list[bool] = []
        self._window = self._begin
        self._before = engine.observer
        engine.observer = self._see
        where = environment(engine.backend.version(), threads=engine.threads)
        self.write(
            "start", schema=SCHEMA, bundle=engine.bundle.manifest.name, artifact=engine.artifact.name,
            exits=engine.exits, environment=where,
        )  # fmt: skip

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.close()
        except DataError:
            if kind is None:  # what went wrong inside is told first
                raise

    def write(self, event: str, **values: Any) -> None:
        """One line."""
        at = self.clock() - self._begin
        line = json.dumps({"event": event, "at": round(at, 6), **plain(values, infinite=False)}, allow_nan=False)
        if len(line) >= MAX_LINE:
            line = json.dumps(
                {"event": "note", "at": round(at, 6), "text": f"{event} of {len(line)} characters left out"}
            )
        with self._lock:
            if not self._file.closed and self.error is None:
                try:
                    self._file.write(line + "\n")
                    self._file.flush()
                except OSError as e:
                    self.error = e  # whatever came after half a line could not be read

    def on_move(self, move: Move) -> None:
        """For `Governor(on_move=...)`."""
        values = {f.name: getattr(move, f.name) for f in fields(move) if f.name not in ("at_seconds", "reading")}
        self.write("move", **values, reading=None if move.reading is None else move.reading.to_dict())

    def reading(self, reading: Reading) -> float | None:
        """A reading without a governor; gives its temperature back."""
        self.write("reading", reading=reading.to_dict())
        return reading.temperature_c

    def answered(self, right: bool) -> None:
        """Tell whether the latest decision was right, where that is known."""
        self._right.append(right)

    def close(self) -> None:
        """Write the last window and let the engine go.

        Raises:
            DataError: lines are missing.
        """
        if self._file.closed:
            return
        self._flush(self.clock())
        if self.engine.observer == self._see:  # else who came later passes decisions on
            self.engine.observer = self._before
        with self._lock:
            try:
                self._file.close()  # which tries again to write what it holds
            except OSError as e:
                self.error = self.error or e
        if self.error is not None:
            raise DataError(f"{self.path}: the log ends early: {self.error.strerror or self.error}")

    def _see(self, decision: Decision) -> None:
        if self._before is not None:
            self._before(decision)
        if self._file.closed:
            return
        now = self.clock()
        if now - self._window >= self.every_s:
            self._flush(now)
        self._seen.append((decision.exit, decision.seconds, bool(decision.late), bool(decision.drifted)))

    def _flush(self, now: float) -> None:
        seen, self._seen = self._seen, []
        right, self._right = self._right, []
        self._window = now
        if not seen:
            return
        exits, seconds, late, drifted = (np.array(column) for column in zip(*seen, strict=True))
        p50, p90, p99 = np.quantile(seconds, (0.5, 0.9, 0.99))
        self.write(
            "window", n=len(seen), exits=np.bincount(exits, minlength=self.engine.exits).tolist(), p50_s=float(p50),
            p90_s=float(p90), p99_s=float(p99), missed=int(late.sum()), drifted=int(drifted.sum()),
            slowdown=self.engine.slowdown, accuracy=float(np.mean(right)) if right else None,
        )  # fmt: skip


def read_events(path: Path | str) -> list[dict[str, Any]]:
    """The lines of a log; a last line that a power cut left half-written is left out.

    Raises:
        DataError: not such a log, or too large.
    """
    path = Path(path)
    found: list[dict[str, Any]] = []
    try:
        with path.open(encoding="utf-8") as stream:
            while line := stream.readline(MAX_LINE + 1):
                if len(line) > MAX_LINE or len(found) >= MAX_EVENTS:
                    raise DataError(
                        f"{path}: a line of more than {MAX_LINE} characters, or more than {MAX_EVENTS} lines"
                    )
                try:
                    event = json.loads(line, parse_int=_whole, parse_float=_bounded, parse_constant=_bounded)
                except (ValueError, RecursionError) as e:
                    if not line.endswith("\n"):
                        break
                    raise DataError(f"{path}: line {len(found) + 1} is not JSON: {e}") from e
                if (
                    not isinstance(event, dict)
                    or not isinstance(event.get("event"), str)
                    or not _number(event.get("at"))
                ):
                    raise DataError(f"{path}: line {len(found) + 1} is no event: it needs `event` and `at`")
                if (why := _wrong(event)) is not None:
                    raise DataError(f"{path}: line {len(found) + 1}: {why}")
                found.append(event)
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{path}: cannot be read: {e}") from e
    if not found or found[0].get("event") != "start" or found[0].get("schema") != SCHEMA:
        raise DataError(f"{path}: not an event log of schema {SCHEMA}: its first line is no `start` of that schema")
    return found


def _drop_half_a_line(path: Path) -> None:
    """Cut a log behind its last whole line, so that what is added stands on lines of its own."""
    if not path.is_file():
        return
    with path.open("r+b") as stream:
        size = stream.seek(0, 2)
        tail = stream.seek(max(size - MAX_LINE - 1, 0))
        found = stream.read()
        if found and not found.endswith(b"\n"):
            stream.truncate(tail + found.rfind(b"\n") + 1)


def _whole(word: str) -> int:
    _bounded(word)
    return int(word)


def _bounded(word: str) -> float:
    if not abs(found := float(word)) <= _LARGEST:
        raise ValueError(f"the number {word:.20} is none, or too large")
    return found


def _wrong(event: dict[str, Any]) -> str | None:
    """What keeps a line from being summed up or drawn; None = nothing."""
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
