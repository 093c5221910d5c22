"""Event log of an engine and its governor: JSON lines in files of bounded size.

Every line has `event` and `at`, seconds since the log began: `start` (first in every file), `window` (a summary of some
inputs), `move` (a step of the governor), `reading` (of the machine, without a governor), `note` (text of the program).
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from edgeexit.common.environment import environment
from edgeexit.common.formatting import plain
from edgeexit.engine.decision import BatchDecision, Decision
from edgeexit.engine.engine import Engine
from edgeexit.errors import DataError
from edgeexit.governor import Move
from edgeexit.governor.event_files import MAX_LINE, SCHEMA, drop_half_line, part_number, rotated_parts
from edgeexit.monitor import Reading

MAX_BYTES = 16 << 20
"""Of one file of the log; a governor at four steps a second writes about 9 MB an hour."""
KEEP = 7
"""Rotated parts beside the file that is written: 128 MiB in all, about 14 hours of such a governor."""
_LEAST_BYTES = 4 * MAX_LINE


class EventLog:
    """Observes an engine and writes what happens; give `on_move` to a governor.

    Lines are flushed one by one, so that they survive the end of the process. Both threads may write. A log that can no
    longer be written (a full disk) does not stop the engine: the log ends there, and `close` raises the error.

    **Rotation.** Before a line would make the file larger than `max_bytes`, the file is synced to disk and renamed
    to the next number (``events.jsonl.000001``, ``.000002``, ...), and a new one begins with a `start` line whose `at`
    goes on. One rename is all, so that a power cut leaves either the old names or the new. Then parts beyond the newest
    `keep` are deleted. `read_events` reads all parts in order. One process writes a log at a time.
    """

    def __init__(
        self,
        path: Path | str,
        engine: Engine,
        *,
        every_s: float = 1.0,
        max_bytes: int = MAX_BYTES,
        keep: int = KEEP,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            path: of a ``.jsonl`` file; lines are appended to an existing one, after its last whole line.
            engine: observed from now on, in addition to its present observer.
            every_s: seconds per window; a window without inputs is not written.
            max_bytes: size of one file, from 256 KiB; what is not a regular file is never rotated.
            keep: rotated parts beside the newest file; 0 = none.
            clock: seconds, monotone.

        Raises:
            DataError: the file cannot be written, or a size or count outside its range.
        """
        if max_bytes < _LEAST_BYTES:
            raise DataError(f"max_bytes: expected {_LEAST_BYTES} bytes or more per file of the log, found {max_bytes}")
        if keep < 0:
            raise DataError(f"keep: expected 0 or more rotated parts of the log, found {keep}")
        self.engine, self.every_s, self.max_bytes, self.keep, self.clock = engine, every_s, max_bytes, keep, clock
        self._begin = clock()
        self._lock = threading.Lock()
        self.path = Path(path)
        self.error: OSError | None = None
        """Why lines are missing; None = all were written."""
        self._closed = False
        try:
            drop_half_line(self.path)
            self._open()
        except OSError as e:
            raise DataError(f"{path}: cannot be written: {e.strerror or e}") from e
        self._seen: list[tuple[int, float, bool, bool]] = []
        self._right: list[bool] = []
        self._window = self._begin
        self._before = engine.observer
        engine.observer = self._see
        self._start = plain({
            "schema": SCHEMA, "bundle": engine.bundle.manifest.name, "artifact": engine.artifact.name,
            "exits": engine.exits, "environment": environment(engine.backend.version(), threads=engine.threads),
        }, infinite=False)  # fmt: skip
        self.write("start", **self._start)

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.close()
        except DataError:
            if kind is None:  # an error from inside the block goes first
                raise

    def write(self, event: str, **values: Any) -> None:
        """Write one line."""
        with self._lock:
            if self._closed or self.error is not None:
                return
            at = round(self.clock() - self._begin, 6)
            line = _line(event, at, values)
            try:
                if self._size and self._size + len(line) > self.max_bytes:
                    self._rotate(at)
                self._append(line)
            except OSError as e:
                self.error = e  # a line after half a line could not be read

    def on_move(self, move: Move) -> None:
        """Write a step of the governor: for `Governor(on_move=...)`."""
        values = {f.name: getattr(move, f.name) for f in fields(move) if f.name not in ("at_seconds", "reading")}
        self.write("move", **values, reading=None if move.reading is None else move.reading.to_dict())

    def reading(self, reading: Reading) -> float | None:
        """Write a reading made without a governor; returns its temperature in °C."""
        self.write("reading", reading=reading.to_dict())
        return reading.temperature_c

    def answered(self, right: bool) -> None:
        """Count the latest decision as right or wrong, where that is known."""
        self._right.append(right)

    def close(self) -> None:
        """Write the last window and stop observing the engine.

        Raises:
            DataError: lines are missing.
        """
        if self._closed:
            return
        self._flush(self.clock())
        if self.engine.observer == self._see:  # else a later observer passes decisions on
            self.engine.observer = self._before
        with self._lock:
            self._closed = True
            try:
                self._file.close()  # which tries again to write its buffer
            except OSError as e:
                self.error = self.error or e
        if self.error is not None:
            raise DataError(f"{self.path}: the log ends early: {self.error.strerror or self.error}")

    def _open(self) -> None:
        self._file: IO[str] = self.path.open("a", encoding="utf-8", newline="\n")
        self._size: int | None = self.path.stat().st_size if self.path.is_file() else None
        """Bytes of the file; None = not a regular file."""

    def _append(self, line: str) -> None:
        self._file.write(line)
        self._file.flush()
        if self._size is not None:
            self._size += len(line)  # JSON of ASCII only

    def _rotate(self, at: float) -> None:
        """Give the full file the next number and begin a new one."""
        os.fsync(self._file.fileno())
        self._file.close()
        parts = rotated_parts(self.path)
        number = part_number(parts[-1]) + 1 if parts else 1
        parts.append(self.path.with_name(f"{self.path.name}.{number:06d}"))
        os.replace(self.path, parts[-1])
        for part in parts[: max(len(parts) - self.keep, 0)]:
            part.unlink(missing_ok=True)
        self._open()
        self._append(_line("start", at, self._start))

    def _see(self, answered: Decision | BatchDecision) -> None:
        if self._before is not None:
            self._before(answered)
        if self._closed:
            return
        now = self.clock()
        if now - self._window >= self.every_s:
            self._flush(now)
        if isinstance(answered, Decision):
            self._seen.append((answered.exit, answered.seconds, bool(answered.late), bool(answered.drifted)))
        else:
            each, drifted = answered.seconds_each, answered.drifted
            alarms = [False] * len(answered) if drifted is None else drifted.tolist()
            self._seen += [(k, each, False, alarm) for k, alarm in zip(answered.exits.tolist(), alarms, strict=True)]

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


def _line(event: str, at: float, values: Mapping[str, Any]) -> str:
    line = json.dumps({"event": event, "at": at, **plain(values, infinite=False)}, allow_nan=False)
    if len(line) >= MAX_LINE:
        line = json.dumps({"event": "note", "at": at, "text": f"{event} of {len(line)} characters left out"})
    return line + "\n"
