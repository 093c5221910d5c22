"""Sensors that may take long (a program to start, a battery behind a slow bus), asked beside the readings."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from edgeexit.monitor.files import Seen
from edgeexit.monitor.firmware import said_by

_STALE = 5
"""Periods, or seconds where those are shorter, after which an answer no longer counts."""
_PATIENCE_SECONDS = 1.0
"""How long a reading waits for slow sensors that nobody has read for so long."""


class Sensor(Protocol):
    """One source of some fields."""

    @property
    def fields(self) -> tuple[str, ...]:
        """What it can tell."""
        ...

    @property
    def where(self) -> str:
        """Where it looks, in words."""
        ...

    def read(self, seen: Seen) -> None:
        """Put what it finds, or the problem."""
        ...


def ask_all(sensors: Sequence[Sensor], seen: Seen) -> None:
    """Every sensor's answer; one that raises is a problem of its fields and of nothing else."""
    for sensor in sensors:
        try:
            sensor.read(seen)
        except Exception as e:
            seen.problem("/".join(sensor.fields), sensor.where, said_by(e))


class Background:
    """Gives the last answers of slow sensors at once and has them asked again by a thread, at most every `seconds`.

    The thread lives for one round of questions only, so there is nothing to stop. A round that hangs is never doubled:
    its answers grow old and then count no more. Only after a pause so long that no answer counts, one is waited for.
    """

    def __init__(self, sensors: Sequence[Sensor], seconds: float, now: Callable[[], float | None]) -> None:
        self.sensors, self.seconds, self.now = sensors, seconds, now
        self._busy = threading.Lock()
        self._last: tuple[Seen, float | None] | None = None

    def read(self, seen: Seen) -> None:
        if not self.sensors:
            return
        if self.seconds == 0:
            ask_all(self.sensors, seen)
            return
        if self._last is None:
            self._ask()  # the first reading waits: it should not be without
        age = self._age()
        # A clock that jumps back makes answers look younger than they are: ask, and start counting anew.
        if age is None or not 0 <= age < self.seconds:
            round_ = self._start(seen)
            if round_ is not None and age is not None and age > self._limit:
                round_.join(_PATIENCE_SECONDS)  # nobody asked for long, so that the old answers say nothing
                age = self._age()
        last = self._last[0] if self._last is not None else Seen()
        if age is not None and age > self._limit:
            for field in last.values:
                seen.problem(field, "slow sensors", f"no answer for {age:.0f} s")
            return
        for field, value in last.values.items():
            seen.values.setdefault(field, value)
        seen.problems += last.problems

    @property
    def _limit(self) -> float:
        return max(_STALE * self.seconds, _STALE)

    def _age(self) -> float | None:
        at = self._last[1] if self._last is not None else None
        now = self.now()
        return None if now is None or at is None else now - at

    def _start(self, seen: Seen) -> threading.Thread | None:
        """Begin a round; None = the last one is not over, or no thread can be had."""
        if not self._busy.acquire(blocking=False):
            return None

        def ask() -> None:
            try:
                self._ask()
            finally:
                self._busy.release()

        thread = threading.Thread(target=ask, name="edgeexit-slow-sensors", daemon=True)
        try:
            thread.start()
        except RuntimeError as e:
            self._busy.release()
            seen.problem("/".join(f for s in self.sensors for f in s.fields), "thread", e)
            return None
        return thread

    def _ask(self) -> None:
        found = Seen()
        ask_all(self.sensors, found)
        self._last = (found, self.now())
