"""Forward hooks on named submodules, registered for one call only."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgeexit.errors import ModelError
from edgeexit_models.protocol import evaluating

Hook = Callable[[int, object], None]
"""(index of the submodule, its output, or the tuple of its inputs)."""


def check_names(backbone: nn.Module, names: Sequence[str], option: str) -> None:
    """Checks that names are submodules and differ; `option` is the argument named in messages.

    Raises:
        ModelError: no names, an unknown one (with near ones), or one listed twice.
    """
    known = [name for name, _ in backbone.named_modules() if name]
    if not names:
        raise ModelError(f"`{option}` is empty: name at least one of {', '.join(known[:8])}")
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:8]
            raise ModelError(f"{type(backbone).__name__} has no submodule {name!r}: near names are {', '.join(near)}")
        if names.count(name) > 1:
            raise ModelError(f"`{option}` lists {name!r} twice: one exit per place")


def first_tensor(output: object, name: str, verb: str = "returned") -> Tensor:
    """The first tensor in the output (or inputs) of submodule `name`: itself, or the first in a tuple, list or dict.

    Raises:
        ModelError: there is none.
    """
    values = output.values() if isinstance(output, Mapping) else output
    candidates = values if isinstance(values, Iterable) and not isinstance(values, Tensor) else (values,)
    for value in candidates:
        if isinstance(value, Tensor):
            return value
    raise ModelError(f"{name!r} {verb} a {type(output).__name__} without a tensor in it: name another submodule")


def final_logits(output: object) -> Tensor:
    """The backbone's own output as one tensor: `logits` by key or attribute, or else the first tensor."""
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return named if isinstance(named, Tensor) else first_tensor(output, "the backbone")


def run_with_hooks(
    backbone: nn.Module,
    names: Sequence[str],
    hook: Hook,
    inputs: tuple[Tensor, ...],
    before: bool = False,
) -> object:
    """Runs the backbone and calls `hook(index, output)` after every run of a named submodule; returns its output.

    With `before` it calls `hook(index, inputs)` before each run; inputs are a tuple, before in-place changes.
    """
    handles = []
    try:
        for index, name in enumerate(names):
            submodule = backbone.get_submodule(name)
            if before:
                handles.append(submodule.register_forward_pre_hook(_input_hook(index, hook), with_kwargs=True))
            else:
                handles.append(submodule.register_forward_hook(_output_hook(index, hook)))
        return backbone(*inputs)
    finally:
        for handle in handles:
            handle.remove()


def _output_hook(index: int, hook: Hook) -> Callable[[nn.Module, object, object], None]:
    def call(module: nn.Module, inputs: object, output: object) -> None:
        hook(index, output)

    return call


def _input_hook(index: int, hook: Hook) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    def call(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        hook(index, (*inputs, *named.values()))

    return call


@dataclass
class Observation:
    """Order and output shapes of the named submodules in one run, and the backbone's output."""

    order: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    final: object = None


def observe(backbone: nn.Module, names: list[str], inputs: tuple[Tensor, ...]) -> Observation:
    """Runs the example once and checks that every name runs exactly once and in order."""
    observation = Observation()

    def record(index: int, output: object) -> None:
        observation.order.append(names[index])
        observation.shapes[names[index]] = tuple(first_tensor(output, names[index]).shape[1:])

    with evaluating(backbone), torch.no_grad():
        observation.final = run_with_hooks(backbone, names, record, inputs)
    for name in names:
        count = observation.order.count(name)
        if count == 0:
            raise ModelError(not_run(name))
        if count > 1:
            raise ModelError(ran_repeatedly(name, f"{count} times"))
    if observation.order != names:
        raise ModelError(
            f"`after` is {names}, but the submodules run in the order {observation.order}: list them that way"
        )
    return observation


def not_run(name: str) -> str:
    """Error message for a submodule that the forward never calls."""
    return (
        f"submodule {name!r} was not run by the backbone's forward: name one that runs "
        "(its weights may be used without calling it, as with MultiheadAttention.out_proj)"
    )


def ran_repeatedly(name: str, times: str) -> str:
    """Error message for a submodule that runs more than once per forward."""
    return (
        f"submodule {name!r} ran {times} in one forward (a shared layer?): "
        "put an nn.Identity at the place you mean and name that, or name a block around it"
    )
