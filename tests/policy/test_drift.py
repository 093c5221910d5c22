"""The drift monitor: its bound, its bets, and what the engine says with one attached."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeexit import Patience, Threshold, load
from edgeexit.bundle.bundle import Bundle
from edgeexit.calibrate.guarantees.betting import wsr_upper
from edgeexit.calibrate.guarantees.regime import regime_of
from edgeexit.errors import DataError, PolicyError
from edgeexit.policy.drift import CEILING, KAPPA, DriftMonitor, DriftRegime

REGIME = DriftRegime((0.25, 0.5, 1.0), (0.5, 0.2), n=1000)
HALF = Threshold((0.6, 0.6))


# --- the bound -----------------------------------------------------------------------------------------------


def test_the_betting_bound() -> None:
    shares = np.array(([0] * 9 + [1]) * 10)
    assert wsr_upper(shares, 0.1) == pytest.approx(0.192430, abs=1e-6)
    assert wsr_upper(shares * 7, 0.1, 7) == pytest.approx(7 * 0.192430, abs=1e-5)
    assert wsr_upper(np.ones(50), 0.1) == wsr_upper(np.zeros(1), 0.1) == 1  # nothing better can be said


def test_the_bound_closes_in_on_the_mean() -> None:
    x = np.random.default_rng(0).random(100_000)
    assert x.mean() < wsr_upper(x, 0.01) < x.mean() + 0.004


def test_the_bound_holds_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    missed = np.mean([wsr_upper(rng.random(100) < 0.1, 0.2) < 0.1 for _ in range(1000)])
    assert missed < 0.2


@pytest.mark.parametrize("x", [[], [math.nan, 0.5], [-0.1], [1.1], [[0.5]], ["a"]])
def test_the_bound_refuses(x: Any) -> None:
    with pytest.raises(DataError, match="a bound needs numbers"):
        wsr_upper(np.array(x), 0.1)


@pytest.mark.parametrize(("delta", "bmax"), [(0.0, 1.0), (1.0, 1.0), (math.nan, 1.0), (0.1, 0.0), (0.1, math.inf)])
def test_the_bound_refuses_its_settings(delta: float, bmax: float) -> None:
    with pytest.raises(PolicyError, match=r"probability|largest possible"):
        wsr_upper(np.zeros(3), delta, bmax)


# --- the bets ------------------------------------------------------------------------------------------------


def test_state_is_48_bytes_and_follows_the_formula() -> None:
    monitor = DriftMonitor(REGIME)
    assert monitor.state.itemsize * len(monitor.state) == 48
    expected = np.ones((2, 6))
    for z in np.random.default_rng(2).random((50, 2)):
        monitor.update((z[0], z[1]))
        gain = z / REGIME.bounds - 1
        expected = np.maximum(expected, 1) * (1 + np.outer(gain, KAPPA))
    np.testing.assert_allclose(monitor.state, expected.ravel(), rtol=1e-5)
    assert monitor.evidence == pytest.approx(expected.mean(), rel=1e-5)


def test_at_its_bounds_it_neither_wins_nor_loses_and_below_them_evidence_is_forgotten() -> None:
    monitor = DriftMonitor(REGIME)
    for _ in range(100):
        assert not monitor.update(REGIME.bounds)
    assert monitor.evidence == pytest.approx(1, rel=1e-4)
    for _ in range(100):
        monitor.update((0, 0))
    # Starting anew at 1 is what keeps a long quiet time from delaying the alarm.
    np.testing.assert_allclose(monitor.state, [1 - k for k in KAPPA] * 2, rtol=1e-6)


def test_alarm_stays_until_reset() -> None:
    monitor = DriftMonitor(REGIME)
    found = [monitor.update((1, 1)) for _ in range(40)]
    first = found.index(True)
    assert monitor.alarm == first + 1 < 20
    assert all(found[first:]) and monitor.update((0, 0)) and monitor.seen == 41
    monitor.reset()
    assert (monitor.seen, monitor.alarm, monitor.evidence) == (0, None, 1)
    assert not monitor.update((1, 1))


def test_evidence_is_clamped() -> None:
    monitor = DriftMonitor(replace(REGIME, bounds=(1e-3, 1e-3)))
    for _ in range(100):
        monitor.update((1, 1))
    assert max(monitor.state) == np.float32(CEILING)
    assert math.isfinite(monitor.evidence)


def test_false_alarms_are_as_rare_as_promised() -> None:
    level, rng = 30.0, np.random.default_rng(3)
    waits = []
    for _ in range(100):
        monitor = DriftMonitor(replace(REGIME, level=level))
        while not monitor.update((rng.random(), float(rng.random() < 0.2))):  # means exactly at the bounds
            pass
        waits.append(monitor.seen)
    assert np.mean(waits) > level


@pytest.mark.parametrize("z", [(math.nan, 0.1), (0.1, math.nan), (1.01, 0.1), (0.1, -0.01), (math.inf, 0.0)])
def test_bad_inputs_are_refused_and_leave_no_trace(z: tuple[float, float]) -> None:
    monitor = DriftMonitor(REGIME)
    monitor.update((0.9, 0.9))
    before = monitor.state[:]
    with pytest.raises(DataError, match=r"both in \[0, 1\]; found"):
        monitor.update(z)
    assert (monitor.state, monitor.seen) == (before, 1)
    assert not monitor.update((1 + 1e-7, -1e-7))  # what float32 scores may do


# --- the regime ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": 1.0}, "alarm level is a number above 1"),
        ({"level": math.nan}, "alarm level"),
        ({"level": math.inf}, "alarm level"),
        ({"n": 0}, "at least 1 row, found n = 0"),
        ({"bounds": (0.0, 0.5)}, r"in \(0, 1\]; found \(0.0, 0.5\)"),
        ({"bounds": (0.5, math.nan)}, "bounds two means"),
        ({"bounds": (0.5,)}, "bounds two means"),
        ({"costs": ()}, "costs are fractions"),
        ({"costs": (0.5, 2.0)}, "costs are fractions"),
        ({"costs": (math.nan, 1.0)}, "costs are fractions"),
    ],
)
def test_bad_regimes_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        replace(REGIME, **change)


def test_a_regime_survives_json() -> None:
    for regime in (REGIME, replace(REGIME, n=None, score="margin")):
        assert DriftRegime.from_dict(json.loads(json.dumps(regime.to_dict()))) == regime


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"costs": None},
        {"costs": [0.5, "1"]},
        {"costs": [10**400, 1]},
        {"bounds": [0.5, 0.5]},
        {"bounds": {"cost": 0.5}},
        {"bounds": {"cost": True, "doubt": 0.5}},
        {"score": 1},
        {"level": "1e4"},
        {"level": 1},
        {"n": 2.5},
        {"n": 0},
    ],
)
def test_damaged_tables_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match="drift"):
        DriftRegime.from_dict({**REGIME.to_dict(), **change})
    with pytest.raises(PolicyError, match="schema 1, found 'list'"):
        DriftRegime.from_dict([])


# --- in the engine -------------------------------------------------------------------------------------------

X = np.random.default_rng(4).standard_normal((600, 4)).astype(np.float32)
DOUBTFUL = X[:300] * np.float32(0.1)  # small inputs leave the tiny model unsure


@pytest.fixture(scope="module")
def regime(tiny: Path) -> DriftRegime:
    pytest.importorskip("onnxruntime")
    return regime_of(HALF, load(tiny, artifact="chain", warmup=0).record(X[:300]))


@pytest.mark.parametrize("layout", ["chain", "fused"])
def test_engine_says_when_inputs_drift(tiny: Path, regime: DriftRegime, layout: str) -> None:
    engine = load(tiny, artifact=layout, policy=HALF, warmup=0, drift=DriftMonitor(regime))
    assert engine.drift is not None
    assert not any(engine.run(x).drifted for x in X[300:])
    one = [engine.run(x) for x in DOUBTFUL]
    assert one[-1].drifted and not one[0].drifted
    assert engine.drift.alarm == 301 + [d.drifted for d in one].index(True)

    engine.drift = DriftMonitor(regime)
    clean, batch = engine.run_batch(X[300:]), engine.run_batch(DOUBTFUL)
    assert clean.drifted is not None and not clean.drifted.any()
    assert batch.drifted is not None and batch.drifted.tolist() == [d.drifted for d in one]


def test_without_a_monitor_drift_is_unknown(tiny: Path, regime: DriftRegime) -> None:
    engine = load(tiny, artifact="chain", warmup=0)
    assert engine.run(X[0]).drifted is None
    assert engine.run_batch(X[:3]).drifted is None


def test_recording_is_not_watched_and_a_new_policy_keeps_the_monitor(tiny: Path, regime: DriftRegime) -> None:
    engine = load(tiny, artifact="chain", policy=HALF, drift=DriftMonitor(regime))  # nor is the warm-up
    engine.record(X[:5])
    assert engine.drift is not None and engine.drift.seen == 0
    engine.run(X[0])
    engine.policy = Threshold((0.7, 0.7))
    engine.run(X[0])
    assert engine.drift.seen == 2


def test_engine_refuses_a_regime_of_something_else(tiny: Path, regime: DriftRegime) -> None:
    bundle = Bundle.open(tiny)
    four = DriftMonitor(replace(REGIME, costs=(0.1, 0.2, 0.3, 1.0)))
    with pytest.raises(PolicyError, match="of 4 exits, the model has 3"):
        load(bundle, artifact="chain", policy=HALF, warmup=0, drift=four)
    engine = load(bundle, artifact="chain", policy=HALF, warmup=0, drift=DriftMonitor(regime))
    with pytest.raises(PolicyError, match="measured on maxprob, the policy scores by margin"):
        engine.policy = Threshold((0.5, 0.5), "margin")
    assert engine.policy == HALF
    engine.drift = None
    engine.policy = Threshold((0.5, 0.5), "margin")
    with pytest.raises(PolicyError, match="measured on maxprob"):
        engine.drift = DriftMonitor(regime)


def test_a_policy_that_reads_predictions_is_watched_by_maxprob(tiny: Path) -> None:
    pytest.importorskip("onnxruntime")
    rows = load(tiny, artifact="chain", warmup=0).record(X[:300])
    regime = regime_of(Patience(1), rows)
    assert (regime.score, regime.n) == ("maxprob", 300)
    engine = load(tiny, artifact="chain", policy=Patience(1), warmup=0, drift=DriftMonitor(regime))
    assert engine.run(X[0]).drifted is False


def test_regime_of_bounds_both_means(tiny: Path) -> None:
    pytest.importorskip("onnxruntime")
    rows = load(tiny, artifact="chain", warmup=0).record(X)
    batch = load(tiny, artifact="chain", policy=HALF, warmup=0).run_batch(X)
    regime = regime_of(HALF, rows)
    assert regime.costs == tuple(rows.relative_cost)
    cost, doubt = rows.relative_cost[batch.exits].mean(), 1 - batch.scores.mean()
    assert cost < regime.bounds[0] < cost + 0.1
    assert doubt < regime.bounds[1] < doubt + 0.1
    assert regime_of(HALF, rows.take(np.arange(50))).bounds[1] > regime.bounds[1]  # fewer rows, wider
    with pytest.raises(PolicyError, match="eta is a probability"):
        regime_of(HALF, rows, eta=0)
    with pytest.raises(PolicyError, match="alarm level"):
        regime_of(HALF, rows, level=1)


@pytest.mark.parametrize("layout", ["fused", "chain"])
def test_the_regime_travels_with_the_operating_point(copy: Path, layout: str) -> None:
    from edgeexit.calibrate.on_bundle import calibrate_artifact

    engine = load(copy, artifact=layout)
    spec = engine.bundle.manifest.inputs[0]
    x = np.random.default_rng(0).normal(size=(200, *spec.shape[1:])).astype(spec.dtype)  # type: ignore[arg-type]
    calibrate_artifact(engine, {spec.name: x}, None, data={}, accuracy=0.9, name="watched")
    watched = load(copy, policy="watched", drift=True)
    assert watched.run(x[0]).drifted is False and watched.drift is not None and watched.drift.seen == 1
    assert load(copy, policy="watched").run(x[0]).drifted is None
    with pytest.raises(PolicyError, match="drift=True needs an operating point that carries a regime"):
        load(copy, artifact="chain", policy="half-chain", drift=True)
    Bundle.open(copy).with_operating_point(Bundle.open(copy).operating_point("watched"), default=True)
    assert load(copy, drift=True).run(x[0]).drifted is False
