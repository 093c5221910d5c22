"""Sensors asked in order of preference, and those that may take long (a program to start, a battery behind a slow bus)
asked beside the readings."""

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


def needed(sensor: Sensor, seen: Seen) -> bool:
    """Whether some field of the sensor is unknown so far: a later source is not read where an earlier one answered."""
    return any(field not in seen.values for field in sensor.fields)


def ask_all(sensors: Sequence[Sensor], seen: Seen) -> None:
    """Every sensor's answer, the preferred first; one that raises is a problem of its fields and of nothing else."""
    for sensor in sensors:
        if needed(sensor, seen):
            ask(sensor, seen)


def ask(sensor: Sensor, seen: Seen) -> None:
    try:
        sensor.read(seen)
    except Exception as e:
        seen.problem("/".join(sensor.fields), sensor.where, said_by(e))


class Background:
    """Gives the last answers of slow sensors at once and has them asked again by a thread, at most every `seconds`.

    The thread lives for one round of questions only, so there is nothing to stop. A round that hangs is never doubled:
    its answers grow old and then count no more. Only after a pause so long that no answer counts, one is waited for.
    A sensor whose fields are all known from faster ones is not asked.
    """

    def __init__(self, sensors: Sequence[Sensor], seconds: float, now: Callable[[], float | None]) -> None:
        self.sensors, self.seconds, self.now = sensors, seconds, now
        self._busy = threading.Lock()
        self._answers: dict[int, tuple[Seen, float | None]] = {}
        """Place of a sensor -> its last answer, and when."""

    def read(self, seen: Seen) -> None:
        wanted = [i for i, sensor in enumerate(self.sensors) if needed(sensor, seen)]
        if self.seconds == 0:
            ask_all([self.sensors[i] for i in wanted], seen)
            return
        due = [i for i in wanted if not self._fresh(i)]
        if due:
            round_ = self._start(due, seen)
            if round_ is not None and any(self._expired(i) for i in due):
                round_.join(_PATIENCE_SECONDS)  # nobody asked for long or at all, so that no answer counts
        for i in wanted:
            self._give(i, seen)

    def prime(self, seen: Seen) -> None:
        """Ask once and wait, before the first reading: it should not be without."""
        self._ask([i for i, sensor in enumerate(self.sensors) if needed(sensor, seen)])

    def _give(self, i: int, seen: Seen) -> None:
        """Put a sensor's last answer, unless it is too old to count."""
        if i not in self._answers:
            seen.problem("/".join(self.sensors[i].fields), self.sensors[i].where, "no answer yet")
            return
        answer, _ = self._answers[i]
        if self._expired(i):
            for field in answer.values:
                seen.problem(field, "slow sensors", f"no answer for {self._age(i):.0f} s")
            return
        for field, value in answer.values.items():
            seen.values.setdefault(field, value)
        seen.problems += answer.problems

    def _age(self, i: int) -> float | None:
        at = self._answers[i][1] if i in self._answers else None
        now = self.now()
        return None if now is None or at is None else now - at

    def _fresh(self, i: int) -> bool:
        # A clock that jumps back makes answers look younger than they are: ask, and start counting anew.
        age = self._age(i)
        return age is not None and 0 <= age < self.seconds

    def _expired(self, i: int) -> bool:
        """Never answered, or too long ago. Without a clock that is not known, and the last answer stands."""
        age = self._age(i)
        return i not in self._answers or (age is not None and age > max(_STALE * self.seconds, _STALE))

    def _start(self, due: Sequence[int], seen: Seen) -> threading.Thread | None:
        """Begin a round; None = the last one is not over, or no thread can be had."""
        if not self._busy.acquire(blocking=False):
            return None

        def work() -> None:
            try:
                self._ask(due)
            finally:
                self._busy.release()

        thread = threading.Thread(target=work, name="edgeexit-slow-sensors", daemon=True)
        try:
            thread.start()
        except RuntimeError as e:
            self._busy.release()
            seen.problem("/".join(f for i in due for f in self.sensors[i].fields), "thread", e)
            return None
        return thread

    def _ask(self, due: Sequence[int]) -> None:
        for i in due:
            answer = Seen()
            ask(self.sensors[i], answer)
            self._answers[i] = answer, self.now()
