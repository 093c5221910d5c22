"""Soak test: sustained load on this machine, with the governor off and on."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.engine.engine import Engine
from edgeexit.engine.inputs import InputCheck
from edgeexit.errors import DataError
from edgeexit.governor import Governor, GovernorSettings, Move
from edgeexit.governor.events import EventLog
from edgeexit.monitor import Reader

_BUSY = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(1_000_000):
        pass
"""
"""Ends by itself if its parent was killed."""
_WINDOWS = 20_000
"""Most sliding windows of decisions to evaluate: all of half an hour would be gigabytes."""
_LOOK_S = 0.5
"""Seconds between readings while the governor is off."""


@dataclass(frozen=True)
class Span:
    """A part of a soak in which the conditions stayed the same."""

    governor: bool
    competing: int
    """Busy processes beside it."""
    seconds: float
    n: int
    """Inputs answered."""
    p50_s: float
    p90_s: float
    p99_s: float
    missed: int | None
    """Deadlines; None = there were none."""
    exit_rates: tuple[float, ...]
    macs: float | None
    """Mean per input."""
    accuracy: float | None
    """None = no labels."""
    budget: float | None
    """Mean over the governor's steps; None = it was off."""
    settled_after: int | None
    """Inputs until the 90th percentile over the latest 64 was at the set-point, and was so for nine in ten that follow;
    None = no set-point, or not in the first half."""
    temperature_c: float | None
    """Maximum; None = no sensor."""


@dataclass
class _Seen:
    """Observations of a span, in arrays, as half an hour may be millions of inputs."""

    seconds: array[float] = field(default_factory=lambda: array("d"))
    exits: array[int] = field(default_factory=lambda: array("H"))
    right: int = 0
    temperatures: list[float | None] = field(default_factory=list)
    """°C."""
    moves: list[Move] = field(default_factory=list)

    def clear(self) -> None:
        """For the next span; the governor's thread keeps the object."""
        self.seconds, self.exits, self.right = array("d"), array("H"), 0
        self.temperatures.clear()
        self.moves.clear()


def soak(
    engine: Engine,
    rows: Mapping[str, NDArray[Any]],
    labels: NDArray[np.int64] | None,
    reader: Reader,
    settings: GovernorSettings,
    log: EventLog,
    *,
    seconds: float,
    governed: Sequence[bool] = (False, True),
    compete: int = 0,
    rate: float | None = None,
    deadline_s: float | None = None,
    progress: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Span]:
    """Answer the inputs one after the other, repeatedly, and summarise every phase.

    Args:
        engine: measured (`warmup > 0`); its policy is used where the governor is off.
        rows: inputs `(n, ...)` by name.
        labels: `(n,)`; None = no accuracy.
        reader: of the machine; read in all phases.
        settings: of the governor.
        log: gets all phases.
        seconds: of each phase.
        governed: one phase each, with or without the governor.
        compete: busy processes beside the engine in the middle third of every phase.
        rate: inputs per second; None = one after the other.
        deadline_s: of every input.
        progress: called with the name of every part as it begins.
        clock: seconds, monotone.

    Returns:
        One span per phase, or three where something competes: before, during, after.

    Raises:
        DataError, PolicyError: see `check_soak`; or no input was answered in time.
    """
    check_soak(engine, rows, labels, reader, settings, seconds, governed, rate, deadline_s)
    count = len(next(iter(rows.values())))
    names = [t.name for t in engine.bundle.manifest.inputs]
    spans = []
    at = 0
    for on in governed:
        with ExitStack() as stack:
            seen = _Seen()

            def moved(move: Move, seen: _Seen = seen) -> None:
                seen.moves.append(move)
                seen.temperatures.append(None if move.reading is None else move.reading.temperature_c)
                log.on_move(move)

            if on:
                stack.enter_context(Governor(engine, reader, settings, on_move=moved))
            shares = [(0, seconds)] if not compete else [(n, seconds / 3) for n in (0, compete, 0)]
            for competing, lasting in shares:
                what = f"governor {'on' if on else 'off'}" + (f", {competing} beside" if competing else "")
                progress(f"{what}, {lasting:.0f} s")
                log.write("note", text=what)
                seen.clear()
                with _busy(competing):
                    end = clock() + lasting
                    missed, looked = engine.missed, -math.inf
                    while (now := clock()) < end:
                        if not on and now - looked >= _LOOK_S:  # the governor reads for itself
                            seen.temperatures.append(log.reading(reader.read()))
                            looked = now
                        x = {n: rows[n][at % count] for n in names}
                        decision = engine.run(x, deadline_s=deadline_s)
                        seen.seconds.append(decision.seconds)
                        seen.exits.append(decision.exit)
                        if labels is not None:
                            right = bool(decision.label == labels[at % count])
                            seen.right += right
                            log.answered(right)
                        at += 1
                        if rate is not None and (left := min(now + 1 / rate, end) - clock()) > 0:
                            time.sleep(left)
                late = None if deadline_s is None else engine.missed - missed
                spans.append(_span(engine, seen, labels is not None, on, competing, lasting, late, settings))
    return spans


