"""chain == fused == prefix == all == the source, at every exit, on networks nobody drew by hand."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_models import random_dag, save

import edgeexit
from edgeexit import Threshold, fixed_exit


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), length=st.integers(2, 10), exits=st.integers(2, 4), seed=st.integers(0, 99))
def test_every_layout_answers_like_the_source(data: st.DataObject, length: int, exits: int, seed: int) -> None:
    model = random_dag(lambda low, high: data.draw(st.integers(low, high)), length, exits, seed)
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((5, 4)).astype(np.float32)
    names = [f"y{k}" for k in range(exits)]
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(names, {"x": x})
    with tempfile.TemporaryDirectory() as folder:
        bundle = edgeexit.export(save(model, Path(folder)), Path(folder, "b.edgeexit"), exits=names)
        assert bundle.manifest.batch == "dynamic"
        for layout in ("chain", "fused", "prefix"):
            engine = edgeexit.load(bundle, artifact=layout, warmup=0)
            for k in range(exits):
                engine.policy = fixed_exit(k, exits)
                for row, want in zip(x, expected[k], strict=True):
                    found = engine.run(row)
                    assert found.exit == k
                    np.testing.assert_allclose(found.output, want, rtol=1e-4, atol=1e-5)
        whole = edgeexit.load(bundle, artifact="all", warmup=0).driver.all_exits([x]).outputs
        for k in range(exits):
            np.testing.assert_allclose(whole[k], expected[k], rtol=1e-4, atol=1e-5)
        _decisions_agree(bundle, x, exits)


def _decisions_agree(bundle: edgeexit.Bundle, x: np.ndarray, exits: int) -> None:  # type: ignore[type-arg]
    """One by one, in a thinned-out batch, fused and replayed: the same exits."""
    chain = edgeexit.load(bundle, artifact="chain", warmup=0)
    records = chain.record(x)
    # Between two scores of every exit, so that some rows leave and some stay.
    policy = Threshold(tuple(float(np.sort(s)[1:3].mean()) for s in records.scores("maxprob")[:-1]))
    safe = np.min(np.abs(records.scores("maxprob")[:-1] - np.array(policy.thresholds)[:, None]), 0) > 1e-5
    taken = edgeexit.replay(policy, records)
    chain.policy = policy
    fused = edgeexit.load(bundle, artifact="fused", policy=policy, warmup=0)
    assert [chain.run(row).exit for row in x] == taken.tolist()
    batch = chain.run_batch(x)
    assert (batch.exits == taken)[safe].all()
    assert (np.array([fused.run(row).exit for row in x]) == taken)[safe].all()
    for k, output, row in zip(batch.exits, batch.outputs, range(len(x)), strict=True):
        np.testing.assert_allclose(output, records.outputs[k, row], rtol=1e-4, atol=1e-5)


def test_random_networks_are_not_all_alike() -> None:
    """Guards the property test: its generator makes wide cuts and shape reads."""
    rng = np.random.default_rng(0)
    kinds: set[str] = set()
    for seed in range(10):
        model = random_dag(lambda low, high: int(rng.integers(low, high + 1)), 8, 3, seed)
        kinds |= {n.op_type for n in model.graph.node}
        onnx.checker.check_model(model)
    assert {"Shape", "Reshape", "Concat", "Split", "Add"} <= kinds
