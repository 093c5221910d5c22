"""Hearing what submodules of a network take or return, with forward hooks that live for one call only."""

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
"""(index of the submodule, what it returned)."""


def check_names(backbone: nn.Module, names: Sequence[str], option: str) -> None:
    """Refuses names that are no submodules or stand there twice; `option` is what the caller calls them.

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
    """The first tensor of what submodule `name` returned (or took): itself, or the first in a tuple, list or dict.

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
    """The backbone's own answer as one tensor: `logits` by key or attribute, or else the first tensor."""
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return named if isinstance(named, Tensor) else first_tensor(output, "the backbone")


def listen(
    backbone: nn.Module,
    names: Sequence[str],
    heard: Hook,
    inputs: tuple[Tensor, ...],
    entering: bool = False,
) -> object:
    """Runs the backbone and calls `heard(index, output)` whenever a named submodule has run.

    With `entering` it calls `heard(index, inputs)`, a tuple, before the submodule runs and can change them in place.
    """
    handles = []
    try:
        for index, name in enumerate(names):
            submodule = backbone.get_submodule(name)
            if entering:
                hook = _hook_before(index, heard)
                handles.append(submodule.register_forward_pre_hook(hook, with_kwargs=True))
            else:
                handles.append(submodule.register_forward_hook(_hook(index, heard)))
        return backbone(*inputs)
    finally:
        for handle in handles:
            handle.remove()


def _hook(index: int, heard: Hook) -> Callable[[nn.Module, object, object], None]:
    def hook(module: nn.Module, inputs: object, output: object) -> None:
        heard(index, output)

    return hook


def _hook_before(index: int, heard: Hook) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        heard(index, (*inputs, *named.values()))

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
        raise ModelError(f"`after` is {names}, but the submodules run in the order {seen.order}: list them that way")
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
