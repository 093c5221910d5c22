"""Stacked exits in torch graphs: each is read from its own tensor, as `source.unstack` does in ONNX."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from edgeexit.errors import ModelError
from edgeexit_exporters.tflite.from_torch.layout import graph_outputs, op_name, value

_ALONG = {
    "relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "gelu", "elu", "leaky_relu", "sigmoid", "tanh",
    "clamp", "abs", "exp", "log", "sqrt", "neg", "clone", "alias", "contiguous", "_to_copy", "detach",
}  # fmt: skip
_PAIRS = {"add", "sub", "mul", "div"}
_HEAVY = {
    "conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "linear", "addmm", "mm", "bmm",
    "matmul", "einsum", "lstm", "gru", "rnn_tanh", "rnn_relu", "scaled_dot_product_attention",
}  # fmt: skip
_MOST = 64
_aten = torch.ops.aten


def unstack(module: fx.GraphModule) -> None:
    """Let outputs that are parts of stacked or concatenated tensors be read from what was stacked.

    Args:
        module: a graph without operations in place, with examples of all its tensors; changed in place.
    """
    graph = module.graph
    if not any(n.op == "call_function" and op_name(n) in ("stack", "cat") for n in graph.nodes):
        return
    (last,) = [n for n in graph.nodes if n.op == "output"]
    for node in graph_outputs(graph):
        with graph.inserting_before(last):
            other = _Parts(graph).plain(node)
        if other is not None:
            last.replace_input_with(node, other)
    graph.eliminate_dead_code()
    module.recompile()


def check_heavy(answers: Sequence[fx.Node], exits: Sequence[str], name: str) -> None:
    """Whether later exits are left with something to compute.

    Args:
        answers: of every exit.
        exits: their names.
        name: of the module.

    Raises:
        ModelError: the first exit goes through a join and needs every convolution and product.
    """
    first, all_of_them = _above(answers[:1]), _above(answers)
    heavy = [n for n in first if op_name(n) in _HEAVY]
    joins = sorted({op_name(n) for n in first} & {"stack", "cat"})
    if joins and len(answers) > 1 and len(heavy) > 1 and not any(op_name(n) in _HEAVY for n in all_of_them - first):
        raise ModelError(
            f"{name}: in torch's own graph exit {exits[0]!r} needs all {len(heavy)} convolutions and products of the "
            f"network, as it goes through {joins[-1]}, so TFLite files of it would never stop early: return every "
            "exit's own tensor, not parts of a joined one"
        )


def _above(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    above: set[fx.Node] = set()
    todo = list(nodes)
    while todo:
        node = todo.pop()
        if node not in above:
            above.add(node)
            todo += node.all_input_nodes
    return above


class _Parts:
    def __init__(self, graph: fx.Graph) -> None:
        self.graph, self.left = graph, _MOST

    def plain(self, node: fx.Node) -> fx.Node | None:
        """The same tensor without stacking and parting; None = there is none to take away."""
        self.left -= 1
        if node.op != "call_function" or self.left < 0:
            return None
        part = _part_of(node)
        if part is not None:
            source, dim, start, stop, drop = part
            found = self.part(source, dim, start, stop, drop)
            return None if found is None else found
        name = op_name(node)
        first = node.args[0] if node.args else None
        if not isinstance(first, fx.Node):
            return None
        if name in _ALONG | {"softmax", "_softmax", "log_softmax", "_log_softmax", "squeeze", "view", "reshape"}:
            found = self.plain(first)
            if found is None:
                return None
            a, b = value(found), value(node)
            if name == "squeeze" and a is not None and b is not None and a.shape == b.shape:
                return found
            return self.again(node, found, *node.args[1:])
        return None

    def part(self, node: fx.Node, dim: int, start: int, stop: int, drop: bool) -> fx.Node | None:
        """`node[start:stop]` along a dimension, which `drop` takes away; None = nothing stacked was met."""
        self.left -= 1
        whole = value(node)
        if node.op != "call_function" or whole is None or self.left < 0:
            return None
        name = op_name(node)
        first = node.args[0] if node.args else None
        if name == "stack" and isinstance(first, list | tuple):
            axis = _dim(node, 1, whole.ndim)
            if axis == dim and stop == start + 1 and isinstance(first[start], fx.Node):
                return self._unsqueezed(first[start], dim, drop)
            return None
        if name == "cat" and isinstance(first, list | tuple):
            if _dim(node, 1, whole.ndim) != dim:
                return None
            at = 0
            for member in first:
                size = int(value(member).shape[dim]) if isinstance(member, fx.Node) else 0  # type: ignore[union-attr]
                if (at, at + size) == (start, stop) and isinstance(member, fx.Node):
                    return self.call(_aten.squeeze.dim, node, member, dim) if drop else member
                at += size
            return None
        if not isinstance(first, fx.Node):
            return None
        if name in _ALONG:
            result = self.part(first, dim, start, stop, drop)
            return None if result is None else self.again(node, result, *node.args[1:])
        if name in ("softmax", "_softmax", "log_softmax", "_log_softmax"):
            over = int(node.args[1]) % whole.ndim  # type: ignore[arg-type]
            if over == dim:
                return None
            result = self.part(first, dim, start, stop, drop)
            return None if result is None else self.again(node, result, over - (drop and over > dim), *node.args[2:])
        if name in _PAIRS:
            result = self.part(first, dim, start, stop, drop)
            other: Any = node.args[1]
            if result is not None and isinstance(other, fx.Node):
                other = self._cut(other, dim, start, stop, drop, whole.ndim)
            return None if result is None else self.again(node, result, other, *node.args[2:])
        if name == "linear" and dim < whole.ndim - 1:
            result = self.part(first, dim, start, stop, drop)
            return None if result is None else self.again(node, result, *node.args[1:])
        if name == "permute":
            order: Any = node.args[1]
            axes = [int(a) % whole.ndim for a in order]
            result = self.part(first, axes[dim], start, stop, drop)
            if result is None:
                return None
            left = [a - (drop and a > axes[dim]) for a in axes if not drop or a != axes[dim]]
            return self.again(node, result, left)
        if name in ("view", "reshape"):
            return self._viewed(first, whole, dim, start, stop, drop)
        return None

    def _cut(self, node: fx.Node, dim: int, start: int, stop: int, drop: bool, ndim: int) -> fx.Node:
        """The part of the other tensor of a pair, which may reach along fewer dimensions."""
        shape = () if (a := value(node)) is None else a.shape
        own = dim - (ndim - len(shape))
        if own < 0:
            return node
        if shape[own] != 1:
            node = self.call(_aten.slice.Tensor, node, node, own, start, stop)
        return self.call(_aten.squeeze.dim, node, node, own) if drop else node

    def _unsqueezed(self, node: fx.Node, dim: int, drop: bool) -> fx.Node:
        return node if drop else self.call(_aten.unsqueeze.default, node, node, dim)

    def _viewed(
        self, source: fx.Node, whole: torch.Tensor, dim: int, start: int, stop: int, drop: bool
    ) -> fx.Node | None:
        """`(b, k * c) -> (b, k, c)`: one dimension divided in two, the first of which is parted."""
        before = value(source)
        if before is None or whole.ndim != before.ndim + 1 or stop != start + 1 or dim + 1 >= whole.ndim:
            return None
        a, b = list(before.shape), list(whole.shape)
        if a[:dim] != b[:dim] or a[dim + 1 :] != b[dim + 2 :] or a[dim] != b[dim] * b[dim + 1]:
            return None
        c = int(b[dim + 1])
        part = self.part(source, dim, start * c, stop * c, False)
        return None if part is None else self._unsqueezed(part, dim, drop)

    def again(self, node: fx.Node, *args: Any) -> fx.Node:
        return self.call(node.target, node, *args, **node.kwargs)

    def call(self, target: Any, like: fx.Node, *args: Any, **kwargs: Any) -> fx.Node:
        """A new operation with an example of its tensor."""
        new = self.graph.call_function(target, args, kwargs)
        with torch.no_grad():
            example = target(*fx.map_arg(args, value), **fx.map_arg(kwargs, value))
        new.meta = {**{k: v for k, v in like.meta.items() if k in ("nn_module_stack", "stack_trace")}, "val": example}
        return new


def _dim(node: fx.Node, place: int, ndim: int) -> int:
    dim: Any = node.args[place] if len(node.args) > place else 0
    return int(dim) % ndim


def _part_of(node: fx.Node) -> tuple[fx.Node, int, int, int, bool] | None:
    """Tensor, dimension, borders and whether the dimension is dropped, of a node that takes a part out of a tensor."""
    name = op_name(node)
    k: Any = 0
    if node.target is operator.getitem:
        source, k = node.args
        node = source  # type: ignore[assignment]
        name = op_name(node)
    if not node.args or not isinstance(node.args[0], fx.Node):
        return None
    first = node.args[0]
    whole = value(first)
    if whole is None:
        return None
    rest: list[Any] = list(node.args[1:])
    if name == "unbind":
        return first, _dim(node, 1, whole.ndim), k, k + 1, True
    if name == "select" and all(isinstance(a, int) for a in rest):
        dim = int(rest[0]) % whole.ndim
        index = int(rest[1]) % int(whole.shape[dim])
        return first, dim, index, index + 1, True
    if name == "slice":
        dim = _dim(node, 1, whole.ndim)
        size = int(whole.shape[dim])
        start, stop = (
            a if isinstance(a, int) else d for a, d in zip([*rest[1:3], None, None], (0, size), strict=False)
        )
        if len(rest) > 3 and rest[3] != 1:
            return None
        start, stop = (min(max(n + size if n < 0 else n, 0), size) for n in (start, stop))
        return (first, dim, start, stop, False) if start < stop else None
    if name in ("split", "split_with_sizes", "chunk") and isinstance(node.meta.get("val"), list | tuple):
        dim = _dim(node, 2, whole.ndim)
        sizes = [int(v.shape[dim]) for v in node.meta["val"]]
        return first, dim, sum(sizes[:k]), sum(sizes[: k + 1]), False
    return None
