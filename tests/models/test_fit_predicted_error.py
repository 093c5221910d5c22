"""Fitting of error heads: the network does not change, the scores are better than maxprob, fits repeat."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeexit.calibrate.metrics.uncertainty import auroc
from edgeexit.errors import DataError, ModelError
from edgeexit_models import (
    PredictedError,
    WeightedSum,
    digits,
    fit,
    fit_predicted_error,
    learned_scores,
    predict,
)
from edgeexit_models.data.optdigits import OptDigits, load_optdigits
from edgeexit_models.definitions.digits import Digits
from edgeexit_models.wrappers.predicted_error import logit_features

PICTURES = torch.rand(4, 1, 8, 8) * 16
HEADS = ("heads.0", "heads.1", "heads.2")


@pytest.fixture(scope="module")
def data() -> OptDigits:
    return load_optdigits()


@pytest.fixture(scope="module")
def net(data: OptDigits) -> Digits:
    """Three epochs on the training rows; nobody changes it."""
    torch.manual_seed(0)
    module = digits()
    fit(module, (data.x_train, data.y_train), epochs=3, seed=0, batch_size=64, lr=0.05, loss=WeightedSum((1, 1, 1)))
    return module


def states(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("target", ["last", "label"])
@pytest.mark.parametrize("at", [None, HEADS])
def test_on_new_digits_scores_are_more_honest_than_maxprob_and_rank_as_well(
    net: Digits, data: OptDigits, at: tuple[str, ...] | None, target: str
) -> None:
    module = PredictedError(net, example=PICTURES, at=at)
    before = states(net)
    fits = fit_predicted_error(module, (data.x_design, data.y_design), target=target)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    logits = predict(net, data.x_test)
    truth = logits[-1].argmax(1) if target == "last" else torch.as_tensor(data.y_test)
    scores = zip(learned_scores(module, data.x_test), logits.softmax(2).amax(2), strict=True)
    for k, (score, maxprob) in enumerate(scores):
        right = (logits[k].argmax(1) == truth).numpy().astype(int)
        if k == 2 and target == "last":
            assert fits[k].errors == 0 and score.unique().shape == (1,) and score[0] > 0.99
            continue
        assert 10 < fits[k].errors < 60 and fits[k].after < fits[k].before
        brier = [float(np.mean((1 - s.numpy() - (1 - right)) ** 2)) for s in (score, maxprob)]
        # with 30 errors and fewer, 69 features and more have nothing to gain, and may lose a little
        gains = k == 0 or (k == 1 and at is None)
        assert brier[0] < brier[1] * (1 if gains else 1.1)
        assert auroc(score.numpy(), right) > auroc(maxprob.numpy(), right) - 0.02


def test_features_beside_the_logits_can_tell_errors_that_logits_hide() -> None:
    """One feature says when exit 0 is wrong; its logits are equally sure of everything."""

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.early, self.late = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
            with torch.no_grad():
                self.early.weight.copy_(torch.tensor([[3.0, 0.0], [-3.0, 0.0]]))

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            y = self.early(x)
            flipped = torch.where(x[:, 1:] > 0, y.flip(1), y)
            return y, flipped + 0 * self.late(x)

    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 2, (600, 2), generator=generator) * 2.0 - 1
    scores = {}
    for at in (None, ("early", "late")):
        module = PredictedError(Hidden(), example=x[:2], at=at)
        fit_predicted_error(module, x[:300], target="last", l2=1.0)
        scores[at] = learned_scores(module, x[300:])[0]
    wrong = x[300:, 1] > 0
    assert scores[None].std() < 1e-3
    assert scores["early", "late"][wrong].max() < 0.1 < 0.9 < scores["early", "late"][~wrong].min()


def test_fits_repeat_and_do_not_depend_on_earlier_ones_or_the_batches(net: Digits, data: OptDigits) -> None:
    def fitted(module: PredictedError, **more: int) -> Tensor:
        fit_predicted_error(module, data.x_design[:300], target="last", **more)
        return torch.cat([p.flatten() for p in module.heads.parameters()]).clone()

    first = PredictedError(net, example=PICTURES, at=HEADS)
    wanted = fitted(first)
    torch.manual_seed(3)
    assert torch.equal(fitted(PredictedError(net, example=PICTURES, at=HEADS)), wanted)
    fit_predicted_error(first, (data.x_design[300:], data.y_design[300:]), target="label")
    assert torch.equal(fitted(first), wanted)
    torch.testing.assert_close(fitted(first, batch_size=77), wanted, rtol=1e-3, atol=1e-4)


def test_errors_of_one_kind_only_give_the_rule_of_succession(net: Digits, data: OptDigits) -> None:
    module = PredictedError(net, example=PICTURES)
    x = data.x_design[:98]
    answers = predict(net, x).argmax(2)
    fits = fit_predicted_error(module, (x, answers[0].numpy()), target="label")
    assert (fits[0].rows, fits[0].errors) == (98, 0)
    torch.testing.assert_close(learned_scores(module, x)[0], torch.full((98,), 0.99))
    fit_predicted_error(module, (x, ((answers[0] + 1) % 10).numpy()), target="label")
    torch.testing.assert_close(learned_scores(module, x)[0], torch.full((98,), 0.01))
    fit_predicted_error(module, x[:1], target="last")
    assert bool(learned_scores(module, data.x_test[:50]).isfinite().all())


def test_a_stronger_pull_stays_closer_to_maxprob(net: Digits, data: OptDigits) -> None:
    odds = logit_features(predict(net, data.x_test[:200])[0])[:, 0]
    module = PredictedError(net, example=PICTURES, at=HEADS)
    losses, apart = [], []
    for l2 in (1.0, 100.0, 1e4, 1e7):
        losses.append(fit_predicted_error(module, data.x_design, target="last", l2=l2)[0].after)
        shift = learned_scores(module, data.x_test[:200])[0].double().logit() - odds
        apart.append(float(shift.std()))  # the common offset is free
    assert losses == sorted(losses) and apart == sorted(apart, reverse=True)
    assert apart[-1] < 0.01


def test_mode_and_bytes(net: Digits, data: OptDigits) -> None:
    module = PredictedError(net, example=PICTURES).train()
    fit_predicted_error(module, data.x_design.astype(np.uint8), target="last")
    scores = learned_scores(module, data.x_test[:9].astype(np.uint8), batch_size=4)
    assert module.training and scores.shape == (3, 9) and scores.dtype == torch.float32
    net.eval()


def test_rows_that_do_not_fit_are_refused(net: Digits, data: OptDigits) -> None:
    module = PredictedError(net, example=PICTURES, at=HEADS)
    x, y = data.x_design[:20], data.y_design[:20]
    with pytest.raises(DataError, match="needs class numbers"):
        fit_predicted_error(module, x, target="label")
    with pytest.raises(DataError, match="20 inputs but 19 classes"):
        fit_predicted_error(module, (x, y[:19]), target="label")
    with pytest.raises(DataError, match="labels run from 7 to 11, the network has 10"):
        fit_predicted_error(module, (x[:2], np.array([7, 11])), target="label")
    for empty in (x[:0], (x[:0], y[:0])):
        with pytest.raises(DataError, match="no rows"):
            fit_predicted_error(module, empty, target="last")
    with pytest.raises(DataError, match="no rows"):
        learned_scores(module, x[:0])
    broken = x.copy()
    broken[13, 0, 2, 2] = np.nan
    with pytest.raises(DataError, match=r"exit 0: features of rows 10 to 14 hold NaN"):
        fit_predicted_error(module, broken, target="last", batch_size=5)
    with pytest.raises(ModelError, match="unknown target 'truth'"):
        fit_predicted_error(module, x, target="truth")
    for wrong in ({"l2": 0.0}, {"batch_size": 0}):
        with pytest.raises(ModelError, match="must be positive"):
            fit_predicted_error(module, x, target="last", **wrong)
