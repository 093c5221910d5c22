"""Logits and accuracy of every exit over arrays."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgeexit.errors import DataError
from edgeexit_models.protocol import evaluating, exits

Array = Tensor | npt.NDArray[Any]
Data = tuple[Array, Array]
"""Inputs `(n, ...)` and class numbers `(n,)`."""


def predict(module: nn.Module, x: Array, batch_size: int = 250) -> Tensor:
    """Logits of every exit, `(exits, n, classes)` float32, computed in evaluation mode; the mode is restored."""
    inputs = torch.as_tensor(x)
    parts = [inputs[at : at + batch_size] for at in range(0, len(inputs), batch_size)]
    with evaluating(module), torch.no_grad():
        logits = [torch.stack(exits(module, as_floats(part))) for part in parts]
    return torch.cat(logits, dim=1)


def evaluate(module: nn.Module, x: Array, y: Array) -> tuple[float, ...]:
    """Accuracy of every exit, shares in [0, 1], over all of `x`."""
    inputs, targets = as_tensors((x, y))
    right = predict(module, inputs).argmax(2) == targets
    return tuple(float(share) for share in right.double().mean(1))


def as_tensors(data: Data) -> tuple[Tensor, Tensor]:
    """Inputs as they are and classes as int64 `(n,)`.

    Raises:
        DataError: no samples, different lengths, or classes that are not whole numbers `(n,)`.
    """
    x, y = torch.as_tensor(data[0]), torch.as_tensor(data[1])
    if y.ndim != 1 or y.is_floating_point() or y.is_complex():
        raise DataError(f"classes must be whole numbers of shape (n,), got {y.dtype} {tuple(y.shape)}")
    if len(x) != len(y) or len(x) == 0:
        raise DataError(f"{len(x)} inputs but {len(y)} classes: both need the same length, at least 1")
    return x, y.long()


def as_floats(x: Tensor) -> Tensor:
    """uint8 and float64 as float32; other types (token numbers, half precision) as they are."""
    return x.float() if x.dtype in (torch.uint8, torch.float64) else x
