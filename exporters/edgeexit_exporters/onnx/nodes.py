"""Nodes added to an ONNX graph: unused names, weights stored once, one form for every opset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeexit.errors import ModelError
from edgeexit_exporters.onnx.graph import constant
from edgeexit_exporters.onnx.names import all_names


class Nodes:
    """Adds nodes and weights at the end of a graph, with names of their own.

    Args:
        graph: changed in place.
        prefix: how all names begin that are not given; what an earlier `Nodes` added is stepped over.
    """

    def __init__(self, graph: ir.Graph, prefix: str) -> None:
        self.graph = graph
        self.prefix = prefix
        self.count = 0
        self._taken = all_names(graph)

    @property
    def opset(self) -> int:
        return self.graph.opset_imports.get("", 18)

    def op(self, kind: str, *inputs: ir.Value, name: str | None = None, **attributes: Any) -> ir.Value:
        """Add a node of one output.

        Args:
            kind: the operation.
            inputs: values of this graph.
            name: of the output; None = made up.
            attributes: of the operation.
        """
        while {node_name := f"{self.prefix}_{self.count}_{kind}", f"{node_name}_0"} & self._taken:
            self.count += 1
        self.count += 1
        node = ir.node(kind, list(inputs), attributes=attributes or None, name=node_name)
        node.outputs[0].name = name or f"{node_name}_0"
        self.graph.append(node)
        return node.outputs[0]

    def weight(self, name: str, array: NDArray[Any]) -> ir.Value:
        """An initializer; the one that is there where it holds the same.

        Raises:
            ModelError: another weight has that name.
        """
        value = self.graph.initializers.get(name)
        if value is None:
            value = constant(name, array)
            self.graph.register_initializer(value)
            return value
        held = None if value.const_value is None else value.const_value.numpy()
        if held is None or held.dtype != array.dtype or not np.array_equal(held, array):
            raise ModelError(f"the graph already has a weight {name!r} that holds something else; rename it")
        return value

    def floats(self, value: ir.Value) -> ir.Value:
        """The value in float32; as it is where it is known to be."""
        return value if value.dtype == ir.DataType.FLOAT else self.op("Cast", value, to=int(ir.DataType.FLOAT))

    def axes(self, axes: Sequence[int]) -> ir.Value:
        """Axes as the input that operations take them from."""
        return self.weight(f"{self.prefix}_axis_{'_'.join(str(a) for a in axes)}", np.array(axes, np.int64))

    def reduce(self, kind: str, value: ir.Value, axes: Sequence[int], name: str | None = None) -> ir.Value:
        """ReduceMean, ReduceMax, ReduceMin or ReduceSum over `axes`, which are dropped.

        Axes became an input in opset 18, of ReduceSum in 13.
        """
        if self.opset >= 18 or kind == "ReduceSum":
            return self.op(kind, value, self.axes(axes), name=name, keepdims=0)
        return self.op(kind, value, name=name, axes=list(axes), keepdims=0)

    def per_input(self, value: ir.Value, name: str, lengths: ir.Value | None = None) -> ir.Value:
        """The mean over all axes but the first, in float32; with `lengths` `(inputs,)` over the first so many of the
        flattened positions, and 0 where there are none."""
        flat = self.op("Flatten", self.op("Cast", value, to=int(ir.DataType.FLOAT)), axis=1)
        if lengths is None:
            return self.reduce("ReduceMean", flat, [1], name)
        number = self.weight(f"{self.prefix}_one", np.array(1, np.int64))
        start = self.weight(f"{self.prefix}_start", np.array(0, np.int64))
        positions = self.op("Gather", self.op("Shape", flat), number, axis=0)
        valid = self.op(
            "Less", self.op("Range", start, positions, number), self.op("Unsqueeze", lengths, self.axes([1]))
        )
        zero = self.weight(f"{self.prefix}_zero", np.array(0, np.float32))
        total = self.reduce("ReduceSum", self.op("Where", valid, flat, zero), [1])
        count = self.reduce("ReduceSum", self.op("Cast", valid, to=int(ir.DataType.FLOAT)), [1])
        least = self.weight(f"{self.prefix}_least", np.array(1, np.float32))
        return self.op("Div", total, self.op("Max", count, least), name=name)
