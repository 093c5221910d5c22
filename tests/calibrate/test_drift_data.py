"""The drift monitor on recorded Fashion-MNIST outputs: quiet on clean streams, quick on noise."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from edgeexit.calibrate import pareto
from edgeexit.calibrate.guarantees.regime import regime_of
from edgeexit.policy.drift import CEILING, KAPPA, DriftMonitor, DriftRegime
from edgeexit.policy.policies import Policy
from edgeexit.records.classification import Records, replay
from shared_data import data_dir


@cache
def recorded() -> dict[str, Records]:
    """Design and calibration: halves of validation; test, and shifted copies of it. Skips without the data pack."""
    path = data_dir() / "fm_logits" / "fashion_mnist_4exits_logits.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not in the data pack")
    z = np.load(path, allow_pickle=False)
    halves = {"design": z["val"][:, :5000], "calibration": z["val"][:, 5000:]}
    found = {**halves, **{name: z[name] for name in ("test", "noise16", "noise32", "noise64", "dark")}}
    labels = {"design": z["yval"][:5000], "calibration": z["yval"][5000:]}
    return {k: Records(v, z["macs"].astype(float), labels.get(k, z["ytest"]), name=k) for k, v in found.items()}


@cache
def guarded() -> tuple[Policy, DriftRegime]:
    policy = pareto(recorded()["design"]).for_budget(0.3).policy
    return policy, regime_of(policy, recorded()["calibration"])


def stream(name: str, streams: int, length: int, seed: int) -> np.ndarray:
    """Relative cost and doubt `(length, streams, 2)` of random rows."""
    rows, (policy, regime) = recorded()[name], guarded()
    taken = replay(policy, rows)
    doubt = 1 - rows.scores(regime.score)[taken, np.arange(rows.n)]
    z = np.stack([np.asarray(regime.costs)[taken], doubt], -1)
    return z[np.random.default_rng(seed).integers(0, rows.n, (length, streams))]


def first_alarm(z: np.ndarray) -> np.ndarray:
    """`(streams,)` inputs until the alarm, infinity where there is none: the monitor, all streams at once."""
    regime = guarded()[1]
    wealth = np.ones((z.shape[1], 2, len(KAPPA)))
    found = np.full(z.shape[1], np.inf)
    for t, row in enumerate(z, 1):
        gain = row / regime.bounds - 1
        wealth = np.minimum(np.maximum(wealth, 1) * (1 + gain[..., None] * KAPPA), CEILING)
        found[(wealth.mean((1, 2)) >= regime.level) & np.isinf(found)] = t
    return found


def test_clean_streams_are_quiet() -> None:
    alarms = np.isfinite(first_alarm(stream("test", 200, 4000, 0)))
    assert alarms.mean() <= 0.01


@pytest.mark.parametrize(("name", "most"), [("noise16", 300), ("noise32", 60), ("noise64", 30)])
@pytest.mark.parametrize("before", [0, 2000])
def test_noise_is_found_soon_even_after_a_long_quiet_time(name: str, most: int, before: int) -> None:
    z = np.concatenate([stream("test", 60, before, 1), stream(name, 60, 2000, 2)])
    delays = first_alarm(z) - before
    assert (delays > 0).all()
    assert np.median(delays) <= most
    assert name == "noise16" or np.mean(delays <= most) >= 0.95


def test_the_monitor_is_the_vectorised_one() -> None:
    z = np.concatenate([stream("test", 5, 500, 3), stream("noise32", 5, 200, 4)])
    expected = first_alarm(z)
    for i in range(5):
        monitor = DriftMonitor(guarded()[1])
        for cost, doubt in z[:, i].tolist():
            monitor.update((cost, doubt))
        assert monitor.alarm is not None and abs(monitor.alarm - expected[i]) <= 1  # float32 against float64
