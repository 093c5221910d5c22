"""Training losses over all exits at once.

Functions take `outputs`, K tensors `(batch, classes)` of logits, and `targets`, `(batch,)` class numbers. The
frozen dataclasses below give them the shape `fit` wants: `loss(outputs, targets, epoch, epochs)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from edgeexit.errors import ModelError

SDN_START = 0.01
"""Weight of the early exits in the first epoch (Kaya et al. 2019)."""


def _check(outputs: Sequence[Tensor], weights: Sequence[float]) -> None:
    if len(outputs) != len(weights):
        raise ModelError(f"{len(weights)} loss weights for {len(outputs)} exits: give one weight per exit")
    if any(w < 0 for w in weights) or sum(weights) == 0:
        raise ModelError(f"loss weights must not be negative nor all zero, got {tuple(weights)}")


def weighted_sum(outputs: Sequence[Tensor], targets: Tensor, weights: Sequence[float]) -> Tensor:
    """Sum over exits of weight times cross-entropy (BranchyNet, Teerapittayanon et al. 2016).

    Raises:
        ModelError: not one weight per exit, or a negative one.
    """
    _check(outputs, weights)
    losses = [w * functional.cross_entropy(y, targets) for w, y in zip(weights, outputs, strict=True)]
    return torch.stack(losses).sum()


def sdn_weights(epoch: int, epochs: int, costs: Sequence[float]) -> tuple[float, ...]:
    """Exit weights of the shallow-deep schedule (Kaya et al. 2019): early ones grow to their share of cost.

    `tau_k = min(0.01 + C_k * epoch / epochs, C_k)`, with `C_k` the cumulative cost of exit k over the whole
    network's, and 1 for the last exit.

    Args:
        epoch: from 0.
        epochs: how many there will be.
        costs: K cumulative costs in any unit, shallow to deep, the whole network last.

    Returns:
        K weights.

    Raises:
        ModelError: costs that do not grow or are not positive.

    >>> [round(w, 3) for w in sdn_weights(5, 10, [1.0, 2.0, 4.0])]
    [0.135, 0.26, 1.0]
    """
    if not costs or costs[0] <= 0 or any(b <= a for a, b in pairwise(costs)):
        raise ModelError(f"costs must be positive and grow from exit to exit (cumulative), got {tuple(costs)}")
    shares = [c / costs[-1] for c in costs[:-1]]
    return (*(min(SDN_START + share * epoch / epochs, share) for share in shares), 1.0)


def self_distillation(
    outputs: Sequence[Tensor],
    targets: Tensor,
    weights: Sequence[float],
    temperature: float = 3.0,
    alpha: float = 0.5,
) -> Tensor:
    """Early exits learn from labels and from the last exit (Zhang et al. 2019; temperature: Hinton 2015).

    `sum_k w_k ((1 - alpha) CE_k + alpha T^2 KL(last || k))`, and plain cross-entropy for the last exit. No
    gradient flows into the last exit as teacher: otherwise it would learn to be easy to imitate.

    Raises:
        ModelError: weights as in `weighted_sum`; temperature not positive; alpha outside [0, 1].
    """
    _check(outputs, weights)
    if temperature <= 0 or not 0 <= alpha <= 1:
        raise ModelError(f"need temperature > 0 and 0 <= alpha <= 1, got {temperature} and {alpha}")
    teacher = functional.log_softmax(outputs[-1].detach() / temperature, dim=1)
    total = weights[-1] * functional.cross_entropy(outputs[-1], targets)
    for weight, output in zip(weights[:-1], outputs[:-1], strict=True):
        student = functional.log_softmax(output / temperature, dim=1)
        # 'batchmean': torch's default divides by classes too and is no KL divergence
        imitation = functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
        hard = functional.cross_entropy(output, targets)
        total = total + weight * ((1 - alpha) * hard + alpha * imitation)
    return total


@dataclass(frozen=True)
class WeightedSum:
    """`weighted_sum` with fixed weights."""

    weights: tuple[float, ...]

    def __call__(self, outputs: Sequence[Tensor], targets: Tensor, epoch: int, epochs: int) -> Tensor:
        return weighted_sum(outputs, targets, self.weights)


@dataclass(frozen=True)
class ShallowDeep:
    """`weighted_sum` with `sdn_weights` of the epoch."""

    costs: tuple[float, ...]
    """Cumulative cost of every exit, any unit."""

    def __call__(self, outputs: Sequence[Tensor], targets: Tensor, epoch: int, epochs: int) -> Tensor:
        return weighted_sum(outputs, targets, sdn_weights(epoch, epochs, self.costs))


@dataclass(frozen=True)
class SelfDistillation:
    """`self_distillation` with fixed numbers."""

    weights: tuple[float, ...]
    temperature: float = 3.0
    alpha: float = 0.5

    def __call__(self, outputs: Sequence[Tensor], targets: Tensor, epoch: int, epochs: int) -> Tensor:
        return self_distillation(outputs, targets, self.weights, self.temperature, self.alpha)


@dataclass(frozen=True)
class GrowingDistillation:
    """`self_distillation` with `sdn_weights` of the epoch."""

    costs: tuple[float, ...]
    """Cumulative cost of every exit, any unit."""
    temperature: float = 3.0
    alpha: float = 0.5

    def __call__(self, outputs: Sequence[Tensor], targets: Tensor, epoch: int, epochs: int) -> Tensor:
        weights = sdn_weights(epoch, epochs, self.costs)
        return self_distillation(outputs, targets, weights, self.temperature, self.alpha)
