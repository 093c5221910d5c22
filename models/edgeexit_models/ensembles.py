"""The two ensembles that QUTE is compared with: over a network's exits, and over several networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeexit.errors import ModelError
from edgeexit_models.measure import Array, predict


def exit_members(module: nn.Module, x: Array) -> Tensor:
    """Probabilities of every exit, the final one included: `(n, exits, classes)`."""
    return predict(module, x).softmax(2).transpose(0, 1)


def network_members(modules: Sequence[nn.Module], x: Array) -> Tensor:
    """Probabilities of every network's final exit: `(n, networks, classes)`.

    Raises:
        ModelError: no networks.
    """
    if not modules:
        raise ModelError("a deep ensemble needs at least one network, got none")
    return torch.stack([predict(module, x)[-1].softmax(1) for module in modules], 1)


def early_exit_ensemble(module: nn.Module, x: Array, weights: Sequence[float] | None = None) -> Tensor:
    """Weighted mean of the exits' probabilities (Qendro et al. 2021).

    Args:
        module: a multi-exit network.
        x: inputs `(n, ...)`.
        weights: one per exit, in any unit; equal when None.

    Returns:
        `(n, classes)`.

    Raises:
        ModelError: not one weight per exit, a negative one, or all zero.
    """
    members = exit_members(module, x)
    share = torch.tensor(weights if weights is not None else [1.0] * members.shape[1])
    if share.shape != members.shape[1:2] or not (share >= 0).all() or not share.sum() > 0:
        raise ModelError(
            f"need one weight per exit ({members.shape[1]}), none negative and not all zero; got {weights}"
        )
    return torch.einsum("nkc,k->nc", members, share / share.sum())


def deep_ensemble(modules: Sequence[nn.Module], x: Array) -> Tensor:
    """Mean of the networks' probabilities `(n, classes)`: same design, other seeds (Lakshminarayanan et al. 2017).

    Raises:
        ModelError: no networks.
    """
    return network_members(modules, x).mean(1)
