"""Stages of a network: the computation that belongs to each exit, derived from the graph.

Stage k = ancestors of exit k minus ancestors of the exits before it. The algorithm sees a tiny view of a
graph, so that ONNX graphs and `torch.export` graphs share it (`onnx_graph.view` is the adapter for ONNX).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgeexit.errors import ModelError


@dataclass(frozen=True)
class ViewNode:
    """One operation."""

    inputs: tuple[str, ...]
    """Tensors it reads, those that only its subgraphs read included; weights left out."""
    outputs: tuple[str, ...]
    free: bool = False
    """Costs nothing (shapes, constants), so each stage repeats it rather than carry its result across a cut."""


@dataclass(frozen=True)
class GraphView:
    """A graph as the stage algorithm sees it."""

    inputs: tuple[str, ...]
    nodes: tuple[ViewNode, ...]
    """In topological order."""


@dataclass(frozen=True)
class State:
    """A model input that gets a tensor's value in the next call."""

    input: str
    output: str


@dataclass(frozen=True)
class Stage:
    """All computation for exit k that no earlier exit needed."""

    nodes: tuple[int, ...]
    """Indices into `GraphView.nodes`, in order; stages share none but free nodes."""
    inputs: tuple[str, ...]
    """Model inputs and cut tensors it reads."""
    exit: str
    cuts: tuple[str, ...]
    """Tensors it produces that later stages read (the exit's own tensors too, if they do)."""
    extras: tuple[str, ...] = ()
    """What the exit gives besides its answer: uncertainty, learned score."""
    states: tuple[State, ...] = ()
    """What it carries from one call to the next."""

    @property
    def answers(self) -> tuple[str, ...]:
        """The exit's own tensors, the answer first."""
        return (self.exit, *self.extras)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The exit's own tensors, the next values of its states, then the other cut tensors."""
        return tuple(dict.fromkeys((*self.answers, *self.carried, *self.cuts)))

    @property
    def carried(self) -> tuple[str, ...]:
        """The next values of its states."""
        return tuple(s.output for s in self.states)


def stages(
    graph: GraphView,
    exits: Sequence[str],
    extras: Sequence[Sequence[str]] | None = None,
    states: Sequence[State] = (),
) -> tuple[Stage, ...]:
    """Divide a graph into one stage per exit.

    A state belongs to the stage that reads it first, and with it whatever only its next value needs.

    Args:
        graph: the whole multi-exit network.
        exits: the tensors of its exits' answers, shallow to deep.
        extras: per exit, the tensors it gives besides; None = none.
        states: what the network carries from one call to the next.

    Raises:
        ModelError: an exit is not in the graph, does not depend on an input, is named twice, or comes after
            an exit that already needs all of its computation (wrong order); a state that no exit reads, or that an
            exit reads and a deeper stage computes.
    """
    producer = {name: i for i, node in enumerate(graph.nodes) for name in node.outputs}
    _check_names(graph, exits, producer)
    owner: dict[int, int] = {}  # node -> the stage that computes it
    needed: list[set[int]] = []
    groups = [(name, *more) for name, more in zip(exits, extras or [()] * len(exits), strict=True)]
    for k, name in enumerate(exits):
        ancestors = _ancestors(graph, producer, groups[k])
        if not any(n in graph.inputs for i in ancestors for n in graph.nodes[i].inputs):
            raise ModelError(f"exit {name!r} does not depend on any model input ({', '.join(graph.inputs)})")
        new = {i for i in ancestors if i not in owner and not graph.nodes[i].free}
        if not new:
            first = max(owner[i] for i in ancestors if i in owner)
            raise ModelError(
                f"exit {name!r} needs no computation beyond exit {exits[first]!r}, which stands before it: "
                f"name the exits from shallow to deep, e.g. --exits {','.join(_by_depth(graph, producer, exits))}"
            )
        owner.update(dict.fromkeys(new, k))
        needed.append(ancestors)
    carried = _carried(graph, producer, states, owner, needed)
    return _cut(graph, producer, groups, owner, needed, carried)


