"""Training: it learns, repeats by seed, resumes to the same weights, and refuses what it cannot use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgeexit.errors import ModelError
from edgeexit_models.speech.batch import Batch, make_batch
from edgeexit_models.speech.config import ConformerConfig
from edgeexit_models.speech.conformer import EarlyExitConformer
from edgeexit_models.speech.measure import answers, error_rates
from edgeexit_models.speech.trainer import Noam, OneCycle, Progress, feature_statistics, fit_ctc

CONFIG = ConformerConfig(
    bins=6, vocab=4, layers=2, width=16, heads=2, feed_forward=32, kernel=5, exits=(1, 2), chunk=4, left=4
)  # fmt: skip
TONES = np.eye(3, 6, dtype=np.float32) * 3


def utterances(step: int, count: int = 8) -> tuple[list[np.ndarray], list[list[int]]]:
    """Tokens 1 to 3 as three loud bins, 12 frames each, with silence between."""
    rng = np.random.default_rng(step)
    texts = [[int(t) for t in rng.integers(1, 4, rng.integers(1, 4))] for _ in range(count)]
    sounds = []
    for text in texts:
        parts = [np.vstack([np.tile(TONES[t - 1], (12, 1)), np.zeros((8, 6), np.float32)]) for t in text]
        sounds.append((np.vstack(parts) + rng.normal(0, 0.1, (20 * len(text), 6))).astype(np.float32))
    return sounds, texts


def batch_at(step: int) -> Batch:
    return make_batch(*utterances(step))


def network() -> EarlyExitConformer:
    torch.manual_seed(0)
    return EarlyExitConformer(CONFIG)


def run(model: EarlyExitConformer, steps: int = 6, **more: object) -> tuple[Progress, ...]:
    settings = {"seed": 1, "schedule": OneCycle(6, 1e-2), "report_every": 2, "progress": False, **more}
    return fit_ctc(model, batch_at, steps=steps, **settings)  # type: ignore[arg-type]


def test_every_exit_learns_to_tell_tones() -> None:
    model = network()
    said = utterances(10**6, 20)
    reports = run(
        model, 150, schedule=OneCycle(150, 1e-2), report_every=50, validate_every=100,
        validate=lambda m: error_rates(m, *said),
    )  # fmt: skip
    assert [r.step for r in reports] == [50, 100, 150]
    assert reports[0].errors is None
    assert reports[-1].errors is not None
    assert max(reports[-1].errors) < 0.05
    assert not model.training
    assert reports[-1].loss < 0.2 * reports[0].loss
    assert 0 < reports[0].cpu_seconds < reports[-1].cpu_seconds
    heard = answers(model, said[0])
    assert sum(a == b for a, b in zip(heard[1], said[1], strict=True)) >= 18  # in the order they were given


def test_a_resumed_run_ends_in_the_same_weights(tmp_path: Path) -> None:
    whole, parted = network(), network()
    reports = run(whole)
    path = tmp_path / "c.pt"

    class Stopped(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.step == 4:
            raise Stopped

    with pytest.raises(Stopped):
        run(parted, checkpoint=path, save_seconds=0.0, progress=stop)
    torch.manual_seed(99)
    fresh = network()
    again = run(fresh, checkpoint=path, resume=True)
    assert [r.step for r in again] == [2, 4, 6]
    assert [r.loss for r in again] == [r.loss for r in reports]
    assert again[-1].cpu_seconds >= again[1].cpu_seconds
    for a, b in zip(whole.state_dict().values(), fresh.state_dict().values(), strict=True):
        assert bool((a == b).all())
    with pytest.raises(ModelError, match="resume=True"):
        run(network(), checkpoint=path)
    with pytest.raises(ModelError, match="seed: 1 there, 2 now"):
        run(network(), checkpoint=path, resume=True, seed=2)


def test_a_loss_that_is_no_number_is_reported() -> None:
    with pytest.raises(ModelError, match="step 1: lower the learning rate"):
        fit_ctc(
            network(), lambda step: batch_at(step)._replace(x=torch.full((8, 60, 6), torch.nan)), steps=1, seed=0,
            schedule=OneCycle(1, 1e-3),
        )  # fmt: skip


def test_the_papers_schedule() -> None:
    rate = Noam(width=256, warm_up=100)
    assert rate(99) == pytest.approx(256**-0.5 * 100**-0.5)
    assert rate(49) == pytest.approx(rate(99) / 2)
    assert rate(399) == pytest.approx(rate(99) / 2)


def test_feature_statistics() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(3, 2, (n, 4)).astype(np.float32) for n in (5, 50, 1)]
    mean, deviation = feature_statistics(parts)
    together = np.concatenate(parts)
    assert np.allclose(mean, together.mean(0), atol=1e-5)
    assert np.allclose(deviation, together.std(0), atol=1e-5)
    with pytest.raises(ModelError, match="no feature frames"):
        feature_statistics([])
    with pytest.raises(ModelError, match="never changes"):
        feature_statistics([np.zeros((9, 4))])
