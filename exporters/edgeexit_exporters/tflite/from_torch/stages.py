"""Stages of a torch module: torch.export's graph divided by `stages.stages`, each a module of its own.

The edges of stages are as TFLite files have them: batch 1, fixed sizes, pictures channels last.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from edgeexit.errors import ModelError
from edgeexit_exporters.source.inputs import InputSpec, batch_kind, make_inputs, one_at_a_time
from edgeexit_exporters.source.join import JoinedExit
from edgeexit_exporters.source.torch_exits import Exits, next_name
from edgeexit_exporters.source.torch_source import own_inputs
from edgeexit_exporters.stages import GraphView, State, ViewNode, stages
from edgeexit_exporters.tflite.from_torch.exits import check_exits, evaluate, exit_kinds, exit_names, to_graph
from edgeexit_exporters.tflite.from_torch.join import Joined
from edgeexit_exporters.tflite.from_torch.layout import graph_outputs, op_name
from edgeexit_exporters.tflite.from_torch.pieces import Builder, Edge, TorchPiece, check_name, source_line
from edgeexit_exporters.tflite.from_torch.unstack import check_heavy, unstack


@dataclass(frozen=True)
class TorchStages:
    """A multi-exit network in pieces."""

    name: str
    """The module's class."""
    exits: tuple[JoinedExit, ...]
    inputs: tuple[Edge, ...]
    """All model inputs, in the order of `forward`."""
    stages: tuple[TorchPiece, ...]
    prefixes: tuple[TorchPiece, ...]
    """Per exit, everything that it needs, from the model inputs."""
    whole: nn.Module = field(repr=False)
    """The joined source: positional inputs as the module takes them; all exits' tensors in order."""
    unrolled: tuple[str, ...] = ()
    """Recurrent layers that the converter writes out step by step, in words."""


def divide(
    module: nn.Module,
    inputs: Sequence[InputSpec] = (),
    exits: Sequence[JoinedExit] | None = None,
    kinds: Sequence[str] | None = None,
    picks: Sequence[int] | None = None,
) -> TorchStages:
    """Divide a torch module that returns its exits in order (`torch_source.from_torch` says what an exit may be).

    Args:
        module: evaluated in eval mode; its mode is put back.
        inputs: in the order of `forward`; empty = the module's own `input_spec`.
        exits: the names that the exits' tensors get (`Source.exits`); None = exit0, exit1, ... with `_uncertainty` and
            `_score` behind them.
        kinds: what the exits' heads give, "logits" or "probs" (`Joint.kinds`); None = probs where their rows sum to 1.
        picks: which of the module's exits they are (`Source.picks`); None = all as they come.

    Raises:
        ModelError: free axes besides the batch, a type that TFLite files do not get, state that forward changes, a
            module that torch cannot export; see also `stages.stages`.
    """
    source = Exits(module, True, picks)
    specs = one_at_a_time(tuple(inputs) or own_inputs(module), source.states)
    _check_inputs(specs)
    modes = {m: m.training for m in module.modules()}
    source.eval()
    try:
        example = tuple(torch.from_numpy(a) for a in make_inputs(specs, 1, seed=0).values())
        with _steps(module) as unrolled:
            given = evaluate(source, example)
        names = tuple(exits) if exits is not None else exit_names(given)
        check_exits(given, names, type(module).__name__)
        if kinds is None:
            kinds = exit_kinds(given)
        whole = Joined(source, kinds)
        graph = to_graph(whole, example, type(module).__name__)
        unstack(graph)
    finally:
        for m, mode in modes.items():
            m.training = mode
    places = [n.name for n in graph.graph.nodes if n.op == "placeholder"]
    taken = dict(zip(places, [s.tensor.name for s in specs], strict=True))
    given_names = [*(n for e in names for n in e.outputs), *(next_name(n) for n in source.states)]
    builder = Builder(graph, taken, _answers(graph, given_names))
    by_name = {v: k for k, v in (*taken.items(), *builder.answers.items())}
    groups = [[by_name[n] for n in e.outputs] for e in names]
    states = [State(by_name[n], by_name[next_name(n)]) for n in source.states]
    check_heavy([builder.nodes[g[0]] for g in groups], [e.name for e in names], type(module).__name__)
    parts = stages(view(graph.graph), [g[0] for g in groups], [g[1:] for g in groups], states)
    carried = [[n for s in parts[: k + 1] for n in s.carried] for k in range(len(parts))]
    return TorchStages(
        type(module).__name__,
        names,
        tuple(builder.edge(n) for n in places),
        tuple(builder.piece(f"stage_{k}", s.inputs, s.outputs) for k, s in enumerate(parts)),
        tuple(builder.piece(f"exit_{k}", places, [*g, *carried[k]]) for k, g in enumerate(groups)),
        whole,
        tuple(f"{name} ({kind}) over {steps} steps" for name, (kind, steps) in unrolled.items()),
    )


