"""Fakes for tests of code that uses EdgeExit: the same ones that EdgeExit's own tests use.

::

    clock = FakeClock()
    backend = PacedBackend(backends.get("onnx"), clock, {"stage_1.onnx": 0.5})
    engine = Engine(bundle, artifact, backend, policy, clock=clock)
    engine.run(x, deadline_s=0.2)  # answers at exit 0: stage 1 would take half a second
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgeexit.backends import Backend, Runnable
from edgeexit.monitor import Reading

__all__ = ["FakeClock", "FakeReader", "PacedBackend"]


class FakeClock:
    """A clock that moves only when told to; call it for the time in seconds."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            ValueError: time does not run backwards.
        """
        if not seconds >= 0:
            raise ValueError(f"time moves forward, found {seconds} seconds")
        self.now += seconds


class FakeReader:
    """A monitor that gives these readings in order, the last one for ever; an exception among them is raised."""

    def __init__(self, *readings: Reading | Exception) -> None:
        """
        Raises:
            ValueError: no reading at all.
        """
        if not readings:
            raise ValueError("a FakeReader needs at least one reading")
        self.readings = list(readings)
        self.count = 0
        """How often it was read."""

    def read(self) -> Reading:
        found = self.readings[min(self.count, len(self.readings) - 1)]
        self.count += 1
        if isinstance(found, Exception):
            raise found
        return found


class PacedBackend:
    """An engine whose model files take the time they are told to, on a `FakeClock`."""

    def __init__(self, inner: Backend, clock: FakeClock, seconds: Mapping[str, float]) -> None:
        """
        Args:
            inner: computes the answers.
            clock: moves on at every run.
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
