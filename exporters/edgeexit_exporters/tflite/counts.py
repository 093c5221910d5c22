"""Counts of operations that compute in integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgeexit_exporters.tflite import tools
from edgeexit_exporters.tflite.file.signatures import Signature, op_name

_GLUE = {"QUANTIZE", "DEQUANTIZE"}


@dataclass(frozen=True)
class Counts:
    """Operations of one signature."""

    name: str
    """The signature's."""
    quantized: int
    """Static: all of its tensors are integers. Otherwise: its weights are."""
    total: int
    """Quantize and dequantize nodes, and plain integer arithmetic (shapes, indices), left out."""
    floats: tuple[tuple[str, str], ...]
    """Operation and output tensor of each that computes in float."""


def count(model: Any, signature: Signature, static: bool) -> Counts:
    """Count the operations of a signature of a parsed file."""
    graph = model.subgraphs[signature.subgraph]
    tensors = graph.tensors
    float_types = {tools.schema().TensorType.FLOAT32, tools.schema().TensorType.FLOAT16}
    expanded = {int(op.outputs[0]) for op in graph.operators if _name(model, op) == "DEQUANTIZE"} & {
        int(op.outputs[0]) for op in graph.operators if len(op.inputs) and _is_constant(model, tensors[op.inputs[0]])
    }
    quantized, integer, floats = 0, 0, []
    for op in graph.operators:
        name = _name(model, op)
        used = [int(i) for i in (*op.inputs, *op.outputs) if i >= 0]
        in_float = any(tensors[i].type in float_types for i in used)
        if name in _GLUE or not (in_float or any(_has_scale(tensors[i]) for i in used)):
            continue
        if in_float:
            floats.append((name, tensors[op.outputs[0]].name.decode(errors="replace")))
        else:
            integer += 1
        inputs = [int(i) for i in op.inputs if i >= 0]
        quantized += any((_is_constant(model, tensors[i]) and _has_scale(tensors[i])) or i in expanded for i in inputs)
    return Counts(signature.name, integer if static else quantized, integer + len(floats), tuple(floats))


def _name(model: Any, op: Any) -> str:
    return op_name(model.operatorCodes[op.opcodeIndex])


def _has_scale(tensor: Any) -> bool:
    q = tensor.quantization
    return q is not None and q.scale is not None and len(q.scale) > 0


def _is_constant(model: Any, tensor: Any) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0
