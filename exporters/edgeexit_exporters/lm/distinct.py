"""Stand-in weights that no two places share, so that a traced graph tells which weight stands where.

A traced graph has weights by content only: torch and onnxscript forget their names, merge equal ones and the products
made of them, and fold what they can. Layers that hold the same numbers (a depth-upscaled checkpoint, shared or zero
layers) would be taken for each other.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Weights = dict[str, NDArray[Any]]


def named_weights(layers: nn.ModuleList, indices: Sequence[int]) -> Weights:
    """All parameters of these layers as ``layers.<i>.<name>``; one that is shared stands under each of its names."""
    return {
        f"layers.{i}.{name}": weight.detach().numpy()
        for i in indices
        for name, weight in layers[i].named_parameters(remove_duplicate=False)
    }


@contextmanager
def distinct_weights(layers: nn.ModuleList, indices: Sequence[int]) -> Iterator[Weights | None]:
    """Put copies with random weights of their own in the places of these layers for a while.

    Yields:
        Their weights by name; None = the layers cannot be copied, and are left as they are.
    """
    own = {i: layers[i] for i in indices}
    generator = torch.Generator().manual_seed(0)
    try:
        copies = {i: _with_random_weights(layer, generator) for i, layer in own.items()}
    except Exception:  # hooks and tensors that are no leaves raise what they like
        yield None
        return
    try:
        for i, layer in copies.items():
            layers[i] = layer
        yield named_weights(layers, indices)
    finally:
        for i, layer in own.items():
            layers[i] = layer


def structure(layers: nn.ModuleList, indices: Sequence[int]) -> tuple[Any, ...]:
    """What layers are but for their weights; equal ones have the same graph.

    Modules by class and name, their plain attributes, and the contents of their buffers.
    """
    return tuple(
        (name, type(module).__qualname__, *_plain(vars(module)), *_buffers(module))
        for i in indices
        for name, module in layers[i].named_modules(remove_duplicate=False)
    )


def _with_random_weights(layer: nn.Module, generator: torch.Generator) -> nn.Module:
    layer = copy.deepcopy(layer)
    for module in layer.modules():
        for name, weight in module.named_parameters(recurse=False, remove_duplicate=False):
            random = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            setattr(module, name, nn.Parameter(random, requires_grad=weight.requires_grad))
    return layer


def _plain(attributes: dict[str, Any]) -> list[tuple[str, str]]:
    return [(n, repr(v)) for n, v in sorted(attributes.items()) if isinstance(v, int | float | str | tuple | None)]


def _buffers(module: nn.Module) -> list[tuple[str, str, bytes]]:
    buffers = module.named_buffers(recurse=False)
    return [(n, str(b.dtype), np.ascontiguousarray(b.detach().numpy()).tobytes()) for n, b in buffers]
