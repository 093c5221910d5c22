"""The governor: curves, loop, ladder, and what it does to a running engine."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeexit
from edgeexit.bundle.bundle import Bundle
from edgeexit.engine.engine import Engine
from edgeexit.errors import PolicyError
from edgeexit.governor import (
    DEFAULT_CURVES,
    BudgetCurve,
    Governor,
    GovernorSettings,
    Ladder,
    Loop,
    Move,
    PolicyStep,
    read_curves,
)
from edgeexit.governor.event_files import read_events
from edgeexit.governor.events import EventLog
from edgeexit.monitor import Reading, Throttled
from edgeexit.policy.operating_point import OperatingPoint
from edgeexit.policy.policies import Threshold, fixed_exit
from edgeexit.testing import FakeClock


class Told:
    """A reader that says what it is told to; an exception is raised."""

    def __init__(self, reading: Reading | Exception) -> None:
        self.says = reading

    def read(self) -> Reading:
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


COOL = Reading(temperature_c=40.0)


@pytest.fixture
def engine(tiny: Path) -> Engine:
    return edgeexit.load(tiny, artifact="chain", exit=-1, warmup=2)


@pytest.fixture
def ladder() -> Ladder:
    costs = (0.2, 0.5, 0.8)
    return Ladder(tuple(PolicyStep(c, Threshold((c, c), "maxprob")) for c in costs), False)


def governed(
    engine: Engine, ladder: Ladder, says: Reading | Exception = COOL, **settings: Any
) -> tuple[Governor, Told, FakeClock, list[Move]]:
    clock, told, moves = FakeClock(), Told(says), list[Move]()
    return (
        Governor(engine, told, GovernorSettings(**settings), ladder=ladder, on_move=moves.append, clock=clock),
        told,
        clock,
        moves,
    )


def test_curves_are_straight_between_points_and_level_beyond() -> None:
    curve = BudgetCurve("temperature_c", ((70.0, 1.0), (80.0, 0.5)))
    assert [curve.budget(v) for v in (20, 70, 75, 80, 120)] == [1.0, 1.0, 0.75, 0.5, 0.5]
    for c in DEFAULT_CURVES:
        budgets = [c.budget(v) for v in np.linspace(c.points[0][0] - 1, c.points[-1][0] + 1, 50)]
        assert all(0 < b <= 1 for b in budgets) and (np.diff(budgets) <= 0).all() | (np.diff(budgets) >= 0).all()


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (((1.0, 1.0),), "two points"),
        (((1.0, 1.0), (1.0, 0.5)), "must grow"),
        (((1.0, 1.0), (2.0, 0.5), (3.0, 0.7)), "goes one way"),
        (((1.0, 1.0), (2.0, 0.0)), r"in \(0, 1\]"),
        (((1.0, 1.0), (float("nan"), 0.5)), "point"),
    ],
)
def test_curves_that_are_none_are_refused(points: Any, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        BudgetCurve("temperature_c", points)


def test_curves_from_files(tmp_path: Path) -> None:
    table = {"temperature_c": [[60, 1.0], [70, 0.3]], "battery_percent": {"points": [[5, 0.2], [30, 1.0]],
             "on_battery_only": True}}  # fmt: skip
    (tmp_path / "c.json").write_text(json.dumps(table))
    first, second = read_curves(tmp_path / "c.json")
    assert first == BudgetCurve("temperature_c", ((60.0, 1.0), (70.0, 0.3))) and second.on_battery_only
    table_b = "[battery_percent]\npoints = [[5, 0.2], [30, 1.0]]\non_battery_only = true\n"
    (tmp_path / "c.toml").write_text(f"temperature_c = [[60, 1.0], [70, 0.3]]\n{table_b}")
    if sys.version_info >= (3, 11):
        assert read_curves(tmp_path / "c.toml") == (first, second)
    for text, message in (
        ('{"speed": [[1, 1], [2, 0.5]]}', "no such signal"),
        ('{"temperature_c": [[70, 1.0], [80, "x"]]}', "needs points"),
        ('{"temperature_c": {"points": [[70, 1.0], [80, 0.4]], "on": 1}}', "on_battery_only"),
        ("[]", "expected an object"),
        ("{", "c2.json"),
    ):
        (tmp_path / "c2.json").write_text(text)
        with pytest.raises(PolicyError, match=message):
            read_curves(tmp_path / "c2.json")


def test_a_loop_reaches_its_set_point_and_does_not_wind_up() -> None:
    """The plant answers at once: latency is proportional to the budget, and load comes and goes."""
    loop, budget, load = Loop(1.0), 1.0, 1.0
    trace = []
    for step in range(400):
        load = 2.0 if 100 <= step < 300 else 0.5
        measured = load * budget * 1.0
        budget = loop.step(measured, 0.25)
        trace.append((measured, budget))
    assert trace[99][1] == 1.0, "with room to spare nothing is taken away"
    assert np.mean([m for m, _ in trace[250:300]]) == pytest.approx(1.0, abs=0.05)
    recovered = next(i for i, (_, b) in enumerate(trace[300:]) if b > 0.95)
    assert recovered < 40, "200 steps of too little must not have been added up"


def test_a_loop_pressed_against_the_floor_comes_back(engine: Engine) -> None:
    loop = Loop(1.0, floor=0.2)
    for _ in range(1000):
        assert loop.step(100.0, 1.0) >= 0.2
    assert any(loop.step(0.1, 1.0) == 1.0 for _ in range(12))
    assert loop.step(5.0, -3.0) <= 1.0  # a clock that jumped back integrates nothing


def test_heat_lowers_the_budget_at_the_allowed_rate_and_cold_raises_it_slower(engine: Engine, ladder: Ladder) -> None:
    governor, told, clock, moves = governed(engine, ladder, fall_per_s=0.4, rise_per_s=0.1)
    governor.step()
    assert engine.policy == ladder.steps[2].policy and moves[-1].limiting_signal == "nothing"
    told.says = Reading(temperature_c=90.0)
    budgets = []
    for _ in range(12):
        clock.advance(0.25)
        budgets.append(governor.step().budget)
    assert np.diff([1.0, *budgets]).min() >= -0.4 * 0.25 - 1e-9
    assert moves[-1].limiting_signal == "temperature_c" and budgets[-1] == pytest.approx(0.2)
    assert engine.policy == ladder.steps[0].policy and not moves[-1].pinned
    told.says = COOL
    clock.advance(0.25)
    assert governor.step().budget == pytest.approx(0.2 + 0.1 * 0.25)


def test_small_changes_are_not_followed(engine: Engine, ladder: Ladder) -> None:
    governor, told, clock, moves = governed(engine, ladder, dead_band=0.1, fall_per_s=10)
    told.says = Reading(temperature_c=75.0)
    for shift in (0.0, 0.4, -0.4, 0.2):
        clock.advance(0.25)
        told.says = Reading(temperature_c=75.0 + shift)
        governor.step()
    assert len({m.budget for m in moves[1:]}) == 1


def test_what_is_not_known_limits_nothing_and_a_dead_reader_is_reported(engine: Engine, ladder: Ladder) -> None:
    governor, told, clock, moves = governed(engine, ladder, Reading(problems=("temperature_c: 4294967 C cannot be",)))
    assert governor.step().budget == 1.0 and moves[-1].problems == ("temperature_c: 4294967 C cannot be",)
    told.says = OSError("gone")
    clock.advance(0.25)
    move = governor.step()
    assert move.reading is None and "OSError: gone" in move.problems[0] and move.budget == 1.0


def test_throttling_and_battery(engine: Engine, ladder: Ladder) -> None:
    governor, told, clock, moves = governed(engine, ladder, fall_per_s=100, throttled=0.6)
    told.says = Reading(throttled=Throttled(0b0100))
    clock.advance(1)
    governor.step()
    clock.advance(1)
    assert governor.step().limiting_signal == "throttled" and moves[-1].budget == pytest.approx(0.6)
    told.says = Reading(throttled=Throttled(0x50000), battery_percent=5.0, on_battery=False)
    clock.advance(60)
    assert governor.step().limiting_signal == "nothing", "since boot is not now, and a charger is at hand"
    told.says = Reading(battery_percent=5.0, on_battery=True)
    clock.advance(1)
    assert governor.step().limiting_signal == "battery_percent"


def test_a_battery_that_should_last(engine: Engine, ladder: Ladder) -> None:
    """3,600 J over one hour are 1 W; while 2 W are drawn, less is allowed; where it fits, all is."""
    governor, told, clock, moves = governed(engine, ladder, battery_hours=1.0, curves=())
    for power, expected in ((2.0, "battery life"), (0.5, "nothing")):
        told.says = Reading(battery_joules=3600.0, power_w=power)
        for _ in range(40):
            clock.advance(0.25)
            governor.step()
        assert moves[-1].limiting_signal == expected


def test_a_clock_that_jumps_back_or_far_ahead_does_no_harm(engine: Engine, ladder: Ladder) -> None:
    governor, _, clock, _ = governed(engine, ladder, Reading(temperature_c=90.0), fall_per_s=0.1)
    governor.step()
    clock.now -= 100
    assert governor.step().budget == 1.0
    clock.advance(1e6)  # the machine slept
    assert governor.step().budget >= 1.0 - 0.1 * 5 * 0.25 - 1e-9


def test_certified_points_only(copy: Path, engine: Engine) -> None:
    with pytest.raises(PolicyError, match="carries a promise"):
        Ladder.certified_points(engine.bundle, engine.artifact.name)
    bundle = Bundle.open(copy)
    for name, what, alpha, cost in (
        ("a", "gap", 0.02, 0.6),
        ("b", "gap", 0.01, 0.9),
        ("c", "gap", 0.05, 0.4),
        ("d", "other", 0.01, 0.3),
    ):
        promise = {"what": what, "alpha": alpha, "delta": 0.1, "n": 100, "text": what}
        point = OperatingPoint(name, Threshold((cost, cost)), engine.artifact.name, {"cost": cost}, promise=promise)
        bundle = bundle.with_operating_point(point)
    own = edgeexit.load(bundle, policy="a", warmup=2)
    clock, told = FakeClock(), Told(Reading(temperature_c=95.0))
    governor = Governor(own, told, GovernorSettings(fall_per_s=100), clock=clock)
    assert [r.point.name for r in governor.ladder.steps if r.point] == ["a", "b"], (
        "wider bounds and other losses are out"
    )
    assert governor.step().point == "b" and own.point is not None and own.point.name == "b"
    clock.advance(1)
    move = governor.step()
    assert move.pinned and move.point == "a" and move.cost == 0.6 > move.budget
    governor.stop()
    assert own.point.name == "a" and own.policy == Threshold((0.6, 0.6))
    assert own.policy_source == "operating point a"
    own.policy = fixed_exit(0, 3)
    assert own.point is None, "an assigned policy promises nothing"


def test_set_points_that_cannot_be_reached(engine: Engine, ladder: Ladder) -> None:
    engine.use_profile((0.01, 0.02, 0.03))
    with pytest.raises(PolicyError, match="below the first exit's own time, 10 ms"):
        Governor(engine, Told(COOL), GovernorSettings(latency_p90_s=0.005), ladder=ladder)
    for wrong in (
        {"floor": 0.0},
        {"floor": 0.5, "ceiling": 0.4},
        {"rise_per_s": 0},
        {"battery_hours": -1},
        {"throttled": 2},
    ):
        with pytest.raises(PolicyError):
            GovernorSettings(**wrong)  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="set-point"):
        Loop(0.0)


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def test_its_thread_swaps_policies_between_inputs_and_gives_back_what_was(engine: Engine, ladder: Ladder) -> None:
    before, told, moves = engine.policy, Told(COOL), list[Move]()
    x = engine.example()[0]
    with Governor(
        engine, told, GovernorSettings(interval_s=0.01, fall_per_s=100), ladder=ladder, on_move=moves.append
    ) as governor:
        with pytest.raises(PolicyError, match="runs already"):
            governor.start()
        wait_for(lambda: bool(moves))
        told.says = Reading(temperature_c=90.0)
        while engine.policy != ladder.steps[0].policy:
            engine.run(x)
            assert len(moves) < 5000
        told.says = ValueError("broken")
        at = len(moves)
        wait_for(lambda: len(moves) > at + 2)
        assert governor.latencies
        told.says = Reading(temperature_c=50.0)
        wait_for(lambda: engine.run(x).reading == told.says)
    assert engine.policy == before and engine.observer is None and engine.run(x).reading is None
    assert not [t for t in threading.enumerate() if t.name == "edgeexit-governor"]
    governor.stop()  # again: nothing happens


def test_solved_from_the_scores_in_the_bundle(engine: Engine) -> None:
    found = Ladder.solved(engine, count=8)
    costs = [r.cost for r in found.steps]
    assert costs == sorted(costs) and costs[-1] == 1.0 and not found.certified
    assert found.at(1.0) == len(costs) - 1 and found.at(0.0) == 0
    assert all(r.cost <= b + 1e-9 for b in np.linspace(costs[0], 1, 50) for r in [found.steps[found.at(b)]])


@pytest.fixture
def log(engine: Engine, tmp_path: Path) -> Iterator[EventLog]:
    with EventLog(tmp_path / "e.jsonl", engine, every_s=0.0) as found:
        yield found


def test_the_event_log(engine: Engine, ladder: Ladder, log: EventLog, tmp_path: Path) -> None:
    governor, _, _, _ = governed(engine, ladder, Reading(temperature_c=float("inf"), throttled=Throttled(4)))
    x = engine.example()[0]
    for _ in range(3):
        engine.run(x)
        log.answered(True)
    governor.on_move = log.on_move
    governor.step()
    log.write("note", text="half-time")
    log.close()
    assert engine.observer is None
    events = read_events(tmp_path / "e.jsonl")
    assert [e["event"] for e in events][:1] == ["start"] and {"window", "move", "note"} <= {e["event"] for e in events}
    windows = [e for e in events if e["event"] == "window"]
    assert sum(w["n"] for w in windows) == 3 and sum(sum(w["exits"]) for w in windows) == 3
    move = next(e for e in events if e["event"] == "move")
    assert move["reading"]["throttled"] == 4 and move["reading"]["temperature_c"] is None
    times = [e["at"] for e in events]
    assert times == sorted(times)


def test_a_log_cut_by_a_power_failure_is_read_and_others_are_refused(
    engine: Engine, log: EventLog, tmp_path: Path
) -> None:
    log.close()
    path = tmp_path / "e.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"event": "win')
    assert len(read_events(path)) == len(whole.splitlines())
    for text, message in (
        ("", "no `start`"),
        ("nonsense\n", "line 1 is not JSON"),
        ('{"event": "start", "schema": 99, "at": 0}\n', "schema 1 or 2"),
        ('{"at": 1}\n', "no event"),
        ("x" * 100_000, "characters"),
    ):
        path.write_text(text)
        with pytest.raises(edgeexit.EdgeExitError, match=message):
            read_events(path)


class BusyClock(FakeClock):
    """Every look at it takes 3 us, as what an engine does beside the network takes time."""

    def __call__(self) -> float:
        self.advance(3e-6)
        return super().__call__()


@pytest.mark.parametrize("layout", ["chain", "fused"])
def test_what_the_engine_does_itself_is_no_slow_down(tiny: Path, layout: str) -> None:
    from edgeexit.engine import backends
    from edgeexit.testing import PacedBackend

    clock = BusyClock()
    bundle = Bundle.open(tiny)
    artifact = next(a for a in bundle.manifest.artifacts if a.layout == layout)
    times = {**{f"stage_{k}.onnx": 1e-5 for k in range(3)}, "model.onnx": 3e-5}
    backend = PacedBackend(backends.get("onnx"), clock, times)
    engine = Engine(bundle, artifact, backend, fixed_exit(2, 3, artifact.score or "maxprob"), warmup=3, clock=clock)
    x = engine.example()[0]
    calls = [engine.run(x).seconds for _ in range(200)]
    assert engine.seconds is not None
    network = sum(engine.seconds) if layout == "chain" else engine.seconds[2]
    assert calls[0] > 1.09 * network and engine.slowdown == pytest.approx(1.0, abs=0.01)
    assert engine.driver.times.overhead == pytest.approx(calls[0] - network, rel=0.05)
    for deadline in np.linspace(0.3 * calls[0], 1.5 * calls[0], 60):
        found = engine.run(x, deadline_s=float(deadline))
        assert found.exit == 0 or not found.late, "only the first exit may be late"
        assert found.exit == 2 or deadline < 1.3 * calls[0], "and the look-ahead is not timid"


def test_batches_reach_the_latency_loop_and_the_log(engine: Engine, ladder: Ladder, tmp_path: Path) -> None:
    x = np.repeat(engine.example()[0], 100, 0)
    governor, *_ = governed(engine, ladder, latency_p90_s=10.0)
    with EventLog(tmp_path / "events.jsonl", engine) as log:
        governor.attach()
        batch = engine.run_batch(x)
        assert list(governor.latencies) == [batch.seconds / 100] * 64
        engine.run_batch(x[:3])
        assert list(governor.latencies)[-4:-3] == [batch.seconds / 100] and len(set(governor.latencies)) == 2
        assert governor.step().limiting_signal == "nothing"
        governor.stop()
        engine.run_batch(x)
        assert len(set(governor.latencies)) == 2, "it no longer listens"
        assert log.error is None
    windows = [e for e in read_events(tmp_path / "events.jsonl") if e["event"] == "window"]
    assert sum(w["n"] for w in windows) == 203 and sum(sum(w["exits"]) for w in windows) == 203


def test_slow_down_is_learned_and_deadlines_heed_it(engine: Engine) -> None:
    from edgeexit.engine import backends
    from edgeexit.testing import PacedBackend

    clock = FakeClock()
    backend = PacedBackend(backends.get("onnx"), clock, {f"stage_{k}.onnx": 0.01 for k in range(3)})
    engine = Engine(engine.bundle, engine.artifact, backend, fixed_exit(2, 3), warmup=0, clock=clock)
    engine.use_profile((0.01, 0.01, 0.01), ahead=(0.012, 0.012, 0.012))
    x = engine.example()[0]
    for _ in range(5):
        assert engine.run(x, deadline_s=0.033).exit == 2
    assert engine.slowdown == pytest.approx(1.0)
    backend.seconds = {f"stage_{k}.onnx": 0.02 for k in range(3)}
    for _ in range(100):
        engine.run(x)
    assert engine.slowdown == pytest.approx(2.0, rel=0.05)
    missed = engine.missed
    assert engine.run(x, deadline_s=0.05).exit == 1, "a third stage would end at 60 ms, and looks like ending at 64"
    assert engine.missed == missed and engine.run(x, deadline_s=0.005).late and engine.missed == missed + 1
    with pytest.raises(PolicyError, match="3 positive times"):
        engine.use_profile((0.01, 0.0, 0.01))
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(PolicyError, match="positive number of seconds"):
            engine.run(x, deadline_s=wrong)


def test_a_cool_machine_spends_no_more_than_the_operating_point(tiny: Path) -> None:
    engine = edgeexit.load(tiny, policy="half-chain", warmup=0)
    assert engine.point is not None
    governor = Governor(engine, Told(COOL), clock=FakeClock())
    before = engine.policy
    move = governor.step()
    assert move.point == "half-chain" and engine.policy == before and move.cost == engine.point.expected["cost"]
    assert max(r.cost for r in governor.ladder.steps) == move.cost and len(governor.ladder.steps) > 1


def test_a_drift_monitor_is_of_one_policy(tiny: Path, engine: Engine) -> None:
    from edgeexit.calibrate.guarantees.regime import regime_of
    from edgeexit.policy.drift import DriftMonitor

    x = np.random.default_rng(0).normal(size=(400, 4)).astype(np.float32)
    engine.drift = DriftMonitor(regime_of(engine.policy, engine.record(x)))
    with pytest.raises(PolicyError, match="drift monitor"):
        Governor(engine, Told(COOL))
