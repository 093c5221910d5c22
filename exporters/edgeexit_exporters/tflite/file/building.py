"""Tensors, constants and operators added to a subgraph of a .tflite object tree."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit_exporters.tflite.file.checked import shape
from edgeexit_exporters.tflite.file.flatbuffer import Model, schema

FLOAT, INT32, BOOL = schema.TensorType.FLOAT32, schema.TensorType.INT32, schema.TensorType.BOOL
_TYPES = {np.dtype(np.float32): FLOAT, np.dtype(np.int32): INT32}
_MAY_LACK_OPTIONS = {"LOG": "NONE", "REDUCE_MAX": "ReducerOptions", "SUM": "ReducerOptions", "MEAN": "ReducerOptions",
                     "MAXIMUM": "MaximumMinimumOptions", "SELECT_V2": "SelectV2Options"}  # fmt: skip
"""Options by operator, where they are not called like it."""


class Scope:
    """A subgraph while it is being built.

    Operator codes and buffers go to the end of the model's; `signatures.compact` numbers them at the end.
    """

    def __init__(self, model: Model, graph: Any, shared: dict[bytes, int]) -> None:
        self.model = model
        self.graph = graph
        self._shared = shared
        """Buffers of constants by content, one table for all subgraphs of a file."""
        self._constants: dict[tuple[bytes, tuple[int, ...], str], int] = {}

    def axes(self, tensor: int) -> tuple[int, ...]:
        return shape(self.graph.tensors[tensor])

    def tensor(self, name: str, axes: Sequence[int], kind: int = FLOAT) -> int:
        """A new activation; its number."""
        tensor = schema.TensorT(shape=list(axes), type=kind, buffer=0, name=name, hasRank=True)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def like(self, tensor: Any) -> int:
        """A new activation described as one of another subgraph, scale and all."""
        copied = copy.deepcopy(tensor)
        copied.buffer, copied.isVariable = 0, False
        self.graph.tensors.append(copied)
        return len(self.graph.tensors) - 1

    def constant(self, name: str, values: Any, dtype: Any = np.float32, own: bool = False) -> int:
        """A constant; equal ones share a tensor in the subgraph and a buffer in the file, unless it is `own`."""
        array: NDArray[Any] = np.asarray(values, dtype)
        key = (array.tobytes(), array.shape, array.dtype.str)
        if not own and key in self._constants:
            return self._constants[key]
        number = self.tensor(name, array.shape, _TYPES[array.dtype])
        self.graph.tensors[number].buffer = self._buffer(key[0], own)
        if not own:
            self._constants[key] = number
        return number

    def _buffer(self, data: bytes, own: bool) -> int:
        if own or data not in self._shared:
            self.model.buffers.append(schema.BufferT(data=np.frombuffer(data, np.uint8)))
            if own:
                return len(self.model.buffers) - 1
            self._shared[data] = len(self.model.buffers) - 1
        return self._shared[data]

    def op(self, kind: str, inputs: Sequence[int], outputs: Sequence[int], version: int = 1, **options: Any) -> None:
        """Append an operator: `kind` as in the schema's `BuiltinOperator`, `options` as the fields of its table."""
        table = _MAY_LACK_OPTIONS.get(kind, kind.title().replace("_", "") + "Options")
        operator = schema.OperatorT(
            opcodeIndex=self._code(kind, version),
            inputs=list(inputs),
            outputs=list(outputs),
            builtinOptionsType=getattr(schema.BuiltinOptions, table),
            builtinOptions=None if table == "NONE" else getattr(schema, table + "T")(**options),
        )
        self.graph.operators.append(operator)

    def add(self, kind: str, inputs: Sequence[int], axes: Sequence[int], dtype: int = FLOAT, **more: Any) -> int:
        """Append an operator with one output of this shape; the output's number."""
        number = self.tensor(kind.lower(), axes, dtype)
        self.op(kind, inputs, [number], **more)
        return number

    def copied(self, tensor: int) -> int:
        """The same values in a tensor that an operator of this subgraph makes, as outputs of a branch have to be."""
        axes = self.axes(tensor)
        target = self.constant("shape", axes, np.int32)
        return self.add("RESHAPE", [tensor, target], axes, self.graph.tensors[tensor].type, newShape=list(axes))

    def _code(self, kind: str, version: int) -> int:
        number = getattr(schema.BuiltinOperator, kind)
        codes = self.model.operatorCodes
        for i, code in enumerate(codes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == number and code.version == version:
                return i
        codes.append(schema.OperatorCodeT(deprecatedBuiltinCode=min(number, 127), version=version, builtinCode=number))
        return len(codes) - 1
