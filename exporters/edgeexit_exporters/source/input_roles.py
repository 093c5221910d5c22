"""Roles of a network's inputs, read off its graph and its data, so that example inputs look like real ones.

Token ids stay within the embedding that they index, an attention mask is 1 up to a length and 0 behind it, numbers lie
where the data's do. What neither graph, name nor data shows stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeexit_exporters.source.inputs import InputSpec, length_inputs

_SAME_NUMBERS = {
    "Cast", "CastLike", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Expand", "Slice",
}  # fmt: skip
"""Operations that change no number, only its type or place."""
_COMPARED = {"Equal", "Not", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"}
_VERY_NEGATIVE = -100.0
"""What an additive mask puts on padding, or less."""
_MASK = re.compile(r"masks?(?![a-z])", re.IGNORECASE)


def with_roles(graph: ir.Graph, inputs: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """The inputs with the ranges of ids and the kinds of masks that the graph shows.

    Args:
        graph: of the network.
        inputs: of it; states and lengths stay as they are.
    """
    values = {v.name: v for v in graph.inputs}
    counting = length_inputs(inputs)
    specs_with_roles = []
    for spec in inputs:
        value = values.get(spec.tensor.name)
        if value is None or spec.state or spec.tensor.name in counting or len(spec.tensor.shape) < 2:
            specs_with_roles.append(spec)
            continue
        rows = [n for n in (_table_rows(*use) for use in _uses(value)) if n]
        whole = spec.tensor.dtype.startswith(("int", "uint"))
        if rows and whole:
            most = int(np.iinfo(spec.tensor.dtype).max) + 1
            specs_with_roles.append(replace(spec, below=max(1, min(*rows, most))))
        else:
            specs_with_roles.append(replace(spec, mask=bool(_MASK.search(spec.tensor.name)) or _masks(value)))
    return tuple(specs_with_roles)


def like_data(inputs: Sequence[InputSpec], data: Mapping[str, NDArray[Any]]) -> tuple[InputSpec, ...]:
    """The inputs with examples that lie as the data's rows do: others would use a few steps of 255, or clip.

    Args:
        inputs: of a network.
        data: `(n, ...)` arrays by name, or "x" for a single input; names that are missing stay as they are.
    """
    specs = []
    for spec in inputs:
        array = data.get(spec.tensor.name, data.get("x") if len(inputs) == 1 else None)
        if array is None or not array.size or spec.state or spec.mask:
            specs.append(spec)
        elif array.dtype.kind == "f" and np.isfinite(array).all():
            center, spread = float(array.mean(dtype=np.float64)), float(array.std(dtype=np.float64))
            specs.append(replace(spec, center=center, spread=spread))
        elif array.dtype.kind in "iu" and spec.tensor.dtype.startswith(("int", "uint")):
            specs.append(replace(spec, low=int(array.min()), below=int(array.max()) + 1))
        else:
            specs.append(spec)
    return tuple(specs)


def _masks(value: ir.Value) -> bool:
    """Whether the graph uses a value as a mask: `(1 - m) * -10000`, or to choose between two tensors by."""
    for node, index in _uses(value):
        if node.op_type == "Sub" and any(_times_very_negative(v) for v in node.outputs):
            return True
        if node.op_type == "Where" and index == 0:
            return True
        if node.op_type in _COMPARED and any(
            other.op_type == "Where" and k == 0 for v in node.outputs for other, k in _uses(v)
        ):
            return True
    return False


def _times_very_negative(value: ir.Value) -> bool:
    for node, index in _uses(value):
        if node.op_type == "Mul":
            other = node.inputs[1 - index]
            constant = None if other is None or other.const_value is None else other.const_value.numpy()
            if constant is not None and constant.size == 1 and float(constant.reshape(())) <= _VERY_NEGATIVE:
                return True
    return False


def _uses(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """Who reads a value's numbers, also through nodes that only move them or change their type."""
    todo, known = [value], {value}
    while todo:
        for node, index in todo.pop().uses():
            if node.op_type in _SAME_NUMBERS and index == 0:
                todo += [v for v in node.outputs if v not in known]
                known.update(node.outputs)
            else:
                yield node, index


def _table_rows(node: ir.Node, index: int) -> int | None:
    """Rows of the constant table that a node looks an input's numbers up in; None = it does not."""
    if node.op_type == "OneHot" and index == 0:
        depth = node.inputs[1]
        held = None if depth is None or depth.const_value is None else depth.const_value.numpy()
        return None if held is None else int(held.reshape(-1)[0])
    if node.op_type != "Gather" or index != 1:
        return None
    table = node.inputs[0]
    while table is not None and table.const_value is None and (maker := table.producer()) is not None:
        if maker.op_type not in ("Cast", "DequantizeLinear", "Identity"):
            return None
        table = maker.inputs[0]
    if table is None or table.const_value is None:
        return None
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    rows: int = table.const_value.shape.numpy()[axis]
    return rows
