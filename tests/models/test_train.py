"""The trainer: it learns, repeats itself, resumes exactly, and refuses what it cannot do."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeexit.errors import DataError, ModelError
from edgeexit_models import CropFlip, Epoch, SelfDistillation, WeightedSum, digits, evaluate, fit, predict
from edgeexit_models.training.steps import learning_rate
from shared_data import optdigits

LOSS = WeightedSum((0.5, 0.5, 1.0))


class Interrupted(Exception):
    """Stands for a pulled plug."""


def toy() -> tuple[np.ndarray, np.ndarray]:
    """120 pictures of three classes that a few epochs can tell apart."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 120)
    x = rng.integers(0, 5, (120, 1, 8, 8)).astype(np.uint8)
    x[np.arange(120), 0, y * 2, :] += 10
    return x, y


class WithDropout(nn.Module):
    """The digits net with chance inside, so that resuming must also restore torch's own generator."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.net = digits(3)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = self.net(self.dropout(x))
        return outputs


def train(module: nn.Module, epochs: int = 4, **more: object) -> Tensor:
    """Trains on the toy data and returns all weights as one vector."""
    settings: dict[str, object] = {
        "seed": 1,
        "batch_size": 16,
        "lr": 0.05,
        "loss": LOSS,
        "augment": CropFlip(1),
        **more,
    }
    fit(module, toy(), epochs=epochs, threads=1, **settings)  # type: ignore[arg-type]
    return torch.cat([value.double().flatten() for value in module.state_dict().values()])


def test_learns_the_toy_data() -> None:
    module = WithDropout()
    x, y = toy()
    before = evaluate(module, x, y)
    train(module, 6, augment=None)
    assert not module.training
    assert evaluate(module, x, y)[-1] > max(before[-1], 0.9)


def test_same_seed_same_weights_and_the_callers_randomness_is_left_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    module = digits(3)
    torch.manual_seed(7)
    train(module, 1)
    torch.testing.assert_close(torch.rand(1), expected)
    first, second, third = (train(WithDropout(), 2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_resuming_ends_in_the_same_weights(tmp_path: Path) -> None:
    whole = train(WithDropout())

    def stop(epoch: Epoch) -> None:
        if epoch.number == 1:
            raise Interrupted

    file = tmp_path / "deep" / "c.pt"
    with pytest.raises(Interrupted):
        train(WithDropout(), checkpoint=file, progress=stop)
    assert [p.name for p in file.parent.iterdir()] == ["c.pt"]
    resumed = WithDropout()
    assert torch.equal(train(resumed, checkpoint=file, resume=True), whole)
    assert torch.equal(train(WithDropout(), checkpoint=file, resume=True), whole)  # finished: only loads


def test_history_survives_an_interruption(tmp_path: Path) -> None:
    file = tmp_path / "c.pt"
    data = toy()

    def stop(epoch: Epoch) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        fit(
            digits(3),
            data,
            epochs=3,
            seed=0,
            batch_size=16,
            lr=0.1,
            loss=LOSS,
            checkpoint=file,
            progress=stop,
        )
    history = fit(
        digits(3), data, epochs=3, seed=0, batch_size=16, lr=0.1, loss=LOSS,
        checkpoint=file, resume=True, validation=data,
    )  # fmt: skip
    assert [epoch.number for epoch in history.epochs] == [0, 1, 2]
    assert history.epochs[0].accuracy is None
    assert len(history.epochs[2].accuracy or ()) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2}, "seed: 1 there, 2 now"),
        ({"lr": 0.5}, "lr: 0.05 there, 0.5 now"),
        ({"loss": SelfDistillation((0.5, 0.5, 1.0))}, "loss: 'WeightedSum"),
        ({"augment": None}, "augment: "),
    ],
)
def test_checkpoints_of_other_settings_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    file = tmp_path / "c.pt"
    train(digits(3), 1, checkpoint=file)
    with pytest.raises(ModelError, match=message):
        train(digits(3), 1, checkpoint=file, resume=True, **change)


def test_checkpoints_are_not_overwritten_and_damaged_ones_are_named(tmp_path: Path) -> None:
    file = tmp_path / "c.pt"
    train(digits(3), 1, checkpoint=file)
    with pytest.raises(ModelError, match="resume=True"):
        train(digits(3), 1, checkpoint=file)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ModelError, match=r"c\.pt: cannot be read as a checkpoint"):
        train(digits(3), 1, checkpoint=file, resume=True)
    torch.save({"weights": 1}, file)
    with pytest.raises(ModelError, match="not a training checkpoint of format"):
        train(digits(3), 1, checkpoint=file, resume=True)


def test_a_loss_that_is_not_a_number_stops_the_run() -> None:
    x, y = toy()
    poisoned = x.astype(np.float32)
    poisoned[:, 0, 0, 0] = np.nan
    with pytest.raises(ModelError, match=r"loss became nan in epoch 1: lower lr"):
        fit(digits(3), (poisoned, y), epochs=1, seed=0, batch_size=16, lr=0.1, loss=LOSS)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((3, 1, 8, 8)), np.zeros(2, np.int64), "3 inputs but 2 classes"),
        (np.zeros((0, 1, 8, 8)), np.zeros(0, np.int64), "at least 1"),
        (np.zeros((3, 1, 8, 8)), np.zeros(3), "whole numbers"),
        (np.zeros((3, 1, 8, 8)), np.zeros((3, 10), np.int64), r"got torch.int64 \(3, 10\)"),
    ],
)
def test_data_that_does_not_fit_is_refused(x: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit(digits(3), (x, y), epochs=1, seed=0, batch_size=2, lr=0.1, loss=LOSS)


def test_the_learning_rate_climbs_and_falls_to_nothing() -> None:
    rates = [learning_rate(step, 100, 0.4) for step in range(100)]
    assert max(rates) == 0.4
    assert rates.index(0.4) == 14
    assert all(a < b for a, b in pairwise(rates[:15]))
    assert all(a >= b for a, b in pairwise(rates[15:]))
    assert rates[-1] < 0.001


def test_threads_are_as_asked_while_training_and_come_back() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    fit(
        digits(3), toy(), epochs=1, seed=0, batch_size=16, lr=0.1, loss=LOSS,
        threads=before + 1, progress=lambda _: seen.append(torch.get_num_threads()),
    )  # fmt: skip
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_measuring_puts_every_part_back_into_its_mode() -> None:
    module = digits(3).train()
    module.stages[0].eval()
    evaluate(module, *toy())
    assert module.training
    assert not module.stages[0][0].norm.training


def test_predict_keeps_the_mode_and_does_not_depend_on_batches() -> None:
    module = digits(3).train()
    x, _ = toy()
    whole = predict(module, x)
    assert module.training
    assert whole.shape == (3, 120, 3)
    torch.testing.assert_close(predict(module, x, batch_size=7), whole)


def test_crops_keep_the_picture_and_stay_within_the_pad() -> None:
    x = torch.zeros(64, 1, 8, 8)
    x[:, 0, 4, 2] = 1.0
    moved = CropFlip(pad=2, fill=0.5)(x, torch.Generator().manual_seed(0))
    rows, columns = zip(*[divmod(int(picture.eq(1).flatten().nonzero()[0]), 8) for picture in moved], strict=True)
    assert set(rows) == {2, 3, 4, 5, 6}
    assert set(columns) == {0, 1, 2, 3, 4} | {3, 4, 5, 6, 7}  # mirrored ones start at 5
    still = CropFlip(pad=2, mirror=False)(x, torch.Generator().manual_seed(0))
    assert {int(picture[0].sum(0).argmax()) for picture in still} == {0, 1, 2, 3, 4}


@pytest.mark.slow
def test_digits_reach_the_promised_accuracy() -> None:
    x_train, y_train, x_test, y_test = optdigits()
    torch.manual_seed(0)
    module = digits()
    fit(
        module,
        (x_train, y_train),
        epochs=4,
        seed=0,
        batch_size=64,
        lr=0.1,
        loss=SelfDistillation((0.4, 0.6, 1.0)),
    )
    first, middle, last = evaluate(module, x_test, y_test)
    assert last > 0.96
    assert first < middle < last + 0.01
    assert first > 0.75
