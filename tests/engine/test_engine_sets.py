"""Prediction sets that the engine gives with its answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgeexit
from edgeexit.calibrate.on_bundle import calibrate_artifact
from edgeexit.errors import DataError, PolicyError
from edgeexit.policy.policies import Threshold

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("layout", ["fused", "chain"])
@pytest.mark.parametrize("mode", ["nested", "policy"])
def test_sets_come_along(copy: Path, layout: str, mode: str) -> None:
    engine = edgeexit.load(copy, artifact=layout)
    spec = engine.bundle.manifest.inputs[0]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, *spec.shape[1:])).astype(spec.dtype)  # type: ignore[arg-type]
    y = engine.record(x).predictions[-1]
    y = np.where(rng.random(600) < 0.2, rng.integers(0, y.max() + 1, 600), y)  # not always right
    _, point = calibrate_artifact(
        engine, {spec.name: x}, y, data={}, budget=None, accuracy_drop=0.2, name="s", sets=0.2, set_mode=mode
    )
    engine = edgeexit.load(copy, policy="s")
    covered, sizes = [], []
    for row, label in zip(x, y, strict=True):
        kept = engine.run(row).prediction_set
        assert kept is not None and kept.dtype == bool
        covered.append(kept[label])
        sizes.append(kept.sum())
    assert np.mean(covered) >= 0.75 and np.mean(sizes) < len(kept)
    assert engine.sets is not None and "0.8" in engine.sets.promise
    late = engine.run(x[0], deadline_s=1e-9)
    assert (late.prediction_set is None) == (mode == "policy" and late.reason == "deadline")
    other = Threshold((0.1,) * (engine.exits - 1), engine.artifact.score or "maxprob")
    if mode == "policy":
        with pytest.raises(PolicyError, match="hold only under the policy"):
            engine.policy = other
        engine.sets = None
    engine.policy = other
    assert (engine.run(x[0]).prediction_set is None) == (mode == "policy")
    assert point.sets is not None and 0 < point.expected["set_coverage"] <= 1


def test_no_rows_of_their_own(copy: Path) -> None:
    engine = edgeexit.load(copy)
    spec = engine.bundle.manifest.inputs[0]
    x = np.random.default_rng(0).normal(size=(50, *spec.shape[1:])).astype(spec.dtype)  # type: ignore[arg-type]
    from edgeexit.calibrate import calibrate

    with pytest.raises(DataError, match="rows of their own"):
        calibrate(engine.record(x, np.arange(50) % 3), budget=0.9, sets=0.1)
