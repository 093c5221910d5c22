"""Sensors in order of preference, and a background thread for slow ones.

Slow are programs that must be started and batteries behind a slow bus.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from edgeexit.monitor.files import ReadingBuilder
from edgeexit.monitor.firmware import error_text

_STALE = 5
"""Periods (at least so many seconds) after which an answer is too old to be used."""
_PATIENCE_SECONDS = 1.0
"""How long a reading waits for slow sensors whose answers are all too old."""


class Sensor(Protocol):
    """One source of some fields."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields that it may provide."""
        ...

    @property
    def where(self) -> str:
        """Its source, in words."""
        ...

    def read(self, builder: ReadingBuilder) -> None:
        """Store values, or the problem."""
        ...


def needed(sensor: Sensor, builder: ReadingBuilder) -> bool:
    """Whether some field of the sensor is still unknown: a source is read only where earlier ones failed."""
    return any(field not in builder.values for field in sensor.fields)


def ask_all(sensors: Sequence[Sensor], builder: ReadingBuilder) -> None:
    """Read every sensor, preferred ones first; an exception becomes a problem of that sensor's fields."""
    for sensor in sensors:
        if needed(sensor, builder):
            ask(sensor, builder)


def ask(sensor: Sensor, builder: ReadingBuilder) -> None:
    try:
        sensor.read(builder)
    except Exception as e:
        builder.problem("/".join(sensor.fields), sensor.where, error_text(e))


class Background:
    """Returns the last answers of slow sensors at once; a thread refreshes them, at most every `seconds`.

    The thread ends after one round of questions, so there is nothing to stop. While a round hangs, no second one
    starts, and its answers become too old to be used. A reading waits for a round only where all answers are too old.
    A sensor whose fields are all known from faster ones is not asked.
    """

    def __init__(self, sensors: Sequence[Sensor], seconds: float, now: Callable[[], float | None]) -> None:
        self.sensors, self.seconds, self.now = sensors, seconds, now
        self._busy = threading.Lock()
        self._answers: dict[int, tuple[ReadingBuilder, float | None]] = {}
        """Index of a sensor -> its last answer, and when it was given."""

    def read(self, builder: ReadingBuilder) -> None:
        wanted = [i for i, sensor in enumerate(self.sensors) if needed(sensor, builder)]
        if self.seconds == 0:
            ask_all([self.sensors[i] for i in wanted], builder)
            return
        due = [i for i in wanted if not self._fresh(i)]
        if due:
            round_ = self._start(due, builder)
            if round_ is not None and any(self._expired(i) for i in due):
                round_.join(_PATIENCE_SECONDS)  # no answer is recent enough
        for i in wanted:
            self._give(i, builder)

    def prime(self, builder: ReadingBuilder) -> None:
        """Ask once and wait, so that the first reading has answers."""
        self._ask([i for i, sensor in enumerate(self.sensors) if needed(sensor, builder)])

    def _give(self, i: int, builder: ReadingBuilder) -> None:
        """Store a sensor's last answer, unless it is too old."""
        if i not in self._answers:
            builder.problem("/".join(self.sensors[i].fields), self.sensors[i].where, "no answer yet")
            return
        answer, _ = self._answers[i]
        if self._expired(i):
            for field in answer.values:
                builder.problem(field, "slow sensors", f"no answer for {self._age(i):.0f} s")
            return
        for field, value in answer.values.items():
            builder.values.setdefault(field, value)
        builder.problems += answer.problems

    def _age(self, i: int) -> float | None:
        at = self._answers[i][1] if i in self._answers else None
        now = self.now()
        return None if now is None or at is None else now - at

    def _fresh(self, i: int) -> bool:
        # A clock that jumps back makes answers look younger than they are: ask again.
        age = self._age(i)
        return age is not None and 0 <= age < self.seconds

    def _expired(self, i: int) -> bool:
        """No answer, or one that is too old; without a clock the last answer is used."""
        age = self._age(i)
        return i not in self._answers or (age is not None and age > max(_STALE * self.seconds, _STALE))

    def _start(self, due: Sequence[int], builder: ReadingBuilder) -> threading.Thread | None:
        """Start a round; None = the last one is still running, or no thread can be started."""
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
            builder.problem("/".join(f for i in due for f in self.sensors[i].fields), "thread", e)
            return None
        return thread

    def _ask(self, due: Sequence[int]) -> None:
        for i in due:
            answer = ReadingBuilder()
            ask(self.sensors[i], answer)
            self._answers[i] = answer, self.now()
