"""The governor among programs that misuse it: stopped twice, started again, callbacks and readers that fail."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgeexit
from edgeexit.engine.engine import Engine
from edgeexit.errors import PolicyError
from edgeexit.governor import Governor, GovernorSettings, Ladder, Loop, Move, PolicyStep
from edgeexit.governor.event_files import read_events
from edgeexit.governor.events import EventLog
from edgeexit.monitor import Reading
from edgeexit.policy.policies import Patience, Threshold, fixed_exit
from edgeexit.testing import FakeClock, FakeReader

COOL, HOT = Reading(temperature_c=40.0), Reading(temperature_c=95.0)


@pytest.fixture
def engine(tiny: Path) -> Engine:
    return edgeexit.load(tiny, artifact="chain", exit=-1, warmup=2)


@pytest.fixture
def ladder() -> Ladder:
    return Ladder(tuple(PolicyStep(c, Threshold((c, c), "maxprob")) for c in (0.2, 0.5, 0.8)), False)


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def test_stop_without_start_and_twice_leaves_the_engine_alone(engine: Engine, ladder: Ladder) -> None:
    governor = Governor(engine, FakeReader(COOL), ladder=ladder)
    engine.policy = own = fixed_exit(1, 3)
    governor.stop()
    assert engine.policy == own, "it never governed"
    governor.start()
    governor.stop()
    assert engine.policy == own, "what the engine had at the start, not when the governor was made"
    engine.policy = later = fixed_exit(0, 3)
    seen: list[Any] = []
    engine.observer = seen.append
    governor.stop()
    assert engine.policy == later
    engine.run(engine.example()[0])
    assert seen


def test_started_again_it_governs_again(engine: Engine, ladder: Ladder) -> None:
    before = engine.policy
    governor = Governor(engine, FakeReader(COOL), GovernorSettings(interval_s=0.01), ladder=ladder)
    for _ in range(2):
        with governor:
            wait_for(lambda: engine.policy == ladder.steps[2].policy)
        assert engine.policy == before


def test_a_callback_that_fails_does_not_end_it(engine: Engine, ladder: Ladder) -> None:
    def broken(move: Move) -> None:
        raise OSError("no space left")

    reader = FakeReader(COOL, COOL, COOL, HOT)
    with Governor(
        engine, reader, GovernorSettings(interval_s=0.01, fall_per_s=100), ladder=ladder, on_move=broken
    ) as governor:
        wait_for(lambda: engine.policy == ladder.steps[0].policy)
    assert isinstance(governor.error, OSError)


def test_a_callback_may_stop_it(engine: Engine, ladder: Ladder) -> None:
    before = engine.policy
    governor = Governor(engine, FakeReader(COOL), ladder=ladder, on_move=lambda move: governor.stop())
    governor.start()
    wait_for(lambda: not [t for t in threading.enumerate() if t.name == "edgeexit-governor"])
    assert engine.policy == before and governor.error is None


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, "hot"])
def test_a_lie_is_reported_and_forgotten(engine: Engine, ladder: Ladder, wrong: Any) -> None:
    lie = Reading(temperature_c=wrong, power_w=wrong, battery_joules=wrong, load_per_cpu=wrong)
    clock, reader = FakeClock(), FakeReader(lie, COOL)
    governor = Governor(
        engine, reader, GovernorSettings(temperature_c=60.0, battery_hours=1.0), ladder=ladder, clock=clock
    )
    first = governor.step()
    clock.advance(0.25)
    assert first.budget == governor.step().budget == 1.0 and any("temperature_c" in p for p in first.problems)


def test_a_reader_that_gives_no_reading(engine: Engine, ladder: Ladder) -> None:
    reader = FakeReader(COOL)
    reader.readings = [None]  # type: ignore[list-item]
    move = Governor(engine, reader, ladder=ladder).step()
    assert move.reading is None and "the reader failed" in move.problems[0]


def test_a_loop_forgets_what_is_no_number() -> None:
    loop = Loop(1.0)
    loop.step(2.0, 0.25)
    before = loop.step(1.0, 0.0)
    assert loop.step(math.nan, 0.25) == before == loop.step(math.inf, 0.25)


def test_old_latencies_are_not_added_up_while_nothing_runs(engine: Engine, ladder: Ladder) -> None:
    engine.use_profile((1e-9, 1e-9, 1e-9))
    clock = FakeClock()
    settings = GovernorSettings(curves=(), latency_p90_s=1e-6)
    governor = Governor(engine, FakeReader(COOL), settings, ladder=ladder, clock=clock)
    governor.attach()
    for _ in range(8):
        engine.run(engine.example()[0])
    governor.step()
    clock.advance(0.25)
    targets = []
    for _ in range(40):
        targets.append(governor.step().target)
        clock.advance(0.25)
    assert len(set(targets)) == 1


def test_a_ladder_that_the_engine_cannot_follow_is_refused(tiny: Path, ladder: Ladder) -> None:
    fused = edgeexit.load(tiny, artifact="fused", exit=-1, warmup=2)
    wrong = Ladder((PolicyStep(0.5, Patience(1)),), False)
    with pytest.raises(PolicyError, match="layout chain"):
        Governor(fused, FakeReader(COOL), ladder=wrong)


def test_an_interval_that_no_wait_can_take(engine: Engine) -> None:
    for wrong in (math.inf, math.nan, 0.0):
        with pytest.raises(PolicyError, match="interval"):
            GovernorSettings(interval_s=wrong)


def test_a_clock_that_jumps_back_does_not_ruin_the_slow_down(tiny: Path) -> None:
    times = iter([float(i) for i in range(10_000)])
    engine = edgeexit.load(tiny, artifact="chain", exit=-1, warmup=2)
    engine.clock = engine.driver.clock = lambda: -3600.0 * next(times)  # type: ignore[attr-defined]
    for _ in range(3):
        engine.run(engine.example()[0])
    assert 0 <= engine.slowdown <= 1 and engine.driver.times.overhead == 0


def test_a_log_that_came_later_goes_on_after_stop(engine: Engine, ladder: Ladder, tmp_path: Path) -> None:
    seen: list[Any] = []
    engine.observer = first = seen.append
    x = engine.example()[0]
    governor = Governor(engine, FakeReader(COOL), ladder=ladder)
    governor.start()
    log = EventLog(tmp_path / "e.jsonl", engine)
    engine.run(x)
    governor.stop()
    engine.run(x)
    assert len(governor.latencies) == 1
    with governor:
        engine.run(x)
        assert len(governor.latencies) == 1, "a new start, and each decision once"
        log.close()
        engine.run(x)
    engine.run(x)
    assert sum(e.get("n", 0) for e in read_events(tmp_path / "e.jsonl")) == 3
    assert len(seen) == 5 and first == seen.append


def test_times_from_a_busy_machine_do_not_keep_it_from_governing(tiny: Path) -> None:
    engine = edgeexit.load(tiny, artifact="fused", exit=-1, warmup=2)
    engine.use_profile((0.0176, 0.0195, 0.0186))
    busy = Governor(engine, FakeReader(COOL)).ladder
    costs = [r.cost for r in busy.steps]
    assert not busy.timed and costs == sorted(costs) and len(costs) > 2
    engine.use_profile((0.01, 0.02, 0.03))
    assert Governor(engine, FakeReader(COOL)).ladder.timed
