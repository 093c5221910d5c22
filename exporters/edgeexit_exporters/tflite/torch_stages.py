"""torch modules -> stages: torch.export's graph, divided by `stages.stages`, each stage a module of its own.

The edges of stages are as TFLite files have them: batch 1, fixed sizes, pictures channels last.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from edgeexit.errors import ModelError
from edgeexit_exporters.inputs import InputSpec, batch_kind, make_inputs
from edgeexit_exporters.join import JoinedExit
from edgeexit_exporters.stages import GraphView, ViewNode, stages
from edgeexit_exporters.tflite.torch_join import Joined
from edgeexit_exporters.tflite.torch_layout import channels_last, flat_for_linear, op_name, pictures, rows_last_channels, value
from edgeexit_exporters.torch_source import Exits, own_inputs, quiet

_DTYPES = {
    torch.float32: "float32",
    torch.float64: "float32",
    torch.int64: "int32",
    torch.int32: "int32",
    torch.int8: "int8",
    torch.uint8: "uint8",
    torch.bool: "bool",
}
"""torch's type -> the type in the file: the converter makes 32 bits of 64."""


@dataclass(frozen=True)
class Edge:
    """A tensor at the edge of a stage, as the file has it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nhwc: bool
    """Channels last here, channels first in the torch module."""


@dataclass(frozen=True)
class Piece:
    """A part of the network that is converted to one signature."""

    name: str
    """The signature's: stage_0, stage_1, ...; exit_0, ... for prefixes."""
    module: nn.Module = field(repr=False)
    """Keyword tensors in, a dict of tensors out, by edge names."""
    inputs: tuple[Edge, ...]
    outputs: tuple[Edge, ...]
    """The exit's own tensors, the answer first, then other cut tensors."""
    example: Mapping[str, Tensor] = field(repr=False)
    """Zeros, as the module takes them (64 bits where torch has 64)."""
    lines: tuple[tuple[str, str], ...] = field(repr=False)
    """Operation -> the line of the source model that calls it, "file.py:12"; first call first."""


@dataclass(frozen=True)
class TorchStages:
    """A multi-exit network in pieces."""

    name: str
    """The module's class."""
    exits: tuple[JoinedExit, ...]
    inputs: tuple[Edge, ...]
    """All model inputs, in the order of `forward`."""
    stages: tuple[Piece, ...]
    prefixes: tuple[Piece, ...]
    """Per exit, everything that it needs, from the model inputs."""
    whole: nn.Module = field(repr=False)
    """The joined source: positional inputs as the module takes them; all exits' tensors in order."""


def divide(
    module: nn.Module,
    inputs: Sequence[InputSpec] = (),
    exits: Sequence[JoinedExit] | None = None,
    kinds: Sequence[str] | None = None,
) -> TorchStages:
    """Divide a torch module that returns its exits in order (`torch_source.from_torch` says what an exit may be).

    Args:
        module: evaluated in eval mode; its mode is put back.
        inputs: in the order of `forward`; empty = the module's own `input_spec`.
        exits: the names that the exits' tensors get (`Source.exits`); None = exit0, exit1, ... with `_uncertainty` and
            `_score` behind them.
        kinds: what the exits' heads give, "logits" or "probs" (`Joint.kinds`); None = probs where one ends in a softmax.

    Raises:
        ModelError: free axes besides the batch, a type that TFLite files do not get, state that forward changes, a
            module that torch cannot export; see also `stages.stages`.
    """
    specs = tuple(inputs) or own_inputs(module)
    _check_inputs(specs)
    source = Exits(module, single=True)
    modes = {m: m.training for m in module.modules()}
    source.eval()
    try:
        example = tuple(torch.from_numpy(a) for a in make_inputs(specs, 1, seed=0).values())
        given = _try(source, example, module)
        names = tuple(exits) if exits is not None else _names(given)
        _check_exits(given, names, module)
        if kinds is None:
            kinds = _kinds(source, given, example)
        whole = Joined(source, kinds)
        graph = _export(whole, example, type(module).__name__)
    finally:
        for m, mode in modes.items():
            m.training = mode
    return _Divider(graph, [s.tensor.name for s in specs], names).result(type(module).__name__, whole)


