"""Hearing what submodules of a network return, with forward hooks that live for one call only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from edgeexit.errors import ModelError
from edgeexit_models.protocol import evaluating

Heard = Callable[[int, object], None]
"""(index of the submodule, what it returned)."""


def first_tensor(output: object, name: str) -> Tensor:
    """The first tensor of what submodule `name` returned: itself, or the first in a tuple, list or dict.

    Raises:
        ModelError: there is none.
    """
    values = output.values() if isinstance(output, Mapping) else output
    candidates = values if isinstance(values, Iterable) and not isinstance(values, Tensor) else (values,)
    for value in candidates:
        if isinstance(value, Tensor):
            return value
    raise ModelError(
        f"{name!r} returned a {type(output).__name__} without a tensor in it: name another submodule"
    )


def final_logits(output: object) -> Tensor:
    """The backbone's own answer as one tensor: `logits` by key or attribute, or else the first tensor."""
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return named if isinstance(named, Tensor) else first_tensor(output, "the backbone")


def listen(
    backbone: nn.Module,
    names: Sequence[str],
    heard: Heard,
    inputs: tuple[Tensor, ...],
) -> object:
    """Runs the backbone and calls `heard(index, output)` whenever a named submodule has run."""
    handles = []
    try:
        for index, name in enumerate(names):
            hook = _hook(index, heard)
            handles.append(backbone.get_submodule(name).register_forward_hook(hook))
        return backbone(*inputs)
    finally:
        for handle in handles:
            handle.remove()


def _hook(index: int, heard: Heard) -> Callable[[nn.Module, object, object], None]:
    def hook(module: nn.Module, inputs: object, output: object) -> None:
        heard(index, output)

    return hook


@dataclass
class Observation:
    """What one run of the example showed."""

    order: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    final: object = None


def observe(backbone: nn.Module, names: list[str], inputs: tuple[Tensor, ...]) -> Observation:
    """Runs the example once and checks that every name runs exactly once and in order."""
    seen = Observation()

    def heard(index: int, output: object) -> None:
        seen.order.append(names[index])
        seen.shapes[names[index]] = tuple(first_tensor(output, names[index]).shape[1:])

    with evaluating(backbone), torch.no_grad():
        seen.final = listen(backbone, names, heard, inputs)
    for name in names:
        count = seen.order.count(name)
        if count == 0:
            raise ModelError(not_run(name))
        if count > 1:
            raise ModelError(ran_often(name, f"{count} times"))
    if seen.order != names:
        raise ModelError(
            f"`after` is {names}, but the submodules run in the order {seen.order}: list them that way"
        )
    return seen


def not_run(name: str) -> str:
    """The message for a submodule that the forward never calls."""
    return (
        f"submodule {name!r} was not run by the backbone's forward: name one that runs "
        "(its weights may be used without calling it, as with MultiheadAttention.out_proj)"
    )


def ran_often(name: str, times: str) -> str:
    """The message for a submodule that runs at more than one place."""
    return (
        f"submodule {name!r} ran {times} in one forward (a shared layer?): "
        "put an nn.Identity at the place you mean and name that, or name a block around it"
    )
