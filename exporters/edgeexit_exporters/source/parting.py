"""Parts that ONNX nodes take out of a tensor along one axis: Gather, Slice, Split, Squeeze, SequenceAt."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

PARTING = {"Gather", "Slice", "Split", "Squeeze", "SequenceAt"}


def constant_ints(node: ir.Node, place: int, attribute: str) -> list[int] | None:
    """Constant whole numbers of an input, or of an attribute as older opsets have it."""
    if attribute in node.attributes:
        a = node.attributes[attribute]
        return [a.as_int()] if a.type == ir.AttributeType.INT else list(a.as_ints())
    value = node.inputs[place] if place < len(node.inputs) else None
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return [int(n) for n in value.const_value.numpy().reshape(-1)]


Part = tuple[ir.Value, int | None, int, int, bool]


def part_of(node: ir.Node, value: ir.Value, shape: Any) -> Part | None:
    """Tensor, axis, borders and whether the axis is dropped of what a node takes out; None = it cannot be told.

    For a Squeeze the axis is None: it may stand above something else that takes a part.
    """
    source = node.inputs[0]
    if source is None:
        return None
    if node.op_type == "Squeeze":
        return source, None, 0, 0, False
    if node.op_type == "SequenceAt":
        return _sequence_at(node, source)
    sizes = shape(source)
    rank = None if sizes is None else len(sizes)
    if node.op_type == "Gather":
        at = node.inputs[1]
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        numbers = None if at is None or at.const_value is None else at.const_value.numpy()
        if numbers is None or numbers.size != 1 or numbers.ndim > 1 or rank is None:
            return None
        axis %= rank
        index = int(numbers.reshape(-1)[0])
        if index < 0:
            if sizes[axis] is None:
                return None
            index += sizes[axis]
        return source, axis, index, index + 1, numbers.ndim == 0
    if rank is None:
        return None
    if node.op_type == "Slice":
        starts, stops, axes, steps = (
            constant_ints(node, i, n) for i, n in ((1, "starts"), (2, "ends"), (3, "axes"), (4, ""))
        )
        axes = [0] if axes is None and len(node.inputs) < 4 else axes
        if starts is None or stops is None or axes is None or len(axes) != 1 or (steps or [1]) != [1]:
            return None
        axis, (start,), (stop,) = axes[0] % rank, starts, stops
        size = sizes[axis]
        if size is None:
            return None
        start, stop = (min(max(n + size if n < 0 else n, 0), size) for n in (start, stop))
        return (source, axis, start, stop, False) if start < stop else None
    axis = (node.attributes["axis"].as_int() if "axis" in node.attributes else 0) % rank
    k = node.outputs.index(value)
    lengths = constant_ints(node, 1, "split")
    if lengths is None:
        size, count = sizes[axis], len(node.outputs)
        if size is None or len(node.inputs) > 1:
            return None
        each = -(-size // count)
        lengths = [min(each, size - i * each) for i in range(count)]
    return source, axis, sum(lengths[:k]), sum(lengths[: k + 1]), False


def _sequence_at(node: ir.Node, source: ir.Value) -> Part | None:
    """An element of a sequence that a tensor was split into, one by one."""
    maker, index = source.producer(), constant_ints(node, 1, "")
    if maker is None or index is None or maker.op_type != "SplitToSequence" or maker.inputs[0] is None:
        return None
    if len(maker.inputs) > 1 and constant_ints(maker, 1, "") != [1]:
        return None
    axis = maker.attributes["axis"].as_int() if "axis" in maker.attributes else 0
    keep = "keepdims" not in maker.attributes or bool(maker.attributes["keepdims"].as_int()) or len(maker.inputs) > 1
    if axis < 0 or index[0] < 0:
        return None
    return maker.inputs[0], axis, index[0], index[0] + 1, not keep