def _carried(
    graph: GraphView,
    producer: dict[str, int],
    states: Sequence[State],
    owner: dict[int, int],
    needed: list[set[int]],
) -> list[list[State]]:
    """The states of every stage; nodes that only they need are given to it."""
    carried: list[list[State]] = [[] for _ in needed]
    for state in states:
        reading = {i for i, node in enumerate(graph.nodes) if state.input in node.inputs}
        first = next((k for k, nodes in enumerate(needed) if reading & nodes), None)
        if first is None:
            raise ModelError(f"state {state.input!r} is read by no exit; leave it out")
        if state.output not in producer:
            raise ModelError(f"state {state.input!r}: its next value {state.output!r} is nothing that is computed")
        above = _ancestors(graph, producer, [state.output])
        deepest = max((owner[i] for i in above if i in owner), default=0)
        if deepest > first:
            raise ModelError(
                f"state {state.input!r} is read at exit {first} and computed from what exit {deepest} needs: an input "
                f"that leaves at exit {first} would leave it behind; compute it from what exit {first} has"
            )
        carried[first].append(state)
    for k, own in enumerate(
        carried
    ):  # from shallow to deep, so that what two states need is computed where it is first
        for state in own:
            above = _ancestors(graph, producer, [state.output])
            owner.update((i, k) for i in above if i not in owner and not graph.nodes[i].free)
            needed[k] |= above
    return carried


def _cut(
    graph: GraphView,
    producer: dict[str, int],
    groups: Sequence[tuple[str, ...]],
    owner: dict[int, int],
    needed: list[set[int]],
    carried: Sequence[Sequence[State]],
) -> tuple[Stage, ...]:
    nodes: list[tuple[int, ...]] = []
    reads: list[tuple[str, ...]] = []
    for k, found in enumerate(needed):
        own = {i for i in found if owner.get(i) == k}
        given = (*groups[k], *(s.output for s in carried[k]))
        own |= _free_feeders(graph, producer, own | {producer[n] for n in given})
        nodes.append(tuple(sorted(own)))
        produced = {name for i in own for name in graph.nodes[i].outputs}
        wanted = [name for i in sorted(own) for name in graph.nodes[i].inputs if name not in produced]
        wanted += [n for n in given if n not in produced]
        reads.append(tuple(dict.fromkeys(wanted)))
    result = []
    for k, (name, *more) in enumerate(groups):
        later = {n for r in reads[k + 1 :] for n in r}
        made_here = [n for i in nodes[k] if owner.get(i) == k for n in graph.nodes[i].outputs]
        result.append(
            Stage(nodes[k], reads[k], name, tuple(n for n in made_here if n in later), tuple(more), tuple(carried[k]))
        )
    return tuple(result)


def _free_feeders(graph: GraphView, producer: dict[str, int], nodes: set[int]) -> set[int]:
    """Free nodes that `nodes` read, directly or through other free nodes."""
    feeders: set[int] = {i for i in nodes if graph.nodes[i].free}
    todo = list(nodes)
    while todo:
        for name in graph.nodes[todo.pop()].inputs:
            i = producer.get(name)
            if i is not None and graph.nodes[i].free and i not in feeders:
                feeders.add(i)
                todo.append(i)
    return feeders


def _ancestors(graph: GraphView, producer: dict[str, int], names: Sequence[str]) -> set[int]:
    ancestors: set[int] = set()
    todo = list(names)
    while todo:
        i = producer.get(todo.pop())
        if i is not None and i not in ancestors:
            ancestors.add(i)
            todo.extend(graph.nodes[i].inputs)
    return ancestors


def _by_depth(graph: GraphView, producer: dict[str, int], exits: Iterable[str]) -> list[str]:
    return sorted(exits, key=lambda name: len(_ancestors(graph, producer, [name])))


def _check_names(graph: GraphView, exits: Sequence[str], producer: dict[str, int]) -> None:
    if not exits:
        raise ModelError("no exits were named; pass at least one, e.g. --exits y0,y1,y2")
    for name in exits:
        if name in graph.inputs:
            raise ModelError(f"exit {name!r} is a model input; an exit is a tensor that the network computes")
        if name not in producer:
            raise no_such_tensor(name, [n for node in graph.nodes for n in node.outputs])
        if list(exits).count(name) > 1:
            raise ModelError(f"exit {name!r} is named twice")


def no_such_tensor(name: str, outputs: Sequence[str], what: str = "exit") -> ModelError:
    """The error for a name that no node's output has, with those it may have been meant for."""
    near = [n for n in outputs if n.lower() == name.lower() or name in n][:5] or outputs[-5:]
    return ModelError(f"{what} {name!r} is not a tensor of the graph; did you mean one of: {', '.join(near)}?")
