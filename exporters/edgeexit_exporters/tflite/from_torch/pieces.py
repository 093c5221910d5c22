"""Part of an exported torch graph as a module whose edges are as TFLite files have them."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from edgeexit.errors import ModelError
from edgeexit_exporters.tflite.from_torch.layout import (
    NCHW,
    NHWC,
    channels_last,
    flat_for_linear,
    op_name,
    permute,
    pictures,
    pooled,
    rows_last_channels,
    value,
)

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


_TAKEN = {"self", "torch", "device", "inf", "nan", "operator", "fx_pytree", "pytree"}
"""What the text of a graph module uses itself."""


@dataclass(frozen=True)
class Edge:
    """A tensor at the edge of a stage, as the file has it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nhwc: bool
    """Channels last here, channels first in the torch module."""


@dataclass(frozen=True)
class TorchPiece:
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


class Builder:
    """Cuts pieces out of a graph.

    Args:
        module: the whole network.
        inputs: its placeholders -> the names of the model's inputs.
        answers: nodes of the exits' own tensors -> their names.
    """

    def __init__(self, module: fx.GraphModule, inputs: Mapping[str, str], answers: Mapping[str, str]) -> None:
        self.module, self.inputs, self.answers = module, inputs, answers
        self.nodes = {n.name: n for n in module.graph.nodes}
        self.pictures = pictures(module.graph)
        self._given: dict[str, str] = {}  # edge -> node

    def edge(self, name: str) -> Edge:
        """How a node's tensor looks at an edge. Answers are left as they are: their classes stand last.

        Raises:
            ModelError: it is of a type that TFLite networks are not made of.
        """
        node = self.nodes[name]
        tensor = value(node)
        edge = self.inputs.get(name) or self.answers.get(name) or f"cut_{re.sub(r'[^0-9A-Za-z_]', '_', name)}"
        if tensor is None or tensor.dtype not in _DTYPES:
            kind = "no tensor" if tensor is None else str(tensor.dtype).removeprefix("torch.")
            raise ModelError(
                f"{edge!r} is {kind}, and TFLite files are made of float32 networks: convert it with .float()"
            )
        if self._given.setdefault(edge, name) != name:
            raise ModelError(f"two tensors would be called {edge!r}: name inputs and exits differently")
        shape = tuple(int(n) for n in tensor.shape)
        nhwc = node in self.pictures and name not in self.answers
        return Edge(edge, _DTYPES[tensor.dtype], tuple(shape[a] for a in NHWC) if nhwc else shape, nhwc)

    def piece(self, name: str, inputs: Sequence[str], outputs: Sequence[str]) -> TorchPiece:
        """The module that computes `outputs` from those of `inputs` that they need."""
        needed = self._needed(outputs, set(inputs))
        inputs = [n for n in inputs if self.nodes[n] in needed]
        ins, outs = [self.edge(n) for n in inputs], [self.edge(n) for n in outputs]
        copied = _Copy(self.module, self.pictures)
        example = {}
        for source, edge in zip(inputs, ins, strict=True):
            tensor = value(self.nodes[source])
            assert tensor is not None
            copied.enter(self.nodes[source], edge)
            example[edge.name] = torch.zeros(edge.shape, dtype=tensor.dtype)
        body = [n for n in self.module.graph.nodes if n in needed and n.op == "call_function"]
        for node in body:
            copied.add(node)
        module = copied.finish({e.name: copied.leave(self.nodes[n], e) for n, e in zip(outputs, outs, strict=True)})
        lines = ((op_name(n), source_line(str(n.meta.get("stack_trace") or ""))) for n in body)
        return TorchPiece(name, module, tuple(ins), tuple(outs), example, tuple((op, at) for op, at in lines if at))

    def _needed(self, outputs: Sequence[str], stop: set[str]) -> set[fx.Node]:
        nodes: set[fx.Node] = set()
        todo = [self.nodes[n] for n in outputs]
        while todo:
            node = todo.pop()
            if node not in nodes:
                nodes.add(node)
                todo += [] if node.name in stop else node.all_input_nodes
        return nodes


