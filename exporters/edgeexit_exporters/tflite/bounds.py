"""Value ranges known without data: sums and means of probabilities.

Calibration rows are seldom as sure as an input may be; a mean of heads that is cut off at the surest row's probability
would answer with probabilities that do not sum to one, and with one score for all surer inputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeexit_exporters.tflite import tools
from edgeexit_exporters.tflite.file.checked import text
from edgeexit_exporters.tflite.file.signatures import op_name


def probability_bounds(model: Any) -> dict[str, tuple[float, float]]:
    """Tensor name -> range, for what is made of softmaxes by sums and positive factors alone.

    Args:
        model: a float file, parsed.
    """
    bounds: dict[str, tuple[float, float]] = {}
    for graph in model.subgraphs:
        names, known = [text(t.name) for t in graph.tensors], dict[int, float]()
        for op in graph.operators:
            most = _most(model, graph, op, known)
            if most is not None:
                known[int(op.outputs[0])] = most
                bounds[names[op.outputs[0]]] = (0.0, most)
    return bounds


def _most(model: Any, graph: Any, op: Any, known: dict[int, float]) -> float | None:
    """The largest value of what an operation gives; None = unknown."""
    kind = op_name(model.operatorCodes[op.opcodeIndex])
    inputs = [int(i) for i in op.inputs]
    if kind == "SOFTMAX":
        return 1.0
    if kind == "RESHAPE":
        return known.get(inputs[0])
    if kind == "ADD" and all(i in known for i in inputs):
        return sum(known[i] for i in inputs)
    if kind == "MUL":
        for value, factor in (inputs, inputs[::-1]):
            constant = _constant(model, graph.tensors[factor])
            if value in known and constant is not None and constant > 0:
                return known[value] * constant
    return None


def _constant(model: Any, tensor: Any) -> float | None:
    """The one number that a tensor holds; None = none, or several."""
    data = model.buffers[tensor.buffer].data
    if data is None or len(data) != 4 or tensor.type != tools.schema().TensorType.FLOAT32:
        return None
    return float(np.frombuffer(bytes(data), np.float32)[0])