@contextlib.contextmanager
def _steps(module: nn.Module) -> Iterator[dict[str, tuple[str, int]]]:
    """While it is open: recurrent layers that run over several steps, name -> (kind, steps)."""
    found: dict[str, tuple[str, int]] = {}

    def look(name: str, layer: nn.RNNBase, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        steps = int(x.shape[1 if layer.batch_first and x.dim() == 3 else 0])
        if steps > 1:
            found[name] = (type(layer).__name__, steps)

    layers = [(n, m) for n, m in module.named_modules() if isinstance(m, nn.RNNBase)]
    hooks = [m.register_forward_pre_hook(lambda m, x, n=n: look(n, m, x)) for n, m in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _check_inputs(specs: Sequence[InputSpec]) -> None:
    batch_kind(specs)
    for spec in specs:
        t = spec.tensor
        if free := [a for a in t.shape[1:] if isinstance(a, str)]:
            fixed = ",".join(str(spec.sizes.get(a, a)) if isinstance(a, str) else str(a) for a in t.shape[1:])
            raise ModelError(
                f"TFLite files have fixed sizes, and axis {free[0]!r} of input {t.name!r} is free: fix it, e.g. "
                f"--input '{t.name}:{t.dtype}[batch,{fixed}]', or give sizes to pad it to with --buckets"
            )
        check_name(t.name)


def _answers(graph: fx.GraphModule, names: Sequence[str]) -> dict[str, str]:
    answers: dict[str, str] = {}
    for node, name in zip(graph_outputs(graph.graph), names, strict=True):
        if node.name in answers:
            raise ModelError(f"{name!r} is the same tensor as {answers[node.name]!r}; they must differ")
        answers[node.name] = name
    return answers


def view(graph: fx.Graph) -> GraphView:
    """The graph as the stage algorithm sees it.

    Weights are left out; what depends on no input is free. An operation that gives several tensors stands as one node
    with those of them that are read, so that no cut goes between it and them.

    Raises:
        ModelError: control flow.
    """
    nodes: list[ViewNode] = []
    alive: set[fx.Node] = set()  # depends on a model input
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    alive |= set(inputs)
    for node in graph.nodes:
        if node.op != "call_function" or node.target is operator.getitem:
            continue
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            at = source_line(str(node.meta.get("stack_trace") or ""))
            raise ModelError(
                f"the network decides by itself with {op_name(node)!r}{f' ({at})' if at else ''}: control flow inside "
                "a network cannot go to TFLite; exits are where EdgeExit decides"
            )
        gives = [u for u in node.users if u.target is operator.getitem] or [node]
        depends = any(n in alive for n in node.all_input_nodes)
        if depends:
            alive |= {node, *gives}
        reads = [n.name for n in node.all_input_nodes if n.op != "get_attr"]
        nodes.append(ViewNode(tuple(reads), tuple(n.name for n in gives), free=not depends))
    return GraphView(tuple(n.name for n in inputs), tuple(nodes))
