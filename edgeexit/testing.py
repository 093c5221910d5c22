"""Fakes for tests of code that uses EdgeExit; its own tests use them too.

::

    clock = FakeClock()
    seconds = {"stage_0.onnx": 0.1, "stage_1.onnx": 0.5, "stage_2.onnx": 0.5}
    engine = Engine(bundle, artifact, PacedBackend(backends.get("onnx"), clock, seconds), policy, clock=clock)
    engine.run(x, deadline_s=0.2)  # answers at exit 0: stage 1 would take half a second
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgeexit.engine.backends import Backend, Runnable
from edgeexit.monitor import Reading

__all__ = ["FakeClock", "FakeReader", "PacedBackend", "ThermalBoard"]


class FakeClock:
    """A clock that moves only by `advance`; call it for the time in seconds."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the clock forward.

        Raises:
            ValueError: negative seconds, or NaN.
        """
        if not seconds >= 0:
            raise ValueError(f"time moves forward, found {seconds} seconds")
        self.now += seconds


class FakeReader:
    """A monitor that returns given readings in order, then the last one again; exceptions among them are raised."""

    def __init__(self, *readings: Reading | Exception) -> None:
        """
        Raises:
            ValueError: no readings.
        """
        if not readings:
            raise ValueError("a FakeReader needs at least one reading")
        self.readings = list(readings)
        self.count = 0
        """Number of reads."""

    def read(self) -> Reading:
        reading = self.readings[min(self.count, len(self.readings) - 1)]
        self.count += 1
        if isinstance(reading, Exception):
            raise reading
        return reading


class PacedBackend:
    """An engine whose model files take set times on a `FakeClock`."""

    def __init__(self, inner: Backend, clock: FakeClock, seconds: Mapping[str, float]) -> None:
        """
        Args:
            inner: computes the answers.
            clock: advanced at every run.
            seconds: by file name, such as ``stage_0.onnx``; other files take no time. May be changed later.
        """
        self.inner, self.clock, self.seconds = inner, clock, seconds
        self.ran: list[str] = []
        """Names of the files that ran, in order."""

    def check(self) -> str | None:
        return self.inner.check()

    def version(self) -> str:
        return self.inner.version()

    def load(self, path: Path, threads: int) -> Sequence[Runnable]:
        return [_Paced(m, path.name, self) for m in self.inner.load(path, threads)]


class _Paced:
    def __init__(self, inner: Runnable, name: str, backend: PacedBackend) -> None:
        self.inner, self.name, self.backend = inner, name, backend
        self.inputs, self.outputs = inner.inputs, inner.outputs

    def run(self, values: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        self.backend.ran.append(self.name)
        self.backend.clock.advance(self.backend.seconds.get(self.name, 0.0))
        return self.inner.run(values)


class ThermalBoard:
    """A board that warms up when it computes and slows down when it is hot: one resistance, one capacity (RC).

    The temperature moves towards ``ambient + resistance * power`` with a time constant; above `limit_c` the frequency
    falls linearly to `slowest` at `hard_c`. The defaults have the order of magnitude of a Pi 4 in a closed case; they
    were not fitted to one.
    """

    def __init__(
        self,
        clock: FakeClock,
        *,
        ambient_c: float = 35.0,
        resistance_c_per_w: float = 8.0,
        constant_s: float = 90.0,
        idle_w: float = 2.5,
        busy_w: float = 7.0,
        limit_c: float = 80.0,
        hard_c: float = 85.0,
        slowest: float = 0.4,
    ) -> None:
        self.clock, self.ambient_c, self.resistance_c_per_w = clock, ambient_c, resistance_c_per_w
        self.constant_s, self.idle_w, self.busy_w = constant_s, idle_w, busy_w
        self.limit_c, self.hard_c, self.slowest = limit_c, hard_c, slowest
        self.temperature_c = ambient_c + resistance_c_per_w * idle_w
        self.power_w = idle_w
        self.hottest_c = self.temperature_c

    @property
    def frequency_ratio(self) -> float:
        """Frequency as a fraction of the highest."""
        over = (self.temperature_c - self.limit_c) / (self.hard_c - self.limit_c)
        return max(1 - (1 - self.slowest) * min(max(over, 0.0), 1.0), self.slowest)

    def spend(self, busy_s: float, idle_s: float) -> None:
        """Warm or cool the board over seconds of computing and idling, at their mean power."""
        seconds = busy_s + idle_s
        if seconds <= 0:
            return
        self.power_w = (busy_s * self.busy_w + idle_s * self.idle_w) / seconds
        target = self.ambient_c + self.resistance_c_per_w * self.power_w
        self.temperature_c = target + (self.temperature_c - target) * math.exp(-seconds / self.constant_s)
        self.hottest_c = max(self.hottest_c, self.temperature_c)

    def read(self) -> Reading:
        """Readings as of a monitor."""
        return Reading(
            at_seconds=self.clock(), temperature_c=self.temperature_c, cpu_frequency_ratio=self.frequency_ratio,
            power_w=self.power_w,
        )  # fmt: skip
