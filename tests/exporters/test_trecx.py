"""T-RECX's published networks, exported, reproduce their published accuracies on the official test sets."""

from __future__ import annotations

import numpy as np
import pytest

import edgeexit
from edgeexit.policy import scores
from shared_data import cifar10_test, gsc12_test_features, trecx_probs, trecx_weights

BATCH = 500
CASES = {
    "resnet8": (63.30, 75.04, 86.36),
    "dscnn": (63.76, 81.74, 89.53, 91.92),
}
MACS = {"resnet8": (5.171, 8.848, 12.521), "dscnn": (0.909, 1.497, 2.086, 2.666)}


@pytest.fixture(scope="module", params=list(CASES))
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    from recipes.trecx import load_trecx

    name = request.param
    module = load_trecx(trecx_weights(name))
    x, y = cifar10_test() if name == "resnet8" else gsc12_test_features()
    bundle = edgeexit.export(module, tmp_path_factory.mktemp(name) / "b.edgeexit")
    return name, bundle, np.ascontiguousarray(x, np.float32), y


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["fused", "chain", "prefix"])
def test_published_accuracies_and_probabilities(network, layout: str) -> None:  # type: ignore[no-untyped-def]
    name, bundle, x, y = network
    expected, _ = trecx_probs(name)
    driver = edgeexit.load(bundle, artifact=layout, warmup=0).driver
    parts = [driver.all_exits([x[i : i + BATCH]]).outputs for i in range(0, len(x), BATCH)]
    for k, accuracy in enumerate(CASES[name]):
        probs = scores.probabilities(np.concatenate([p[k] for p in parts]))
        assert 100 * (probs.argmax(1) == y).mean() == pytest.approx(accuracy, abs=0.02)
        assert np.abs(probs - expected[k]).max() < 1e-4


def test_stage_costs_are_the_published_ones(network) -> None:  # type: ignore[no-untyped-def]
    name, bundle, *_ = network
    found = [e.macs / 1e6 for e in bundle.manifest.exits]
    assert found == pytest.approx(MACS[name], rel=0.003)  # the source counts heads and biases a little differently


@pytest.mark.slow
def test_fused_and_chain_leave_at_the_same_exits_as_the_replay(network) -> None:  # type: ignore[no-untyped-def]
    name, bundle, x, y = network
    x, y = x[:600], y[:600]
    chain, fused = (edgeexit.load(bundle, artifact=a, warmup=0) for a in ("chain", "fused"))
    records = {"chain": chain.record(x, y), "fused": fused.record(x, y)}
    design, _ = records["fused"].split(0.5, 0)
    from edgeexit.calibrate import calibrate

    policy = calibrate(design, budget=0.7).policy
    chain.policy = fused.policy = policy
    for engine in (chain, fused):
        taken = edgeexit.replay(policy, records[engine.artifact.layout])
        assert [engine.run(row).exit for row in x] == taken.tolist()
        assert engine.run_batch(x).exits.tolist() == taken.tolist()
    assert len(np.unique(taken)) > 1, f"{name}: the policy should use several exits"
