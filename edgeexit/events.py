"""A log of what an engine and its governor do, as JSON lines; off unless somebody makes one.

Every line has `event` and `at`, seconds since the log began: `start` (once), `window` (a summary of some inputs),
`move` (a step of the governor), `reading` (without one), `note` (what the program says itself).
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from edgeexit.decision import Decision
from edgeexit.engine import Engine
from edgeexit.environment import environment
from edgeexit.errors import DataError
from edgeexit.governor import Move
from edgeexit.monitor import Reading

SCHEMA = 1
MAX_EVENTS = 1_000_000
MAX_LINE = 1 << 16


class EventLog:
    """Watches an engine and writes; give `on_move` to a governor.

    Lines are flushed one by one, so that what was written survives a power cut. Both threads may write.
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
            path: of a ``.jsonl`` file; lines are added to one that is there.
            engine: watched from now on, beside who watches it already.
            every_s: seconds that a window takes; one without inputs is not written.
            clock: seconds, monotone.
        """
        self.engine, self.every_s, self.clock = engine, every_s, clock
        self._begin = clock()
        self._lock = threading.Lock()
        self._file: IO[str] = Path(path).open("a", encoding="utf-8")  # noqa: SIM115
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
        self.close()

    def write(self, event: str, **values: Any) -> None:
        """One line."""
        line = json.dumps({"event": event, "at": round(self.clock() - self._begin, 6), **_plain(values)})
        with self._lock:
            if not self._file.closed:
                self._file.write(line + "\n")
                self._file.flush()

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
        """Write the last window and let the engine go."""
        self._flush(self.clock())
        self.engine.observer = self._before
        with self._lock:
            self._file.close()

    def _see(self, decision: Decision) -> None:
        if self._before is not None:
            self._before(decision)
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
                    event = json.loads(line)
                except ValueError as e:
                    if not line.endswith("\n"):
                        break
                    raise DataError(f"{path}: line {len(found) + 1} is not JSON: {e}") from e
                if (
                    not isinstance(event, dict)
                    or not isinstance(event.get("event"), str)
                    or not _number(event.get("at"))
                ):
                    raise DataError(f"{path}: line {len(found) + 1} is no event: it needs `event` and `at`")
                found.append(event)
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{path}: cannot be read: {e}") from e
    if not found or found[0].get("event") != "start" or found[0].get("schema") != SCHEMA:
        raise DataError(f"{path}: not an event log of schema {SCHEMA}: its first line is no `start` of that schema")
    return found


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _plain(value: Any) -> Any:
    """JSON-ready: sets as lists; numbers that JSON has no word for as None."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
