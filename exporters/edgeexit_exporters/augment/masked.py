"""Pooling of padded sequences over the positions that a mask marks as real; more padding changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeexit.errors import DataError
from edgeexit_exporters.augment.looks import LENGTH
from edgeexit_exporters.onnx import measure
from edgeexit_exporters.onnx.nodes import Nodes
from edgeexit_exporters.onnx.pieces import prefix
from edgeexit_exporters.onnx.serialize import to_bytes


class Masked:
    """Adds nodes that pool one sequence over its real positions; where an input has none, they give 0.

    What stands at the other positions is replaced, not multiplied by 0: it may be NaN or infinite.
    """

    def __init__(self, add: Nodes, x: ir.Value, kind: str, mask: ir.Value) -> None:
        """
        Args:
            add: of the graph that holds the tensors.
            x: float32, with its length on axis `LENGTH[kind]`.
            kind: "tokens" `(b, t, c)`, "signal" `(b, c, t)` or "steps" `(t, b, c)`.
            mask: `(b, t)`, numbers or booleans, nonzero where a position is real.
        """
        self.add, self.x, self.axis = add, x, LENGTH[kind]
        real = add.op("Cast", mask, to=int(ir.DataType.BOOL))
        if kind == "steps":
            real = add.op("Transpose", real, perm=[1, 0])
        self.real = self._with_axis(real, 1 if kind == "signal" else 2)
        self.ones = add.op("Cast", self.real, to=int(ir.DataType.FLOAT))
        self.zero = self._number("zero", 0)
        self.kept = add.op("Where", self.real, x, self.zero)

    def mean(self) -> ir.Value:
        """`(b, c)`: the sum over real positions, divided by how many there are."""
        count = self.add.op("Max", self.add.reduce("ReduceSum", self.ones, [self.axis]), self._number("one", 1))
        return self.add.op("Div", self.add.reduce("ReduceSum", self.kept, [self.axis]), count)

    def max(self) -> ir.Value:
        """`(b, c)`: the largest over real positions."""
        least = self._with_axis(self.add.reduce("ReduceMin", self.kept, [self.axis]), self.axis)
        return self.add.reduce("ReduceMax", self.add.op("Where", self.real, self.x, least), [self.axis])

    def last(self) -> ir.Value:
        """`(b, c)`: the last real position, wherever the padding stands."""
        axis = self.add.weight(f"{self.add.prefix}_length_{self.axis}", np.array(self.axis, np.int64))
        behind = self.add.op("CumSum", self.ones, axis, exclusive=1, reverse=1)
        last = self.add.op("And", self.real, self.add.op("Equal", behind, self.zero))
        return self.add.reduce("ReduceSum", self.add.op("Where", last, self.x, self.zero), [self.axis])

    def _with_axis(self, value: ir.Value, axis: int) -> ir.Value:
        return self.add.op("Unsqueeze", value, self.add.axes([axis]))

    def _number(self, name: str, number: int) -> ir.Value:
        # From int64: a float initializer would count as a parameter of the network.
        weight = self.add.weight(f"{self.add.prefix}_{name}", np.array(number, np.int64))
        return self.add.op("Cast", weight, to=int(ir.DataType.FLOAT))


def check_mask(model: ir.Model, mask: str, inputs: Mapping[str, NDArray[Any]], batch: int = 256) -> None:
    """Look at a mask on all rows.

    Args:
        model: see `onnx_graph.read`; left as it is.
        mask: one of its inputs or tensors.
        inputs: one array per input of the network, `(n, ...)`, such as a network with a free batch axis takes, or one
            that takes one input per call.
        batch: inputs per run, where the mask is computed.

    Raises:
        DataError: a value that is neither 0 nor 1: an additive mask, for example.
        ModelError: the network does not run on the inputs.
    """
    if mask in inputs:
        _check_values(mask, inputs[mask], 0)
        return
    session = measure.session(to_bytes(prefix(model, [mask]), f"what computes mask {mask!r}"))
    rows = len(next(iter(inputs.values())))
    size = 1 if any(isinstance(i.shape[0], int) for i in session.get_inputs()) else batch
    for start in range(0, rows, size):
        outputs = measure.run(session, {n: a[start : start + size] for n, a in inputs.items()}, [mask])
        _check_values(mask, outputs[mask], start)


def _check_values(mask: str, values: NDArray[Any], start: int) -> None:
    wrong = ~np.isin(values, (0, 1))
    if wrong.any():
        row = start + int(np.argwhere(wrong)[0][0])
        raise DataError(
            f"mask {mask!r} holds {values[wrong][0]} in row {row}; expected 1 where a position is real and 0 where it "
            "is padding. An additive mask (0 and -inf) is not supported: name the input or tensor that it is made of"
        )
