"""Learned scores from training to the device: PredictedError -> bundle -> calibrated policy -> decision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import edgeexit
from edgeexit.calibrate import calibrate
from edgeexit.calibrate.guarantees.risk import Guarantee
from edgeexit_models import PredictedError, WeightedSum, digits, fit, fit_predicted_error, learned_scores
from edgeexit_models.data.optdigits import load_optdigits


@pytest.fixture(scope="module")
def net() -> PredictedError:
    """A barely trained network with heads that know where it errs."""
    data = load_optdigits()
    torch.manual_seed(0)
    network = digits()
    loss = WeightedSum((1.0, 1.0, 1.0))
    rows = data.x_train[:1000], data.y_train[:1000]
    fit(network, rows, epochs=2, seed=0, batch_size=50, lr=0.05, loss=loss, progress=False)
    found = PredictedError(network, example=torch.zeros(1, 1, 8, 8), at=["heads.0", "heads.1", "heads.2"])
    fit_predicted_error(found, (data.x_design, data.y_design), target="label")
    return found


def test_the_device_sees_the_score_that_training_saw(net: PredictedError, tmp_path: Path) -> None:
    data = load_optdigits()
    bundle = edgeexit.export(net, tmp_path / "learned.edgeexit", score="learned")
    assert [e.learned is not None for e in bundle.manifest.exits] == [True] * 3
    x, y = data.x_test[:400], data.y_test[:400]
    want = learned_scores(net, x).numpy()
    for layout in ("fused", "chain"):
        records = edgeexit.load(bundle, artifact=layout, warmup=0).record(x, y)
        np.testing.assert_allclose(records.scores("learned"), want, atol=1e-5)
        design, held_out = records.split(0.5, seed=0)
        asked = Guarantee.parse("disagreement<=0.2@0.9")
        point = calibrate(design, score="learned", guarantee=asked, held_out=held_out, artifact=f"onnx-{layout}-fp32")
        assert point.promise is not None and point.promise["measured"] <= 0.2
        engine = edgeexit.load(bundle, artifact=layout, warmup=0)
        engine.follow(point)
        taken = edgeexit.replay(point.policy, records)
        assert [engine.run(row).exit for row in x[:60]] == taken[:60].tolist()
        assert len(set(taken.tolist())) > 1
