"""Kind of an exit's outputs: logits or probabilities.

Rows that sum to 1 on every example input are probabilities, whatever made them: a Softmax, its parts written out (Exp
and a division by the sum), the Exp of a LogSoftmax, a Sigmoid and what is left to 1. Log-probabilities are logits: a
softmax gives their probabilities back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeexit.errors import ModelError

OUTPUTS = ("auto", "logits", "probs")
_SLACK = 1e-5
"""How far rounding may take a probability out of [0, 1]."""
_SUM_SLACK = {2: 2e-2}
"""Of a row's sum, by bytes of a number; 1e-3 from float32 on."""
_SAME_NUMBERS = ("Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Clip", "Dropout")
_INT8 = ("QuantizeLinear", "DequantizeLinear")


def in_unit_range(array: NDArray[Any]) -> bool:
    """Whether all numbers lie in [0, 1], but for rounding."""
    return bool(array.size) and bool(((array >= -_SLACK) & (array <= 1 + _SLACK)).all())


def sums_to_one(array: NDArray[Any]) -> bool:
    """Whether all rows (over the last axis) are probabilities, but for rounding."""
    if array.ndim < 2 or array.shape[-1] < 2 or not in_unit_range(array):
        return False
    sums = array.sum(-1, dtype=np.float64)
    return bool((np.abs(sums - 1) <= _SUM_SLACK.get(array.dtype.itemsize, 1e-3)).all())


def kind_of(
    name: str, arrays: Sequence[NDArray[Any]], outputs: str = "auto", value: ir.Value | None = None
) -> tuple[str, str | None]:
    """The kind of a tensor, and what its user should be told.

    Args:
        name: of the exit.
        arrays: `(..., classes)` what the tensor held on example inputs; empty = nothing is known.
        outputs: what the user says, of `OUTPUTS`.
        value: the tensor in the graph; None = there is no ONNX graph.

    Returns:
        "logits" or "probs"; and a note where the numbers are ambiguous or say otherwise than the user, else None.

    Raises:
        ModelError: an unknown word, or numbers outside [0, 1] that are said to be probabilities.
    """
    if outputs not in OUTPUTS:
        raise ModelError(f"unknown kind of outputs {outputs!r}; known: {', '.join(OUTPUTS)}")
    finite = [a for a in arrays if a.size and np.isfinite(a).all()]
    shown = _shown(finite)
    unit = bool(finite) and all(in_unit_range(a) for a in finite)
    rows = bool(finite) and all(sums_to_one(a) for a in finite)
    if outputs == "probs":
        if finite and not unit:
            raise ModelError(f"--outputs probs: exit {name!r} gives no probabilities, but {shown}; leave it out")
        return "probs", None
    if outputs == "logits":
        note = f"exit {name!r} gives rows that sum to 1 on all example inputs, and is taken for logits as you say"
        return "logits", note if rows else None
    written, quantized = (False, False) if value is None else ends_in_softmax(value)
    if rows or (written and (not finite or (quantized and unit))):
        return "probs", None
    if any(a.any() for a in finite) and (unit or _constant_sums(finite)):  # nothing but zeros say nothing
        return "logits", (
            f"exit {name!r} gives {shown}: taken for logits. If these are probabilities, say --outputs probs; better, "
            "name the tensor before the last activation"
        )
    return "logits", None


def _constant_sums(arrays: Sequence[NDArray[Any]]) -> bool:
    """Whether rows of nothing negative sum to the same everywhere, such as percents."""
    if not arrays or any(a.shape[-1] < 2 or a.min() < 0 for a in arrays):
        return False
    sums = np.concatenate([a.sum(-1, dtype=np.float64).reshape(-1) for a in arrays])
    return len(sums) > 1 and float(np.ptp(sums)) <= 1e-3 * float(sums.mean()) and float(sums.mean()) > 0


def check_kind(name: str, arrays: Sequence[NDArray[Any]]) -> None:
    """Whether what was read off a few example inputs as probabilities is so on others.

    Raises:
        ModelError: it is not.
    """
    if wrong := [a for a in arrays if a.size and np.isfinite(a).all() and not sums_to_one(a)]:
        raise ModelError(
            f"exit {name!r} gives rows that sum to 1 on some inputs, and {_shown(wrong)} on others: say which they "
            "are, --outputs logits or --outputs probs"
        )


def ends_in_softmax(value: ir.Value) -> tuple[bool, bool]:
    """Whether the graph ends a tensor in a softmax over its last axis, whole or in parts; and whether in int8."""
    node = value.producer()
    quantized = False
    while node is not None and node.op_type in (*_SAME_NUMBERS, *_INT8):
        quantized |= node.op_type in _INT8
        node = _maker(node, 0)
    if node is None:
        return False, quantized
    return _is_softmax(node), quantized


def _is_softmax(node: ir.Node) -> bool:
    if node.op_type == "Softmax":
        return _over_last_axis(node)
    if node.op_type == "Exp":
        above = _maker(node, 0)
        if above is None or above.op_type != "LogSoftmax":
            return above is not None and _log_sum_taken(above)
        return _over_last_axis(above)
    if node.op_type == "Div":
        return _is_sum_of(node.inputs[1], node.inputs[0])
    if node.op_type == "Mul":
        for k in (0, 1):
            other = _maker(node, k)
            if other is not None and other.op_type == "Reciprocal":
                return _is_sum_of(other.inputs[0], node.inputs[1 - k])
    return False


def _log_sum_taken(node: ir.Node) -> bool:
    """``x - ln(sum(exp(x)))``"""
    if node.op_type != "Sub":
        return False
    taken = _maker(node, 1)
    if taken is not None and taken.op_type == "ReduceLogSumExp":
        return taken.inputs[0] is node.inputs[0]
    total = None if taken is None or taken.op_type != "Log" else taken.inputs[0]
    powers = None if total is None or (maker := total.producer()) is None else maker.inputs[0]
    exp = None if powers is None else powers.producer()
    return exp is not None and exp.op_type == "Exp" and exp.inputs[0] is node.inputs[0] and _is_sum_of(total, powers)


def _is_sum_of(total: ir.Value | None, of: ir.Value | None) -> bool:
    node = None if total is None else total.producer()
    while node is not None and node.op_type in (*_SAME_NUMBERS, "Expand"):
        node = _maker(node, 0)
    return node is not None and node.op_type == "ReduceSum" and of is not None and node.inputs[0] is of


def _maker(node: ir.Node, k: int) -> ir.Node | None:
    value = node.inputs[k] if k < len(node.inputs) else None
    return None if value is None else value.producer()


def _over_last_axis(node: ir.Node) -> bool:
    shape = node.outputs[0].shape
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
    return axis == -1 or (shape is not None and axis == len(shape) - 1)


def _shown(arrays: Sequence[NDArray[Any]]) -> str:
    if not arrays:
        return "nothing"
    low, high = min(float(a.min()) for a in arrays), max(float(a.max()) for a in arrays)
    sums = np.concatenate([np.atleast_1d(a.sum(-1, dtype=np.float64)).reshape(-1) for a in arrays])
    return f"numbers from {low:.3g} to {high:.3g} whose rows sum to {sums.min():.3g} to {sums.max():.3g}"
