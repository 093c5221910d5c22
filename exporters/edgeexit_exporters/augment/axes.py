"""Channel axis of a tensor, read off the operations that make and read it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

Shapes = Mapping[str, tuple[int, ...]]

_SECOND = {
    "Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "BatchNormalization", "InstanceNormalization",
    "GroupNormalization", "LRN", "MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool",
    "GlobalLpPool", "DepthToSpace", "SpaceToDepth",
}  # fmt: skip
"""Operations with channels on axis 1."""
_LAST = {
    "Gemm", "MatMul", "MatMulInteger", "QLinearMatMul", "LayerNormalization", "RMSNormalization", "Attention",
    "LSTM", "GRU", "RNN",
}  # fmt: skip
"""Operations with channels on the last axis."""
_REGROUPED = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}
_UNKNOWN = {"Einsum", "Shape", "Size", "NonZero", "OneHot"}


def channel_axes(graph: ir.Graph, shapes: Shapes) -> dict[str, int]:
    """The channel axis of every tensor of which an operation tells it.

    What made a tensor has the first word, then what reads it; both look through element-wise work, transposed and
    regrouped axes. Custom operations and control flow tell nothing.

    Args:
        graph: a prepared graph.
        shapes: of its tensors, for one input.
    """
    axes_of: dict[str, int] = {}
    nodes = [n for n in graph if n.domain in ("", "ai.onnx") and n.op_type not in _UNKNOWN and not _has_graphs(n)]
    for node in nodes:
        for out in (v.name for v in node.outputs):
            axis = _made(node, out or "", axes_of, shapes)
            if axis is not None and out:
                axes_of[out] = axis
    for node in reversed(nodes):
        for k, value in enumerate(node.inputs):
            name = value.name if value is not None else None
            if name and name in shapes and name not in axes_of:
                axis = _read(node, k, name, axes_of, shapes)
                if axis is not None:
                    axes_of[name] = axis
    return axes_of


def _made(node: ir.Node, out: str, axes_of: Mapping[str, int], shapes: Shapes) -> int | None:
    """The channel axis of an output, given those of the inputs."""
    if out not in shapes:
        return None
    rank = len(shapes[out])
    own = _own_axis(node, rank)
    if own is not None:
        return own
    for name in (v.name for v in node.inputs if v is not None):
        if name and name in axes_of and name in shapes:
            axis = _through(node, name, out, axes_of[name], shapes)
            if axis is not None:
                return axis
    return None


def _read(node: ir.Node, k: int, name: str, axes_of: Mapping[str, int], shapes: Shapes) -> int | None:
    """The channel axis of input k, given those of the outputs."""
    rank = len(shapes[name])
    own = _own_axis(node, rank)
    if own is not None:
        # A product takes its sum over the last axis of what comes first; a weight there turns it round.
        data = 1 if _weight_first(node) else 0
        return own if k == data or node.op_type == "Attention" else None
    for out in (v.name for v in node.outputs):
        if out and out in axes_of and out in shapes:
            axis = _through(node, name, out, axes_of[out], shapes, back=True)
            if axis is not None:
                return axis
    return None


def _own_axis(node: ir.Node, rank: int) -> int | None:
    if node.op_type in _SECOND:
        return 1 if rank >= 2 else None
    if node.op_type in _LAST:
        axis = rank - 2 if _weight_first(node) else rank - 1
        return axis if axis >= 1 else None
    return None


def _weight_first(node: ir.Node) -> bool:
    first = node.inputs[0] if node.inputs else None
    return node.op_type == "MatMul" and first is not None and first.is_initializer()


def _through(node: ir.Node, name: str, out: str, axis: int, shapes: Shapes, *, back: bool = False) -> int | None:
    """Where an axis of the input comes out, or with `back`, where one of the output came from; None = nowhere."""
    source, target = shapes[name], shapes[out]
    if node.op_type == "Transpose":
        perm = list(node.attributes["perm"].as_ints()) if "perm" in node.attributes else [*range(len(target))][::-1]
        return perm[axis] if back else perm.index(axis)
    if node.op_type in _REGROUPED:
        return _regrouped(target, source, axis) if back else _regrouped(source, target, axis)
    if len(source) > len(target):
        gone = _removed(node, len(source))
        if gone is None or len(gone) != len(source) - len(target):
            return None
        kept = [k for k in range(len(source)) if k not in gone]
        return kept[axis] if back else (kept.index(axis) if axis in kept else None)
    # Element-wise work, joining, cutting and padding keep the axes; broadcasting aligns them at the right.
    moved = axis - (len(target) - len(source)) if back else axis + (len(target) - len(source))
    return moved if moved >= 0 else None


def _regrouped(source: tuple[int, ...], target: tuple[int, ...], axis: int) -> int | None:
    """The axis of `target` with the same size and as many numbers before it; None where it was split or merged."""
    before, size = math.prod(source[:axis]), source[axis]
    return next((k for k, s in enumerate(target) if s == size and math.prod(target[:k]) == before), None)


def _removed(node: ir.Node, rank: int) -> set[int] | None:
    """The input axes that a reduction or the choice of one element takes away; None = not known."""
    if node.op_type == "Gather":
        return {(node.attributes["axis"].as_int() if "axis" in node.attributes else 0) % rank}
    if not node.op_type.startswith("Reduce"):
        return None
    if "axes" in node.attributes:
        return {a % rank for a in node.attributes["axes"].as_ints()}
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    if axes is None or axes.const_value is None:
        return None
    return {int(a) % rank for a in axes.const_value.numpy().ravel()}


def _has_graphs(node: ir.Node) -> bool:
    return any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())
