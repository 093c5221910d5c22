"""Exits of a torch module: what it returns as a flat tuple of named tensors, and the states that it carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from edgeexit.errors import ModelError
from edgeexit_exporters.source.inputs import InputSpec
from edgeexit_exporters.source.join import RawExit
from edgeexit_exporters.stages import State


class ExportedParts(NamedTuple):
    """What one exit of a module gives."""

    heads: list[Tensor]
    learned: list[Tensor]
    """Its learned score; empty = none."""
    lengths: list[Tensor]
    """How many positions of its answer are valid; empty = all."""


class Exits(nn.Module):
    """Positional inputs in, a flat tuple of tensors out; `exits` says which of them is what.

    Args:
        module: returns its exits.
        single: a lone tensor is an exit, too.
        picks: which of the exits, in which order; None = all as they come.
    """

    def __init__(self, module: nn.Module, single: bool = False, picks: Sequence[int] | None = None) -> None:
        super().__init__()
        self.module, self.single, self.picks = module, single, picks
        self.states = state_names(module)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        exits, states = self.given(*inputs)
        return (*(t for exit in exits for tensors in exit for t in tensors), *states)

    def exits(self, *inputs: Tensor) -> list[ExportedParts]:
        """What every exit gives.

        Raises:
            ModelError: the module returned something else.
        """
        return self.given(*inputs)[0]

    def given(self, *inputs: Tensor) -> tuple[list[ExportedParts], list[Tensor]]:
        """`exits`, and the next values of the module's states.

        Raises:
            ModelError: the module returned something else.
        """
        exits, states = self.named(*inputs)
        return list(exits.values()), states

    def named(self, *inputs: Tensor) -> tuple[dict[str, ExportedParts], list[Tensor]]:
        """`given`, with the exits' own names: the keys of a mapping, else exit0, exit1, ...

        Raises:
            ModelError: the module returned something else.
        """
        returned = self.module(*inputs)
        states: list[Tensor] = []
        if self.states:
            returned, states = self._parted(returned)
        keys: list[str] = []
        values = returned
        if isinstance(returned, Mapping) and not _is_one_exit(returned):
            keys, values = [str(k) for k in returned], list(returned.values())
        if (self.single and isinstance(returned, Tensor)) or (isinstance(returned, Mapping) and not keys):
            values = [returned]
        exits = [parts(v) for v in values] if isinstance(values, list | tuple) and values else [None]
        if any(e is None for e in exits):
            raise ModelError(
                f"{type(self.module).__name__} returned {_describe(returned)}; a multi-exit module returns its exits "
                "in order, at least two: tensors, tuples of tensors (heads that answer together), or dicts of `output` "
                "and `score`, `lengths` or both. `edgeexit_models.attach` gives a network exits"
            )
        if len(set(keys)) < len(exits):
            keys = [f"exit{k}" for k in range(len(exits))]
        named = {k: e for k, e in zip(keys, exits, strict=True) if e is not None}
        return named if self.picks is None else {keys[i]: named[keys[i]] for i in self.picks}, states

    def _parted(self, returned: Any) -> tuple[Any, list[Tensor]]:
        pair = returned if isinstance(returned, tuple) and len(returned) == 2 else (None, None)
        states = list(pair[1]) if isinstance(pair[1], list | tuple) else []
        if len(states) != len(self.states) or not all(isinstance(t, Tensor) for t in states):
            raise ModelError(
                f"{type(self.module).__name__} has states {', '.join(self.states)}, so it returns (exits, next values "
                f"of the states in that order); found {_describe(returned)}"
            )
        return pair[0], states


def state_names(module: nn.Module) -> tuple[str, ...]:
    """The inputs of a module that it carries from one call to the next, as its attribute `states` names them."""
    names = getattr(module, "states", ())
    return tuple(names) if isinstance(names, list | tuple) and all(isinstance(n, str) for n in names) else ()


def next_name(state: str) -> str:
    """What the next value of a torch module's state is called."""
    return f"{state}_next"


def parts(exit: Any) -> ExportedParts | None:
    """What one exit gave; None = it is no exit."""
    learned: list[Any] = []
    lengths: list[Any] = []
    if isinstance(exit, Mapping) and _is_one_exit(exit):
        learned, lengths = ([exit[what]] if what in exit else [] for what in ("score", "lengths"))
        exit = exit["output"]
    heads = list(exit) if isinstance(exit, list | tuple) else [exit]
    exported = ExportedParts(heads, learned, lengths)
    return exported if heads and all(isinstance(t, Tensor) for tensors in exported for t in tensors) else None


def _is_one_exit(mapping: Mapping[Any, Any]) -> bool:
    """Whether a mapping is an exit with its score or lengths; else its values are exits, and its keys their names."""
    return {"output"} < set(mapping) <= {"output", "score", "lengths"}


def _describe(returned: Any) -> str:
    if isinstance(returned, Tensor):
        return "one tensor"
    if isinstance(returned, list | tuple):
        return f"{type(returned).__name__} of {', '.join(type(v).__name__ for v in returned[:4]) or 'nothing'}"
    return type(returned).__name__


def raw_exits(exits: Sequence[ExportedParts], names: Sequence[str]) -> list[RawExit]:
    raw = []
    for name, (heads, learned, lengths) in zip(names, exits, strict=True):
        tensors = [name] if len(heads) == 1 else [f"{name}_head{i}" for i in range(len(heads))]
        counts = f"{name}_lengths" if lengths else None
        raw.append(RawExit(name, tuple(tensors), f"{name}_learned" if learned else None, counts))
    return raw


def exit_names(module: str, own: Sequence[str], asked: Sequence[str] | None) -> tuple[list[str], list[int]]:
    """What a module's exits are called, and which of them these are.

    Args:
        module: the class, for messages.
        own: the names that the exits have anyway.
        asked: of these in any order, which selects and orders them; or a new name for every exit. None = all.

    Raises:
        ModelError: names that are neither.
    """
    if not asked:
        return list(own), list(range(len(own)))
    if len(set(asked)) < len(asked):
        twice = next(n for n in asked if list(asked).count(n) > 1)
        raise ModelError(f"exit {twice!r} is named twice")
    if set(asked) <= set(own):
        return list(asked), [list(own).index(n) for n in asked]
    if len(asked) != len(own):
        raise ModelError(
            f"{len(asked)} exit names for a module with {len(own)} exits: {', '.join(asked)}; they are called "
            f"{', '.join(own)}: name some of these in order, or give each a new name"
        )
    return list(asked), list(range(len(own)))


def check_states(states: Sequence[State], specs: Sequence[InputSpec], after: Sequence[Tensor]) -> None:
    """Whether the next values can take their inputs' places.

    Raises:
        ModelError: another type or shape.
    """
    known = {s.tensor.name: s.tensor for s in specs}
    for state, tensor in zip(states, after, strict=True):
        wanted = known[state.input]
        dtype = str(tensor.dtype).removeprefix("torch.")
        if (dtype, tuple(tensor.shape)) != (wanted.dtype, wanted.shape):
            raise ModelError(
                f"state {state.input!r} is {wanted.dtype}{list(wanted.shape)}, its next value "
                f"{dtype}{list(tensor.shape)}; they must be alike"
            )