def check_soak(
    engine: Engine,
    rows: Mapping[str, NDArray[Any]],
    labels: NDArray[np.int64] | None,
    reader: Reader,
    settings: GovernorSettings,
    seconds: float,
    governed: Sequence[bool],
    rate: float | None,
    deadline_s: float | None,
) -> None:
    """Check the arguments of `soak` and answer the first input, so that errors come before the load begins.

    Raises:
        DataError: no rows, not as many of every input and of the labels, one label per input where it has many, an
            input that the model does not take (such as NaN), or a time or rate that is not a positive number.
        PolicyError: see `Governor` and `Engine.run`.
    """
    counts = {name: len(a) if a.ndim else 0 for name, a in rows.items()}
    count = next(iter(counts.values()))
    if not count:
        raise DataError("a soak needs at least one input")
    if len(set(counts.values())) != 1:
        raise DataError(f"the inputs have {', '.join(f'{n} rows of {name!r}' for name, n in counts.items())}")
    for what, value in (("the seconds of a phase", seconds), ("the rate", rate)):
        if value is not None and not 0 < value < math.inf:
            raise DataError(f"{what}: expected a positive number, found {value!r}")
    if any(governed):
        Governor(engine, reader, settings)
    InputCheck(engine.bundle.manifest.inputs, preprocess=engine.preprocess).rows(rows)
    observer, engine.observer = engine.observer, None  # a log that is open already counts what the phases answer
    try:
        decision = engine.run({name: a[0] for name, a in rows.items()}, deadline_s=deadline_s)
    finally:
        engine.observer = observer
    if labels is not None and (labels.shape != (count,) or np.ndim(decision.label)):
        per = np.shape(decision.label)
        raise DataError(
            f"labels of shape {labels.shape} for {count} inputs with {f'{per} answers' if per else 'one answer'} each; "
            f"expected ({count},) and one label each: without y there is no accuracy, and all else is measured"
        )


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Run busy processes."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):  # inside: if the last cannot be started, the others are ended
            own = [sys.executable, "-c", _BUSY, str(os.getpid())]
            running.append(subprocess.Popen(own, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        yield
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()


def _span(
    engine: Engine, seen: _Seen, labelled: bool, on: bool, competing: int, seconds: float, missed: int | None,
    settings: GovernorSettings,
) -> Span:  # fmt: skip
    if not seen.seconds:
        raise DataError(f"no input was answered in {seconds:g} s: give it longer")
    times = np.array(seen.seconds)
    p50, p90, p99 = (float(q) for q in np.quantile(times, (0.5, 0.9, 0.99)))
    rates = np.bincount(seen.exits, minlength=engine.exits) / len(times)
    alone = engine.layout.self_contained
    macs = [e.prefix_macs if alone else e.macs for e in engine.bundle.manifest.exits]
    mean = None if None in macs else float(np.dot(rates, np.array(macs, np.float64)))
    temperatures = [t for t in seen.temperatures if t is not None]
    return Span(
        on, competing, seconds, len(times), p50, p90, p99, missed, tuple(float(r) for r in rates),
        mean, seen.right / len(times) if labelled else None,
        float(np.mean([m.budget for m in seen.moves])) if seen.moves else None,
        settled_after(times, settings.latency_p90_s), max(temperatures) if temperatures else None,
    )  # fmt: skip


def settled_after(seconds: NDArray[np.float64], setpoint: float | None, last: int = 64) -> int | None:
    """Inputs until the 90th percentile of the latest `last` is at the set-point, and is so for most that follow."""
    if setpoint is None or len(seconds) < 2 * last:
        return None
    step = max((len(seconds) - last) // _WINDOWS, 1)
    windows = np.lib.stride_tricks.sliding_window_view(seconds, last)[::step]
    met = np.quantile(windows, 0.9, axis=1) <= setpoint
    # From the end: the share of later windows that meet it.
    share = np.cumsum(met[::-1])[::-1] / np.arange(len(met), 0, -1)
    good = np.flatnonzero(met & (share >= 0.9))
    return int(good[0]) * step + last if len(good) and good[0] <= len(met) / 2 else None
