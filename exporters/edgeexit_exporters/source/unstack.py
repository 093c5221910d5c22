"""Stacked exits in ONNX graphs: each is read from its own tensor where the graph joins and parts tensors.

A module that stacks its exits (`torch.stack`, then `y[0]`, `y[1]`) makes every exit wait for all of them. A part of a
Concat is one of its inputs, and operations between the two that work position by position along that axis can as well
be done on the part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from edgeexit_exporters.onnx.graph import values
from edgeexit_exporters.source.parting import PARTING, constant_ints, part_of
from edgeexit_exporters.source.rewriting import Rewriter

_ALONG = {
    "Identity", "Cast", "Relu", "LeakyRelu", "Elu", "Selu", "Gelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh",
    "Softplus", "Exp", "Log", "Neg", "Abs", "Sqrt", "Erf", "Clip",
}  # fmt: skip
"""Element by element: parameters, if any, are one number."""
_OVER_AN_AXIS = {"Softmax", "LogSoftmax"}
_PAIRS = {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"}
_MOST = 64
"""Operations that one way down a graph may lead through."""


def unstack(model: ir.Model, tensors: Sequence[str]) -> list[str]:
    """Rewrite a graph so that exits that are parts of joined tensors are read from what was joined.

    Args:
        model: as `onnx_graph.prepare` gives it; changed in place. Its answers stay the same.
        tensors: exits and what they give besides; they keep their names.

    Returns:
        The tensors that are now read from elsewhere.
    """
    known = values(model.graph)
    if not any(n.op_type in ("Concat", "SequenceConstruct") for n in model.graph):
        return []
    parts = _Parts(model)
    replaced = []
    for name in tensors:
        value = known.get(name)
        if value is None or value.producer() is None:
            continue
        other = parts.plain(value)
        if other is not value:
            parts.rename(value, other, name)
            replaced.append(name)
    parts.place()
    return replaced


class _Parts(Rewriter):
    """Follows parts of joined tensors to their sources, and makes the nodes between anew."""

    def __init__(self, model: ir.Model) -> None:
        super().__init__(model.graph)
        self.known: dict[tuple[ir.Value, int, int, int], ir.Value | None] = {}
        self.shapes: Mapping[str, tuple[int | None, ...]] = _shapes(model)
        self.left = _MOST

    def plain(self, value: ir.Value) -> ir.Value:
        """The same tensor without joining and parting; the value itself where there is none to take away."""
        self.left = _MOST
        return self._plain(value) or value

    def _plain(self, value: ir.Value) -> ir.Value | None:
        """None = nothing to take away."""
        node = value.producer()
        self.left -= 1
        if node is None or self.left < 0:
            return None
        if node.op_type in PARTING:
            part = part_of(node, value, self.shape)
            if part is None:
                return None
            source, axis, start, stop, drop = part
            found = self.part(source, axis, start, stop) if axis is not None else self._plain(source)
            if found is None:
                return None
            if axis is None:  # a Squeeze above something that was simplified
                return self.again(node, [found, *node.inputs[1:]])
            return self.squeezed(found, axis) if drop else found
        if node.op_type in _ALONG | _OVER_AN_AXIS | {"Reshape", "Flatten", "Transpose", "Unsqueeze"} and node.inputs[0]:
            found = self._plain(node.inputs[0])
            return None if found is None else self.again(node, [found, *node.inputs[1:]])
        if node.op_type in _PAIRS:
            sides = [None if v is None or v.is_initializer() else self._plain(v) for v in node.inputs]
            if any(s is not None for s in sides):
                return self.again(node, [s or v for s, v in zip(sides, node.inputs, strict=True)])
        return None

    def part(self, value: ir.Value, axis: int, start: int, stop: int) -> ir.Value | None:
        """`value[start:stop]` along an axis, without the join that made it; None = no join was met."""
        key = (value, axis, start, stop)
        if key not in self.known:
            self.left -= 1
            self.known[key] = self._part(value, axis, start, stop) if self.left > 0 else None
        return self.known[key]

    def _part(self, value: ir.Value, axis: int, start: int, stop: int) -> ir.Value | None:
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx"):
            return None
        shape = self.shape(value)
        rank = None if shape is None else len(shape)
        source = node.inputs[0] if node.inputs else None
        kind = node.op_type
        if kind == "Concat":
            joined = node.attributes["axis"].as_int()
            if joined < 0:
                if rank is None:
                    return None
                joined += rank
            inputs = [v for v in node.inputs if v is not None]
            return self._joined(inputs, axis, start, stop) if joined == axis else self._each(node, axis, start, stop)
        if kind == "ConcatFromSequence" and source is not None:
            return self._sequence(node, source, axis, start, stop)
        if source is None:
            return None
        if kind == "Unsqueeze":
            axes = constant_ints(node, 1, "axes")
            if axes is None or rank is None:
                return None
            axes = [a % rank for a in axes]
            if axis in axes:
                return None  # a single thing, not a joined one
            inner = axis - sum(a < axis for a in axes)
            part = self.part(source, inner, start, stop)
            return None if part is None else self.again(node, [part, *node.inputs[1:]])
        if kind in _ALONG:
            part = self.part(source, axis, start, stop)
            return None if part is None else self.again(node, [part, *node.inputs[1:]])
        if kind in _OVER_AN_AXIS and rank is not None:
            over = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
            part = None if over % rank == axis else self.part(source, axis, start, stop)
            return None if part is None else self.again(node, [part])
        if kind == "Transpose" and "perm" in node.attributes:
            part = self.part(source, node.attributes["perm"].as_ints()[axis], start, stop)
            return None if part is None else self.again(node, [part])
        if kind == "MatMul" and rank is not None and axis < rank - 1:
            return self._product(node, rank, axis, start, stop)
        if kind in ("Slice", "Split"):  # a part of a part
            outer = part_of(node, value, self.shape)
            if outer is None or outer[1] != axis:
                return None
            return self.part(source, axis, outer[2] + start, outer[2] + stop)
        if kind in _PAIRS and rank is not None:
            return self._pair(node, rank, axis, start, stop)
        if kind == "Reshape":
            return self._reshaped(node, value, axis, start, stop)
        return None

    def _joined(self, inputs: Sequence[ir.Value], axis: int, start: int, stop: int) -> ir.Value | None:
        """The inputs of a Concat that lie between two borders."""
        at, parts = 0, []
        for value in inputs:
            if at >= stop:
                break
            size = self.size(value, axis)
            if size is None:
                return None
            low, high = max(start - at, 0), min(stop - at, size)
            if low < high:
                whole = (low, high) == (0, size)
                parts.append(self._plain(value) or value if whole else self._slice(value, axis, low, high))
            at += size
        if at < stop or not parts:
            return None
        if len(parts) == 1:
            return parts[0]
        return self.op("Concat", parts, [ir.AttrInt64("axis", axis)])

    def _slice(self, value: ir.Value, axis: int, low: int, high: int) -> ir.Value:
        inner = self.part(value, axis, low, high)
        if inner is not None:
            return inner
        numbers = [self.constant(np.array([n], np.int64)) for n in (low, high, axis)]
        return self.op("Slice", [value, *numbers])

    def _each(self, node: ir.Node, axis: int, start: int, stop: int) -> ir.Value | None:
        """A Concat along another axis: the part of each of its inputs."""
        parts = [None if v is None else self.part(v, axis, start, stop) for v in node.inputs]
        return None if any(v is None for v in parts) else self.again(node, parts)

    def _sequence(self, node: ir.Node, source: ir.Value, axis: int, start: int, stop: int) -> ir.Value | None:
        maker = source.producer()
        if maker is None or maker.op_type != "SequenceConstruct":
            return None
        inputs = [v for v in maker.inputs if v is not None]
        if not ("new_axis" in node.attributes and node.attributes["new_axis"].as_int()):
            return self._joined(inputs, axis, start, stop) if node.attributes["axis"].as_int() == axis else None
        if node.attributes["axis"].as_int() != axis or stop != start + 1 or not 0 <= start < len(inputs):
            return None
        axes = self.constant(np.array([axis], np.int64))
        return self.op("Unsqueeze", [inputs[start], axes])

    def _product(self, node: ir.Node, rank: int, axis: int, start: int, stop: int) -> ir.Value | None:
        """Rows of a product with a weight matrix."""
        left, right = node.inputs[:2]
        shape = None if right is None else self.shape(right)
        if left is None or shape is None or len(shape) != 2:
            return None
        mine = self.shape(left)
        part = self.part(left, axis, start, stop) if mine is not None and len(mine) == rank else None
        return None if part is None else self.again(node, [part, right])

    def _pair(self, node: ir.Node, rank: int, axis: int, start: int, stop: int) -> ir.Value | None:
        """An operation of several tensors: those that reach along the axis in parts, the others as they are."""
        parts: list[ir.Value | None] = []
        reached = False
        for value in node.inputs:
            shape = None if value is None else self.shape(value)
            if value is None or shape is None:
                return None
            own = axis - (rank - len(shape))
            if own < 0 or shape[own] == 1:
                parts.append(value)
                continue
            part = self.part(value, own, start, stop)
            reached |= part is not None
            if part is None:
                if not value.is_initializer() or value.const_value is None:
                    return None
                index = [slice(None)] * len(shape)
                index[own] = slice(start, stop)
                part = self.constant(np.ascontiguousarray(value.const_value.numpy()[tuple(index)]))
            parts.append(part)
        return self.again(node, parts) if reached else None

    def _reshaped(self, node: ir.Node, value: ir.Value, axis: int, start: int, stop: int) -> ir.Value | None:
        """`(b, k * c) -> (b, k, c)`: one axis divided in two, the first of which is parted."""
        source = node.inputs[0]
        before, after = None if source is None else self.shape(source), self.shape(value)
        if source is None or before is None or after is None or len(after) != len(before) + 1 or stop != start + 1:
            return None
        k, c = after[axis], after[axis + 1] if axis + 1 < len(after) else None
        if k is None or c is None or before[axis] != k * c or before[:axis] != after[:axis]:
            return None
        if before[axis + 1 :] != after[axis + 2 :] or sum(d is None for d in before) > 1:
            return None
        part = self.part(source, axis, start * c, stop * c)
        if part is None:
            return None
        axes = self.constant(np.array([axis], np.int64))
        return self.op("Unsqueeze", [part, axes])

    def squeezed(self, value: ir.Value, axis: int) -> ir.Value:
        """The value without an axis of size 1: what was unsqueezed, where it was."""
        node = value.producer()
        shape = self.shape(value)
        if node is not None and node.op_type == "Unsqueeze" and node.inputs[0] is not None:
            axes = constant_ints(node, 1, "axes")
            if axes is not None and len(axes) == 1 and (axes[0] == axis or (shape and axes[0] % len(shape) == axis)):
                return self._plain(node.inputs[0]) or node.inputs[0]
        numbers = self.constant(np.array([axis], np.int64))
        return self.op("Squeeze", [value, numbers])

    def shape(self, value: ir.Value) -> tuple[int | None, ...] | None:
        if value.const_value is not None:
            return tuple(value.const_value.shape.numpy())
        sizes = self.shapes.get(value.name or "")
        if sizes is None and value.shape is not None:
            sizes = tuple(d if isinstance(d, int) else None for d in value.shape)
        return sizes

    def size(self, value: ir.Value, axis: int) -> int | None:
        node = value.producer()
        if node is not None and node.op_type == "Unsqueeze":
            axes = constant_ints(node, 1, "axes")
            if axes is not None and axis in axes:
                return 1
        shape = self.shape(value)
        return None if shape is None or axis >= len(shape) else shape[axis]


def _shapes(model: ir.Model) -> dict[str, tuple[int | None, ...]]:
    """Sizes of tensors by inference; what is not known is left out."""
    proto = ir.to_proto(model)
    try:
        proto = onnx.shape_inference.infer_shapes(proto)
    except Exception:  # sizes that contradict each other, or 2 GiB: known are those that the file states
        return {}
    shapes = {}
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        kind = value.type.tensor_type
        if value.type.HasField("tensor_type") and kind.HasField("shape"):
            shapes[value.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    return shapes
