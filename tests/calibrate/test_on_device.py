"""A new budget, solved on the device from the scores that the bundle carries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgeexit
from edgeexit.calibrate.on_bundle import calibrate_artifact
from edgeexit.calibrate.on_device import exit_seconds, solve_budget
from edgeexit.errors import Infeasible, PolicyError

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("layout", ["fused", "chain"])
def test_solved_again(copy: Path, layout: str) -> None:
    engine = edgeexit.load(copy, artifact=layout)
    spec = engine.bundle.manifest.inputs[0]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, *(a if isinstance(a, int) else 1 for a in spec.shape[1:]))).astype(spec.dtype)
    calibrate_artifact(engine, {spec.name: x}, rng.integers(0, 3, 300), data={}, policy="eero", accuracy=0.01)
    engine = edgeexit.load(copy, artifact=layout)
    cost = engine.costs()[0]
    for share in (0.5, 0.8):
        budget = float(cost[0] + share * (cost[-1] - cost[0])) / float(cost[-1])
        engine.policy = solve_budget(engine, budget)
        taken = engine.run_batch(x).exits
        assert cost[taken].mean() / cost[-1] <= budget + 1e-9
    assert solve_budget(engine, f"{cost[-1]:.0f}MACs") == solve_budget(engine, 1.0)
    with pytest.raises(Infeasible, match="below the first exit's"):
        solve_budget(engine, "0.5MACs")
    seconds = exit_seconds(engine)
    assert seconds is not None and len(seconds) == engine.exits


def test_without_scores(tiny: Path) -> None:
    engine = edgeexit.load(tiny)
    engine.artifact = replace(engine.artifact, calibration=None)
    with pytest.raises(PolicyError, match="carries no calibration scores; run `edgeexit calibrate`"):
        solve_budget(engine, 0.5)