def _check_inputs(specs: Sequence[InputSpec]) -> None:
    batch_kind(specs)
    for spec in specs:
        t = spec.tensor
        if free := [a for a in t.shape[1:] if isinstance(a, str)]:
            fixed = ",".join(str(spec.sizes.get(a, a)) if isinstance(a, str) else str(a) for a in t.shape[1:])
            raise ModelError(
                f"TFLite files have fixed sizes, and axis {free[0]!r} of input {t.name!r} is free: fix it, e.g. "
                f"--input '{t.name}:{t.dtype}[batch,{fixed}]'"
            )
        if not t.name.isidentifier():
            raise ModelError(
                f"input {t.name!r}: inputs of TFLite files get names of letters, digits and _; name it with --input"
            )


def _try(source: Exits, example: tuple[Tensor, ...], module: nn.Module) -> list[tuple[list[Tensor], list[Tensor]]]:
    try:
        with torch.no_grad():
            return source.exits(*example)
    except ModelError:
        raise
    except Exception as e:
        shapes = ", ".join(str(list(t.shape)) for t in example)
        raise ModelError(
            f"{type(module).__name__} does not run on inputs of {shapes}: {_first_line(e)[:200]}; TFLite files are "
            "made with batch 1"
        ) from e


def _names(given: Sequence[tuple[list[Tensor], list[Tensor]]]) -> tuple[JoinedExit, ...]:
    found = []
    for k, (heads, learned) in enumerate(given):
        name = f"exit{k}"
        uncertainty = f"{name}_uncertainty" if len(heads) > 1 else None
        found.append(JoinedExit(name, name, len(heads), uncertainty, f"{name}_score" if learned else None))
    return tuple(found)


def _check_exits(
    given: Sequence[tuple[list[Tensor], list[Tensor]]], names: Sequence[JoinedExit], module: nn.Module
) -> None:
    if len(names) != len(given):
        raise ModelError(f"{len(names)} exit names for {type(module).__name__}, a module with {len(given)} exits")
    for exit, (heads, learned) in zip(names, given, strict=True):
        if exit.members != len(heads) or (exit.learned is not None) != bool(learned):
            raise ModelError(
                f"exit {exit.name!r}: {exit.members} heads{' and a learned score' if exit.learned else ''} named, and "
                f"the module gives {len(heads)}{' and a learned score' if learned else ''}"
            )
        if len({tuple(h.shape) for h in heads}) > 1:
            raise ModelError(
                f"exit {exit.name!r}: heads that answer together have one shape, found "
                f"{', '.join(str(list(h.shape)) for h in heads)}"
            )


def _kinds(
    source: Exits, given: Sequence[tuple[list[Tensor], list[Tensor]]], example: tuple[Tensor, ...]
) -> tuple[str, ...]:
    if all(len(heads) == 1 for heads, _ in given):
        return ("logits",) * len(given)  # a single head is left as it is
    graph = _export(source, example, type(source.module).__name__)
    flat = iter(_outputs(graph.graph))
    kinds = []
    for k, (heads, learned) in enumerate(given):
        found = {"probs" if _ends_in_softmax(next(flat)) else "logits" for _ in heads}
        for _ in learned:
            next(flat)
        if len(found) > 1:
            raise ModelError(f"exit {k}: some heads end in a Softmax and some do not; give all of one kind")
        kinds.append(found.pop())
    return tuple(kinds)


def _ends_in_softmax(node: fx.Node) -> bool:
    while op_name(node) in {"view", "reshape", "squeeze", "flatten", "clone", "_to_copy"}:
        source = node.args[0]
        if not isinstance(source, fx.Node):
            return False
        node = source
    found = value(node)
    if op_name(node) not in {"softmax", "_softmax", "_safe_softmax"} or found is None:
        return False
    return node.args[1] in (-1, found.ndim - 1)


def _export(module: nn.Module, example: tuple[Tensor, ...], name: str) -> fx.GraphModule:
    """One graph without operations in place (a value means the same wherever it is read)."""
    with quiet(), torch.no_grad():
        try:
            program = torch.export.export(module, example, strict=False).run_decompositions({})
            changed = sorted(set(program.graph_signature.buffers_to_mutate.values()))
            found = program.module()
        except Exception as e:
            raise ModelError(f"torch cannot export {name}: {_first_line(e)[:200]}") from e
    if changed:
        raise ModelError(
            f"{name}: forward changes {changed[0].removeprefix('exits.module.')!r}; TFLite files carry no state: make "
            "it an input and an output"
        )
    assert isinstance(found, fx.GraphModule)
    return found


