"""The joint CTC loss, batches, augmentation, greedy answers and error rates."""

from __future__ import annotations

import math
from itertools import groupby, product

import numpy as np
import pytest
import torch

from edgeexit.bundle.feature_spec import FeatureSpec
from edgeexit.errors import DataError, ModelError
from edgeexit_models.speech.augment import random_channel, random_tract, spec_augment
from edgeexit_models.speech.batch import make_batch
from edgeexit_models.speech.loss import exit_losses, joint_ctc
from edgeexit_models.speech.measure import edit_distance


def exits(*outputs: torch.Tensor, lengths: tuple[int, ...]) -> list[dict[str, torch.Tensor]]:
    return [{"output": o.log_softmax(-1), "lengths": torch.tensor(lengths)} for o in outputs]


def test_the_loss_is_the_probability_of_all_alignments_summed_over_exits() -> None:
    torch.manual_seed(0)
    made = exits(torch.randn(1, 4, 3), torch.randn(1, 4, 3), lengths=(4,))
    paths = [p for p in product(range(3), repeat=4) if [t for t, _ in groupby(p) if t] == [1, 2]]
    wanted = []
    for e in made:
        total = sum(math.exp(sum(float(e["output"][0, i, t]) for i, t in enumerate(path))) for path in paths)
        wanted.append(-math.log(total) / 2)  # per token
    targets, lens = torch.tensor([1, 2]), torch.tensor([2])
    assert exit_losses(made, targets, lens).tolist() == pytest.approx(wanted, rel=1e-5)
    assert float(joint_ctc(made, targets, lens)) == pytest.approx(sum(wanted), rel=1e-5)
    assert float(joint_ctc(made, targets, lens, (0.5, 2))) == pytest.approx(0.5 * wanted[0] + 2 * wanted[1], rel=1e-5)


def test_frames_behind_the_end_do_not_count() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 6, 3)
    padded = logits.clone()
    padded[1, 3:] = 50.0
    targets, lens = torch.tensor([1, 2, 1]), torch.tensor([2, 1])
    a, b = (joint_ctc(exits(v, lengths=(6, 3)), targets, lens) for v in (logits, padded))
    assert float(a) == pytest.approx(float(b))


def test_a_text_too_long_for_its_frames_teaches_nothing() -> None:
    logits = torch.randn(1, 2, 3, requires_grad=True)
    loss = joint_ctc(exits(logits, lengths=(2,)), torch.tensor([1, 1]), torch.tensor([2]))  # 1 1 needs three frames
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not bool(logits.grad.any())


@pytest.mark.parametrize("weights", [(1.0,), (1.0, -1.0), (0.0, 0.0)])
def test_wrong_weights_are_refused(weights: tuple[float, ...]) -> None:
    made = exits(torch.randn(1, 4, 3), torch.randn(1, 4, 3), lengths=(4,))
    with pytest.raises(ModelError, match="one weight >= 0 per exit"):
        joint_ctc(made, torch.tensor([1]), torch.tensor([1]), weights)


def test_a_batch_is_padded_and_remembers_lengths() -> None:
    batch = make_batch([np.ones((2, 3), np.float32), np.full((4, 3), 2, np.float32)], [(1, 2), (3,)])
    assert batch.x.sum(2).tolist() == [[3, 3, 0, 0], [6, 6, 6, 6]]
    assert batch.x_lens.tolist() == [2, 4]
    assert batch.targets.tolist() == [1, 2, 3]
    assert batch.target_lens.tolist() == [2, 1]
    with pytest.raises(DataError, match="1 utterances and 2 texts"):
        make_batch([np.ones((2, 3), np.float32)], [(1,), (2,)])
    with pytest.raises(DataError, match="one width"):
        make_batch([np.ones((2, 3), np.float32), np.ones((2, 4), np.float32)], [(1,), (2,)])


def test_augmentation_leaves_the_original_and_repeats_by_seed() -> None:
    x = np.random.default_rng(0).normal(size=(50, 20)).astype(np.float32)
    before, fill = x.copy(), np.full(20, 7, np.float32)
    spec = FeatureSpec(sample_rate=8000, bins=20)
    for change in (
        lambda rng: spec_augment(x, rng, fill),
        lambda rng: random_channel(x, rng),
        lambda rng: random_tract(x, rng, spec),
    ):
        a, b = (change(np.random.default_rng(3)) for _ in range(2))
        assert (a == b).all()
        assert (a != x).any()
        assert (x == before).all()
        assert a.dtype == np.float32
    masked = spec_augment(x, np.random.default_rng(3), fill)
    assert set(np.unique(masked[masked != x])) == {7}
    moved = random_channel(x, np.random.default_rng(3)) - x
    assert np.allclose(moved, moved[0], atol=1e-5)  # one curve for all frames
    assert spec_augment(x[:1], np.random.default_rng(0), fill).shape == (1, 20)


def test_edit_distance() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance([], [1, 2]) == edit_distance([1, 2], []) == 2
    assert edit_distance([1, 2, 3], [1, 2, 3]) == 0


def test_a_longer_vocal_tract_moves_a_peak_by_its_factor() -> None:
    spec = FeatureSpec(sample_rate=8000, bins=40)
    mel = np.linspace(1127 * np.log1p(20 / 700), 1127 * np.log1p(4000 / 700), 42)[1:-1]
    centres = 700 * np.expm1(mel / 1127)
    peak = np.exp(-(((centres - 1500) / 200) ** 2))[None].astype(np.float32)
    for seed in range(5):
        factor = np.random.default_rng(seed).uniform(0.9, 1.1)
        moved = random_tract(peak, np.random.default_rng(seed), spec)[0]
        assert (moved * centres).sum() / moved.sum() == pytest.approx(1500 / factor, rel=0.02)
    same = random_tract(peak, np.random.default_rng(0), spec, most=0.0)
    assert np.allclose(same, peak, atol=1e-5)
