"""Parameter groups, learning rate and thread count that the trainers of this package share."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

WARM_UP = 0.15
"""Share of the steps in which the learning rate increases."""


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear to `peak` in the first 15 % of steps, then half a cosine to 0 (Loshchilov & Hutter 2017)."""
    climb = max(round(WARM_UP * steps), 1)
    if step < climb:
        return peak * (step + 1) / climb
    return peak * 0.5 * (1 + math.cos(math.pi * (step - climb) / max(steps - climb, 1)))


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters for an optimizer: weight decay for those with two or more axes, not for biases and norms."""
    weights = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in weights if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
    ]


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Sets torch's number of threads inside the block; None leaves it unchanged."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
