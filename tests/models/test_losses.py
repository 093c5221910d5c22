"""Losses against hand-made numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from edgeexit.errors import ModelError
from edgeexit_models import (
    SelfDistillation,
    ShallowDeep,
    WeightedSum,
    sdn_weights,
    self_distillation,
    weighted_sum,
)

TARGETS = torch.tensor([0, 2])


def make_outputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 4, generator=generator, requires_grad=True) for _ in range(3)]


def test_weighted_sum_is_the_sum_of_weighted_cross_entropies() -> None:
    uniform = [torch.zeros(2, 4)] * 3
    assert float(weighted_sum(uniform, TARGETS, [0.5, 0.25, 1.0])) == pytest.approx(1.75 * math.log(4))


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1.0], "1 loss weights for 3 exits"), ([1.0, -1.0, 1.0], "negative"), ([0.0] * 3, "all zero")],
)
def test_bad_weights_are_refused(weights: list[float], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        weighted_sum(make_outputs(), TARGETS, weights)
    with pytest.raises(ModelError, match=message):
        self_distillation(make_outputs(), TARGETS, weights)


def test_sdn_weights_start_small_and_end_at_the_cost_shares() -> None:
    costs = [1.0, 2.0, 4.0]
    assert sdn_weights(0, 10, costs) == (0.01, 0.01, 1.0)
    assert sdn_weights(10, 10, costs) == (0.25, 0.5, 1.0)
    assert sdn_weights(4, 10, costs) == pytest.approx((0.11, 0.21, 1.0))


@pytest.mark.parametrize("costs", [[], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
def test_costs_that_are_not_cumulative_are_refused(costs: list[float]) -> None:
    with pytest.raises(ModelError, match="cumulative"):
        sdn_weights(0, 10, costs)


def test_self_distillation_without_alpha_is_the_weighted_sum() -> None:
    outputs = make_outputs()
    weights = [0.5, 0.25, 1.0]
    torch.testing.assert_close(
        self_distillation(outputs, TARGETS, weights, alpha=0.0), weighted_sum(outputs, TARGETS, weights)
    )


def test_self_distillation_is_the_scaled_kl_divergence() -> None:
    outputs = make_outputs()
    t = 2.0
    teacher = functional.softmax(outputs[2] / t, dim=1)
    student = functional.softmax(outputs[0] / t, dim=1)
    kl = (teacher * (teacher / student).log()).sum(1).mean() * t * t
    got = self_distillation(outputs, TARGETS, [1.0, 0.0, 0.0], temperature=t, alpha=1.0)
    torch.testing.assert_close(got, kl)


def test_the_teacher_gets_no_gradient_from_its_students() -> None:
    outputs = make_outputs()
    self_distillation(outputs, TARGETS, [1.0, 1.0, 0.0], alpha=1.0).backward()
    assert outputs[0].grad is not None
    assert outputs[0].grad.abs().sum() > 0
    assert outputs[2].grad is None or not outputs[2].grad.any()


@pytest.mark.parametrize(("temperature", "alpha"), [(0.0, 0.5), (1.0, 1.5)])
def test_impossible_distillation_numbers_are_refused(temperature: float, alpha: float) -> None:
    with pytest.raises(ModelError, match="temperature > 0"):
        self_distillation(make_outputs(), TARGETS, [1.0] * 3, temperature, alpha)


def test_the_dataclasses_call_the_functions() -> None:
    outputs = make_outputs()
    torch.testing.assert_close(
        WeightedSum((1.0, 1.0, 1.0))(outputs, TARGETS, 0, 9), weighted_sum(outputs, TARGETS, [1.0] * 3)
    )
    torch.testing.assert_close(
        ShallowDeep((1.0, 2.0, 4.0))(outputs, TARGETS, 3, 9),
        weighted_sum(outputs, TARGETS, sdn_weights(3, 9, [1.0, 2.0, 4.0])),
    )
    torch.testing.assert_close(
        SelfDistillation((1.0, 1.0, 1.0), 2.0, 0.3)(outputs, TARGETS, 0, 9),
        self_distillation(outputs, TARGETS, [1.0] * 3, 2.0, 0.3),
    )
