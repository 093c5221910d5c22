"""Governor: sets a running engine's policy from readings of the machine, a few times a second."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np

from edgeexit.calibrate.on_device import exit_seconds
from edgeexit.engine.decision import BatchDecision, Decision, Observer
from edgeexit.engine.engine import Engine
from edgeexit.errors import PolicyError
from edgeexit.governor.ladder import Ladder, PolicyStep
from edgeexit.governor.loop import Loop
from edgeexit.governor.settings import GovernorSettings, Move
from edgeexit.monitor import Reader, Reading

LATENCIES = 64
"""Latest decisions in the latency quantile."""
_LEAST_LATENCIES = 8
_FIELDS = tuple(f.name for f in fields(Reading) if f.name != "problems")
_BELOW = 0.92
"""Share of the latency set-point that is aimed at, as a quantile of 64 decisions swings around its target."""


class Governor:
    """Chooses an engine's policy from readings of the machine.

    The engine's policy is replaced between inputs: a run in progress keeps the one it began with. With a certified
    ladder only operating points with a promise are taken, and `Move.pinned` marks steps where that exceeds the budget.

    Use it as a context manager, or call `start` and `stop`; `step` alone does one round in the caller's thread.
    """

    def __init__(
        self,
        engine: Engine,
        reader: Reader,
        settings: GovernorSettings | None = None,
        *,
        ladder: Ladder | None = None,
        on_move: Callable[[Move], None] = lambda move: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            engine: whose policy is governed; `stop` restores the policy it had.
            reader: of the machine.
            settings: None = the default curves, no set-point.
            ladder: policies to choose among; None = solved for budgets from the scores in the bundle, up to the cost of
                the operating point that the engine follows, if it does; where that one carries a promise, the points
                that promise as much.
            on_move: called with every step, in the governor's thread.
            clock: seconds, monotone.

        Raises:
            PolicyError: settings that cannot be met, a bundle without scores for the artifact, or a ladder that the
                engine, its drift monitor or its prediction sets cannot follow.
        """
        self.engine, self.reader, self.on_move, self.clock = engine, reader, on_move, clock
        self.settings = settings or GovernorSettings()
        self.ladder = ladder or _ladder(engine)
        self.ladder.check(engine)
        self.error: Exception | None = None
        """Latest error of a step in its thread, errors of `on_move` included; the thread continues."""
        self.latencies: deque[float] = deque(maxlen=LATENCIES)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._governs = False
        self._see: Observer | None = None
        self._reset()

    def _reset(self) -> None:
        """Start afresh; `stop` will restore the policy that the engine has now."""
        self._loops = self._make_loops()
        self.latencies.clear()
        self._decisions = self._decisions_used = 0
        self._before, self._point_before = self.engine.policy, self.engine.point
        self._source_before = self.engine.policy_source
        self._budget, self._step = self.settings.ceiling, -1
        self._last: float | None = None
        self._begin: float | None = None

    def _take_over(self) -> None:
        if not self._governs:
            self._reset()
            self._governs = True

    def _make_loops(self) -> dict[str, Loop]:
        s = self.settings
        limits = {"floor": s.floor, "ceiling": s.ceiling}
        loops: dict[str, Loop] = {}
        if s.latency_p90_s is not None:
            known = exit_seconds(self.engine)
            if known is not None and s.latency_p90_s < known[0]:
                raise PolicyError(
                    f"a latency set-point of {1000 * s.latency_p90_s:g} ms is below the first exit's own time, "
                    f"{1000 * known[0]:.3g} ms as measured here: no budget reaches it"
                )
            loops["latency"] = Loop(_BELOW * s.latency_p90_s, **limits)
        if s.temperature_c is not None:
            loops["temperature"] = Loop(s.temperature_c, proportional=4.0, integral=0.2, **limits)
        return loops

    def __enter__(self) -> Governor:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start governing, in a separate thread.

        Raises:
            PolicyError: it is running already.
        """
        if self._thread is not None:
            raise PolicyError("this governor runs already")
        self.attach()
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="edgeexit-governor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop, and restore the engine's policy; no effect if it is not running."""
        self._stop.set()
        if self._thread is not None:
            if self._thread is not threading.current_thread():  # `on_move` may stop it, too
                self._thread.join()
            self._thread = None
        if not self._governs:
            return
        self._governs = False
        if self._see is not None and self.engine.observer is self._see:
            self.engine.observer = self._observer
        self._see = None  # a log attached later still passes decisions on; they no longer count
        self.engine.reading = None
        if self._point_before is not None:
            self.engine.follow(self._point_before)
        else:
            self.engine.policy = self._before
        self.engine.policy_source = self._source_before

    def attach(self) -> None:
        """Observe the engine's decisions, for the latency loop; `start` does it."""
        self._take_over()
        before = self._observer = self.engine.observer

        def see(answered: Decision | BatchDecision) -> None:
            if self._see is see:
                if isinstance(answered, Decision):
                    self.latencies.append(answered.seconds)
                else:  # a quantile is of inputs: each counts, as far as the quantile reaches back
                    self.latencies.extend([answered.seconds_each] * min(len(answered), LATENCIES))
                self._decisions += 1
            if before is not None:
                before(answered)

        self._see = self.engine.observer = see

    def _run(self) -> None:
        while not self._stop.is_set():
            started = self.clock()
            try:
                self.step()
            except Exception as e:  # if the thread ended, the last budget would stay in force for ever
                self.error = e
                with contextlib.suppress(Exception):  # `on_move` itself may fail
                    self.on_move(self._failed(e))
            self._stop.wait(max(self.settings.interval_s - (self.clock() - started), 0.01))

    def step(self) -> Move:
        """Read, decide, and set the engine's policy."""
        self._take_over()
        now = self.clock()
        # A clock that jumps, or a machine that slept, must not integrate minutes at once.
        passed = 0.0 if self._last is None else min(max(now - self._last, 0.0), 5 * self.settings.interval_s)
        self._last = now
        self._begin = now if self._begin is None else self._begin
        reading, problems = self._read()
        self.engine.reading = reading
        targets = self._targets(reading, passed, now)
        signal, target = min(targets.items(), key=lambda t: t[1], default=("nothing", self.settings.ceiling))
        target = min(max(target, self.settings.floor), self.settings.ceiling)
        if target >= self.settings.ceiling:
            signal = "nothing"
        self._budget = self._limited(target, passed)
        k = self.ladder.at(self._budget)
        policy_step, changed = self.ladder.steps[k], k != self._step
        if changed:
            if policy_step.point is not None:
                self.engine.follow(policy_step.point)
            else:
                self.engine.policy = policy_step.policy
            self._step = k
        name = None if policy_step.point is None else policy_step.point.name
        pinned = policy_step.cost > self._budget + 1e-9
        move = Move(now, target, self._budget, policy_step.cost, signal, pinned, changed, reading, problems, name)
        self.on_move(move)
        return move

    def _read(self) -> tuple[Reading | None, tuple[str, ...]]:
        try:
            raw = self.reader.read()
            # Third-party readers may return impossible values; a NaN would stay in the budget for ever.
            reading = Reading.checked({n: getattr(raw, n) for n in _FIELDS}, raw.problems)
        except Exception as e:
            return None, (f"the reader failed: {type(e).__name__}: {e}"[:200],)
        return reading, tuple(reading.problems)

    def _targets(self, reading: Reading | None, passed: float, now: float) -> dict[str, float]:
        """Signal -> the budget it leaves; unknown signals leave everything."""
        targets: dict[str, float] = {}
        for curve in self.settings.curves if reading is not None else ():
            value = getattr(reading, curve.signal)
            if value is not None and (not curve.on_battery_only or (reading is not None and reading.on_battery)):
                targets[curve.signal] = min(curve.budget(float(value)), targets.get(curve.signal, 1.0))
        flags = None if reading is None else reading.throttled
        slowed = flags is not None and (flags.throttled_now or flags.frequency_capped_now)
        if slowed and self.settings.throttled is not None:
            targets["throttled"] = self.settings.throttled
        temperature = None if reading is None else reading.temperature_c
        if "temperature" in self._loops and temperature is not None:
            targets["temperature set-point"] = self._loops["temperature"].step(temperature, passed)
        if "latency" in self._loops and len(self.latencies) >= _LEAST_LATENCIES:
            p90 = float(np.quantile(list(self.latencies), 0.9))
            # Without a new decision the latency is unknown, so nothing is integrated.
            targets["latency set-point"] = self._loops["latency"].step(
                p90, passed if self._decisions > self._decisions_used else 0.0
            )
            self._decisions_used = self._decisions
        power = self._power_allowed(reading, now)
        if power is not None and reading is not None and reading.power_w is not None:
            loop = self._loops.setdefault(
                "battery", Loop(power, floor=self.settings.floor, ceiling=self.settings.ceiling)
            )
            loop.setpoint = power
            targets["battery life"] = loop.step(reading.power_w, passed)
        return targets

    def _power_allowed(self, reading: Reading | None, now: float) -> float | None:
        hours = self.settings.battery_hours
        joules = None if reading is None else reading.battery_joules
        if hours is None or joules is None or self._begin is None:
            return None
        left = hours * 3600 - (now - self._begin)
        return max(joules / left, 1e-3) if left > 0 else None

    def _limited(self, target: float, passed: float) -> float:
        s, before = self.settings, self._budget
        at_end = target in (s.floor, s.ceiling)
        if abs(target - before) < s.dead_band and not at_end:
            return before
        most_up, most_down = s.rise_per_s * passed, s.fall_per_s * passed
        return min(max(target, before - most_down), before + most_up)

    def _failed(self, error: Exception) -> Move:
        cost = self.ladder.steps[max(self._step, 0)].cost
        text = f"the step failed: {type(error).__name__}: {error}"[:200]
        return Move(self.clock(), self._budget, self._budget, cost, "nothing", False, False, None, (text,))


def _ladder(engine: Engine) -> Ladder:
    point = engine.point
    if point is not None and point.promise is not None:
        return Ladder.certified_points(engine.bundle, engine.artifact.name, point)
    solved = Ladder.solved(engine)
    cost = None if point is None else point.expected.get("cost")
    if point is None or cost is None:
        return solved
    # The chosen operating point is the upper bound: the governor never goes above it.
    cheaper = tuple(s for s in solved.steps if s.cost < cost)
    return replace(solved, steps=(*cheaper, PolicyStep(float(cost), point.policy, point)))
