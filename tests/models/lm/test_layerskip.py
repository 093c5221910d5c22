"""LayerSkip's formulas, as the paper writes them."""

from __future__ import annotations

from math import exp, log

import pytest
import torch
from torch.nn import functional

from edgeexit.errors import ModelError
from edgeexit_models.lm import LayerSkip, LlamaLM, drop_probabilities, exit_weights, gradual, rotational


@pytest.mark.parametrize(("t", "steps", "layers"), [(0, 10, 8), (3, 10, 8), (9, 10, 8), (5, 11, 2)])
def test_layer_dropout_is_s_times_d_times_p(t: int, steps: int, layers: int) -> None:
    over_time = exp(t * log(2) / (steps - 1)) - 1
    depth = [exp(index * log(2) / (layers - 1)) - 1 for index in range(layers)]
    assert drop_probabilities(t / (steps - 1), layers, 0.2) == pytest.approx([over_time * d * 0.2 for d in depth])
    assert drop_probabilities(t / (steps - 1), layers, 0.2, from_scratch=False) == pytest.approx(
        [d * 0.2 for d in depth]
    )


def test_paper_weights() -> None:
    # e(l) = e_scale * (0 + .. + l); the last: L - 1 + e_scale * (0 + .. + L - 2)
    assert exit_weights(5, 0.2) == pytest.approx((0.0, 0.2, 0.6, 1.2, 4 + 0.2 * 6))
    assert exit_weights(3, 0.5, "linear") == (0.5, 1.0, 3.0)


@pytest.mark.parametrize("layers", [4, 6, 12])
@pytest.mark.parametrize("every", [1, 3, 4])
def test_rotation_is_a_turned_mask_and_reaches_every_layer(layers: int, every: int) -> None:
    mask = torch.arange(layers) % every == 0
    counts = torch.zeros(layers)
    for step in range(layers):
        on = rotational(step, layers, every)
        turned = torch.roll(mask, step)
        assert on[:-1] == tuple(turned[:-1].tolist()) and on[-1]
        counts += torch.tensor(on)
    assert counts[-1] == layers and len(set(counts[:-1].tolist())) == 1 and counts[0] >= 1


def test_gradual_goes_from_last_to_first_over_the_first_half() -> None:
    counts = [sum(gradual(step / 100, 10)) for step in range(101)]
    assert counts[0] == 1 and counts[49] == 9 and counts[50] == counts[100] == 10
    for step in range(101):
        on = gradual(step / 100, 10)
        assert on == tuple(sorted(on))


@pytest.mark.parametrize("curriculum", ["rotational", "gradual", "all"])
@pytest.mark.parametrize("kind", ["sum", "linear", "uniform"])
def test_weights_sum_to_one_in_every_step(curriculum: str, kind: str) -> None:
    recipe = LayerSkip(scale=0.3, weights=kind, curriculum=curriculum, every=3)
    for step in range(7):
        weights = recipe.exits(step, step / 6, 7)
        assert sum(weights) == pytest.approx(1) and min(weights) >= 0 and weights[-1] > 0


def test_the_loss_is_the_weighted_sum_over_exits(model: LlamaLM) -> None:
    ids, targets = torch.arange(24).reshape(2, 12), torch.arange(1, 25).reshape(2, 12)
    recipe = LayerSkip(dropout=0.0, scale=0.5, curriculum="all")
    with torch.no_grad():
        value = recipe.loss(model, ids, targets, 3, 0.2, torch.Generator())
        each = [
            functional.cross_entropy(model.head(h).flatten(0, 1), targets.flatten()) for h in model.hidden(ids)
        ]  # fmt: skip
    raw = [0.0, 0.5, 1.5, 3 + 1.5]
    assert float(value) == pytest.approx(sum(w * float(e) for w, e in zip(raw, each, strict=True)) / sum(raw), rel=1e-5)


def test_without_dropout_and_scale_it_is_language_modelling(model: LlamaLM) -> None:
    ids, targets = torch.arange(24).reshape(2, 12), torch.arange(1, 25).reshape(2, 12)
    value = LayerSkip(dropout=0.0, scale=0.0).loss(model, ids, targets, 0, 0.0, torch.Generator())
    assert torch.equal(value, functional.cross_entropy(model(ids).flatten(0, 1), targets.flatten()))


def test_imitation_is_cross_entropy_to_the_mixture_and_does_not_move_the_teacher(model: LlamaLM) -> None:
    ids, targets = torch.arange(24).reshape(2, 12), torch.arange(1, 25).reshape(2, 12)
    recipe = LayerSkip(dropout=0.0, scale=1.0, weights="uniform", curriculum="all", imitate=0.25)
    states = model.hidden(ids)
    logits = [model.head(h).flatten(0, 1) for h in states]
    teacher = logits[-1].detach().softmax(-1)
    mixed = 0.75 * functional.one_hot(targets.flatten(), 300) + 0.25 * teacher
    wanted = sum(functional.cross_entropy(y, mixed) for y in logits[:-1])
    wanted = (wanted + functional.cross_entropy(logits[-1], targets.flatten())) / 4
    value = recipe.loss(model, ids, targets, 0, 0.0, torch.Generator())
    assert torch.allclose(value, wanted, rtol=1e-5)
    grads = [
        torch.autograd.grad(loss, model.layers[3].mlp.up_proj.weight)[0]
        for loss in (value, functional.cross_entropy(model(ids).flatten(0, 1), targets.flatten()) / 4)
    ]
    assert torch.allclose(grads[0], grads[1], atol=1e-7)


def test_later_layers_are_left_out_more_often_and_each_sequence_by_itself() -> None:
    keep = LayerSkip(dropout=0.4).keep(1.0, 5, 4000, torch.Generator().manual_seed(0))
    dropped = 1 - keep.double().mean(1)
    wanted = torch.tensor(drop_probabilities(1.0, 5, 0.4), dtype=torch.float64)
    assert dropped[0] == 0
    assert (dropped - wanted).abs().max() < 0.03
    assert LayerSkip(dropout=0.4).keep(0.0, 5, 100, torch.Generator()).all()


@pytest.mark.parametrize(
    "change", [{"dropout": 1.0}, {"scale": -1.0}, {"imitate": 1.5}, {"every": 0}, {"weights": "x"}, {"curriculum": "x"}]
)
def test_impossible_numbers_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="need"):
        LayerSkip(**change)


def test_one_layer_has_nothing_to_skip() -> None:
    with pytest.raises(ModelError, match="at least 2 layers"):
        LayerSkip().exits(0, 0.0, 1)