def _outputs(graph: fx.Graph) -> list[fx.Node]:
    (last,) = [n for n in graph.nodes if n.op == "output"]
    return [n for n in torch.utils._pytree.tree_leaves(last.args[0]) if isinstance(n, fx.Node)]


class _Divider:
    """The graph of all exits, the names of its edges, and what is cut from it."""

    def __init__(self, module: fx.GraphModule, inputs: Sequence[str], exits: Sequence[JoinedExit]) -> None:
        self.module, self.exits = module, tuple(exits)
        self.nodes = {n.name: n for n in module.graph.nodes}
        self.spatial = pictures(module.graph)
        places = [n for n in module.graph.nodes if n.op == "placeholder"]
        self.inputs = {n.name: name for n, name in zip(places, inputs, strict=True)}
        names = [n for e in self.exits for n in e.outputs]
        self.answers: dict[str, str] = {}
        for node, name in zip(_outputs(module.graph), names, strict=True):
            if node.name in self.answers:
                raise ModelError(f"{name!r} is the same tensor as {self.answers[node.name]!r}; exits must differ")
            self.answers[node.name] = name

    def result(self, name: str, whole: nn.Module) -> TorchStages:
        by_name = {v: k for k, v in self.answers.items()}
        groups = [[by_name[n] for n in e.outputs] for e in self.exits]
        found = stages(self._view(), [g[0] for g in groups], [g[1:] for g in groups])
        pieces = tuple(self._piece(f"stage_{k}", s.inputs, s.outputs) for k, s in enumerate(found))
        prefixes = tuple(self._piece(f"exit_{k}", tuple(self.inputs), g) for k, g in enumerate(groups))
        edges = tuple(self._edge(n) for n in self.inputs)
        return TorchStages(name, self.exits, edges, pieces, prefixes, whole)

    def _view(self) -> GraphView:
        """Operations that give several tensors stand as one node with those of them that are read."""
        nodes: list[ViewNode] = []
        alive: set[fx.Node] = set()  # depends on a model input
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                alive.add(node)
            if node.op != "call_function" or node.target is operator.getitem:
                continue
            gives = [u.name for u in node.users if u.target is operator.getitem] or [node.name]
            reads = [n.name for n in node.all_input_nodes if n.op != "get_attr"]
            depends = any(n in alive for n in node.all_input_nodes)
            if depends:
                alive |= {node, *(self.nodes[n] for n in gives)}
            nodes.append(ViewNode(tuple(reads), tuple(gives), free=not depends))
        return GraphView(tuple(self.inputs), tuple(nodes))

    def _edge(self, name: str) -> Edge:
        """Answers are left as they are: their classes stand last."""
        node = self.nodes[name]
        found = value(node)
        edge = self.inputs.get(name) or self.answers.get(name) or f"cut_{re.sub(r'[^0-9A-Za-z_]', '_', name)}"
        if found is None or found.dtype not in _DTYPES:
            kind = "no tensor" if found is None else str(found.dtype).removeprefix("torch.")
            raise ModelError(
                f"{edge!r} is {kind}, and TFLite files are made of float32 networks: convert it with .float()"
            )
        shape = tuple(int(n) for n in found.shape)
        nhwc = node in self.spatial and name not in self.answers
        if nhwc:
            shape = (shape[0], shape[2], shape[3], shape[1])
        return Edge(edge, _DTYPES[found.dtype], shape, nhwc)

    def _piece(self, name: str, inputs: Sequence[str], outputs: Sequence[str]) -> Piece:
        needed = self._needed(outputs, set(inputs))
        inputs = [n for n in inputs if self.nodes[n] in needed]
        graph = fx.Graph()
        root = nn.Module()  # holds this piece's weights only
        new: dict[fx.Node, fx.Node] = {}
        last: dict[fx.Node, fx.Node] = {}  # pictures that are at hand channels last
        ins, outs = [self._edge(n) for n in inputs], [self._edge(n) for n in outputs]
        for source, edge in zip(inputs, ins, strict=True):
            place = new[self.nodes[source]] = graph.placeholder(edge.name)
            if edge.nhwc:
                last[self.nodes[source]] = place
                new[self.nodes[source]] = _permute(graph, place, (0, 3, 1, 2))
        for node in self.module.graph.nodes:
            if node not in needed or node in new:
                continue
            if node.op == "get_attr":
                _put(root, str(node.target), _attribute(self.module, str(node.target)))
            moved = channels_last(graph, node, last)
            if moved is not None:
                last[node], new[node] = moved, _permute(graph, moved, (0, 3, 1, 2))
            else:
                self._copy(graph, root, node, new)
        given = {}
        for source, edge in zip(outputs, outs, strict=True):
            node = self.nodes[source]
            given[edge.name] = new[node] if not edge.nhwc else last.get(node) or _permute(graph, new[node], (0, 2, 3, 1))
        graph.output(given)
        graph.eliminate_dead_code()
        module = fx.GraphModule(root, graph).eval()
        lines = [(op_name(n), _line(n)) for n in self.module.graph.nodes if n in needed and n.op == "call_function"]
        example = {}
        for source, edge in zip(inputs, ins, strict=True):
            tensor = value(self.nodes[source])
            assert tensor is not None
            example[edge.name] = torch.zeros(edge.shape, dtype=tensor.dtype)
        return Piece(name, module, tuple(ins), tuple(outs), example, tuple((o, at) for o, at in lines if at))

    def _copy(self, graph: fx.Graph, root: nn.Module, node: fx.Node, new: dict[fx.Node, fx.Node]) -> None:
        """A flattening before linear layers takes channels last, and their weights follow: no transpose at run time."""
        shape = flat_for_linear(node, self.spatial) if node.op == "call_function" else None
        if shape is not None and isinstance(node.args[0], fx.Node):
            moved = _permute(graph, new[node.args[0]], (0, 2, 3, 1))
            size = [shape[0] * shape[1] * shape[2]]
            new[node] = graph.call_function(torch.ops.aten.reshape.default, (moved, [1, *size]))
            return
        source = node.args[0] if node.args else None
        if node.op == "call_function" and op_name(node) == "linear" and isinstance(source, fx.Node):
            shape = flat_for_linear(source, self.spatial) if source.op == "call_function" else None
            weight = node.args[1]
            if shape is not None and isinstance(weight, fx.Node):
                name = f"{str(weight.target).replace('.', '_')}_{node.name}_nhwc"
                _put(root, name, rows_last_channels(_attribute(self.module, str(weight.target)), shape))
                rest = [new[a] if isinstance(a, fx.Node) else a for a in node.args[2:]]
                new[node] = graph.call_function(
                    torch.ops.aten.linear.default, (new[source], graph.get_attr(name), *rest)
                )
                new[node].meta = dict(node.meta)
                return
        new[node] = graph.node_copy(node, lambda n: new[n])

    def _needed(self, outputs: Sequence[str], stop: set[str]) -> set[fx.Node]:
        found: set[fx.Node] = set()
        todo = [self.nodes[n] for n in outputs]
        while todo:
            node = todo.pop()
            if node not in found:
                found.add(node)
                todo += [] if node.name in stop else node.all_input_nodes
        return found


def _permute(graph: fx.Graph, node: fx.Node, axes: tuple[int, ...]) -> fx.Node:
    return graph.call_function(torch.ops.aten.permute.default, (node, list(axes)))


def _attribute(module: nn.Module, path: str) -> Tensor:
    found: object = module
    for part in path.split("."):
        found = getattr(found, part)
    if not isinstance(found, Tensor):
        raise ModelError(f"the graph holds {path!r}, a {type(found).__name__}: control flow has no TFLite stages")
    return found


def _put(root: nn.Module, path: str, tensor: Tensor) -> None:
    *folders, name = path.split(".")
    for folder in folders:
        if not hasattr(root, folder):
            root.add_module(folder, nn.Module())
        root = getattr(root, folder)
    root.register_buffer(name, tensor.detach())


def _line(node: fx.Node) -> str:
    """The innermost line of the user's code that called it; "" = not known."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', str(node.meta.get("stack_trace") or ""))
    own = [(f, n) for f, n in frames if "site-packages" not in f and "edgeexit_exporters" not in f]
    return f"{Path(own[-1][0]).name}:{own[-1][1]}" if own else ""


def _first_line(e: BaseException) -> str:
    return next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)