class _Copy:
    """A graph that grows node by node, with the weights it uses."""

    def __init__(self, module: fx.GraphModule, spatial: set[fx.Node]) -> None:
        self.module, self.spatial = module, spatial
        self.graph, self.root = fx.Graph(), nn.Module()
        self.new: dict[fx.Node, fx.Node] = {}
        self.last: dict[fx.Node, fx.Node] = {}  # pictures that are at hand channels last

    def enter(self, node: fx.Node, edge: Edge) -> None:
        check_name(edge.name)
        place = self.new[node] = self.graph.placeholder(edge.name)
        if edge.nhwc:
            self.last[node], self.new[node] = place, permute(self.graph, place, NCHW)

    def leave(self, node: fx.Node, edge: Edge) -> fx.Node:
        if not edge.nhwc:
            return self._get(node)
        return self.last.get(node) or permute(self.graph, self._get(node), NHWC)

    def add(self, node: fx.Node) -> None:
        if node in self.new:  # an edge
            return
        moved = channels_last(self.graph, node, self._at_hand(node))
        if moved is not None:
            self.last[node] = _named(moved, node)
            self.new[node] = permute(self.graph, moved, NCHW)
        else:
            replaced = self._pooled(node) or self._flattened(node) or self._linear(node)
            self.new[node] = _named(replaced or self.graph.node_copy(node, self._get), node)

    def _at_hand(self, node: fx.Node) -> Mapping[fx.Node, fx.Node]:
        """What is there channels last: every picture that pictures are made of."""
        # Else the converter leaves a transpose before a padding and one behind where its input has another reader.
        if node not in self.spatial:
            return self.last
        sources = [n for n in node.all_input_nodes if n in self.spatial and n not in self.last]
        return {**self.last, **{n: permute(self.graph, self._get(n), NHWC) for n in sources}}

    def finish(self, outputs: Mapping[str, fx.Node]) -> nn.Module:
        self.graph.output(dict(outputs))
        self.graph.eliminate_dead_code()
        return fx.GraphModule(self.root, self.graph).eval()

    def _get(self, node: fx.Node) -> fx.Node:
        if node not in self.new:
            assert node.op == "get_attr", node
            self._put(str(node.target), self._weight(node))
            self.new[node] = self.graph.get_attr(str(node.target))
        return self.new[node]

    def _pooled(self, node: fx.Node) -> fx.Node | None:
        dims = pooled(node, self.spatial)
        if dims is None:
            return None
        source = node.args[0]
        assert isinstance(source, fx.Node)
        args = (permute(self.graph, self._get(source), NHWC), dims, *node.args[2:])
        return self.graph.call_function(node.target, args, dict(node.kwargs))  # type: ignore[arg-type]

    def _flattened(self, node: fx.Node) -> fx.Node | None:
        shape = flat_for_linear(node, self.spatial)
        if shape is None:
            return None
        source = node.args[0]
        assert isinstance(source, fx.Node)
        moved = permute(self.graph, self._get(source), NHWC)
        return self.graph.call_function(torch.ops.aten.reshape.default, (moved, [1, shape[0] * shape[1] * shape[2]]))

    def _linear(self, node: fx.Node) -> fx.Node | None:
        """The layer behind a flattening whose order changed: its weights' columns follow."""
        if op_name(node) != "linear":
            return None
        source, weight, *bias = node.args
        if not isinstance(source, fx.Node) or not isinstance(weight, fx.Node):
            return None
        shape = flat_for_linear(source, self.spatial)
        if shape is None:
            return None
        path = f"{str(weight.target).replace('.', '_')}_{node.name}_nhwc"
        self._put(path, rows_last_channels(self._weight(weight), shape))
        rest = [self._get(b) if isinstance(b, fx.Node) else b for b in bias]
        return self.graph.call_function(node.target, (self._get(source), self.graph.get_attr(path), *rest))  # type: ignore[arg-type]

    def _weight(self, node: fx.Node) -> Tensor:
        attribute: object = self.module
        for part in str(node.target).split("."):
            attribute = getattr(attribute, part)
        assert isinstance(attribute, Tensor), node.target
        return attribute

    def _put(self, path: str, tensor: Tensor) -> None:
        *folders, name = path.split(".")
        at = self.root
        for folder in folders:
            if not hasattr(at, folder):
                at.add_module(folder, nn.Module())
            at = at.get_submodule(folder)
        at.register_buffer(name, tensor.detach())


def check_name(name: str) -> None:
    """Whether a tensor that a stage reads can be called so: in the stage's module it is an argument.

    Raises:
        ModelError: it cannot.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name in _TAKEN:
        raise ModelError(
            f"{name!r} is read by a stage of a TFLite file, and its name must be of letters, digits and _, and no word "
            "of Python's: give it another with --input or --exits"
        )


def _named(new: fx.Node, node: fx.Node) -> fx.Node:
    """Tensors in the file get the layer's short name; the converter's own are a fifth of a small file."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    path = path.removeprefix("exits").removeprefix(".module").removeprefix(".") or node.name
    new.meta = {"nn_module_stack": {"": ("", path)}, "stack_trace": node.meta.get("stack_trace")}
    return new


def source_line(trace: str) -> str:
    """The innermost line of the user's code in a stack trace, "net.py:12"; "" = not known."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', trace)
    own = [(f, n) for f, n in frames if "site-packages" not in f and "edgeexit_exporters" not in f and f[:1] != "<"]
    return f"{Path(own[-1][0]).name}:{own[-1][1]}" if own else ""
