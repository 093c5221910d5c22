"""Scores of `edgeexit.policy.scores` as ONNX nodes of a fused graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeexit.bundle.manifest import ExitSpec
from edgeexit.policy.scores import score_named
from edgeexit_exporters.onnx.graph import constant
from edgeexit_exporters.onnx.names import free_name

TEMPERATURE = "edgeexit_temperature_"
"""Begins the name of an exit's temperature, a constant."""


@dataclass
class Body:
    """Nodes and weights of one scope while it is being built."""

    name: str
    """Part of the names of what is added here: names are unique over all scopes."""
    taken: Collection[str] = ()
    """Names that the network has."""
    nodes: list[ir.Node] = field(default_factory=list)
    weights: list[ir.Value] = field(default_factory=list)

    def op(self, kind: str, *inputs: ir.Value, outputs: int = 1, **attributes: int) -> ir.Value:
        """Add a node; its first output."""
        node = ir.node(kind, list(inputs), attributes=attributes or None, num_outputs=outputs)
        node.name = f"edgeexit_{self.name}_{len(self.nodes)}_{kind}"
        for i, value in enumerate(node.outputs):
            value.name = free_name(f"{node.name}_{i}", self.taken)
        self.nodes.append(node)
        return node.outputs[0]

    def weight(self, name: str, array: NDArray[Any]) -> ir.Value:
        value = constant(free_name(name, self.taken), array)
        self.weights.append(value)
        return value


def add_score(
    body: Body, answer: ir.Value, spec: ExitSpec, score: str, k: int, extras: Mapping[str, ir.Value]
) -> ir.Value:
    """Add the score of exit k as nodes: a float32 scalar, the mean over (valid) positions where there are several.

    Reductions run over all axes, written without an axes argument: that form is the same in every opset.
    """
    temperature = body.weight(f"{TEMPERATURE}{k}", np.array(1, np.float32))
    needs = score_named(score).needs
    if needs != "answer":
        return BUILDERS[score](_Head(body, extras[getattr(spec, needs)], k))
    return BUILDERS[score](_Logits(body, answer, spec, k, temperature, extras))


class _Head:
    """An exit's output beside its answer, as the scores of `HEAD_SCORES` take it."""

    def __init__(self, body: Body, value: ir.Value, k: int) -> None:
        self.body, self.value, self.k = body, value, k


class _Logits:
    """An answer's logits over the temperature, as the scores of `ANSWER_SCORES` take them."""

    def __init__(
        self, body: Body, answer: ir.Value, spec: ExitSpec, k: int, temperature: ir.Value,
        extras: Mapping[str, ir.Value],
    ) -> None:  # fmt: skip
        self.body, self.k = body, k
        self.classes, self.positions = int(spec.answer.shape[-1]), len(spec.answer.shape) > 2
        z = answer if spec.answer.dtype == "float32" else body.op("Cast", answer, to=int(ir.DataType.FLOAT))
        if spec.kind == "probs":
            z = body.op("Log", body.op("Max", z, body.weight(f"edgeexit_tiny_{k}", np.array(1e-30, np.float32))))
        self.z = body.op("Div", z, temperature)
        self.valid = None if spec.lengths is None else _Valid(body, answer, extras[spec.lengths], k)

    def mean(self, values: ir.Value, width: int) -> ir.Value:
        """Of `(1, ..., width)`, over the valid positions."""
        return self.body.op("ReduceMean", values, keepdims=0) if self.valid is None else self.valid.mean(values, width)

    def top(self, count: int) -> ir.Value:
        """The largest probabilities `(1, ..., count)`."""
        p = self.body.op("Softmax", self.z, axis=-1)
        number = self.body.weight(f"edgeexit_top_{self.k}", np.array([count], np.int64))
        return self.body.op("TopK", p, number, axis=-1, outputs=2)


def _maxprob(s: _Logits) -> ir.Value:
    if s.positions:
        return s.mean(s.top(1), 1)
    return s.body.op("ReduceMax", s.body.op("Softmax", s.z, axis=-1), keepdims=0)


def _entropy(s: _Logits) -> ir.Value:
    body, k = s.body, s.k
    ln_p = body.op("LogSoftmax", s.z, axis=-1)
    doubt = s.mean(body.op("Mul", body.op("Exp", ln_p), ln_p), s.classes)
    scale = body.weight(f"edgeexit_entropy_{k}", np.array(s.classes / math.log(s.classes), np.float32))
    one = body.weight(f"edgeexit_one_{k}", np.array(1, np.float32))
    if s.valid is not None:
        one = body.op("Min", s.valid.count, one)
    return body.op("Add", body.op("Mul", doubt, scale), one)


def _margin(s: _Logits) -> ir.Value:
    top = s.top(2)
    signs = s.body.weight(f"edgeexit_signs_{s.k}", np.array([2, -2], np.float32))  # twice, as the mean is over both
    return s.mean(s.body.op("Mul", top, signs), 2)


def _learned(s: _Head) -> ir.Value:
    return s.body.op("ReduceMean", s.value, keepdims=0)


def _ensemble(s: _Head) -> ir.Value:
    one = s.body.weight(f"edgeexit_one_{s.k}", np.array(1, np.float32))
    return s.body.op("Sub", one, s.body.op("ReduceMean", s.value, keepdims=0))


BUILDERS: dict[str, Callable[[Any], ir.Value]] = {
    "maxprob": _maxprob,
    "entropy": _entropy,
    "margin": _margin,
    "learned": _learned,
    "ensemble": _ensemble,
}
"""Name of an `edgeexit.policy.scores.Score` that a graph can hold -> what adds its nodes, from `_Logits` where it needs
the answer, else from `_Head`."""


class _Valid:
    """Means over the valid positions of an answer `(1, positions, classes)`; 0 where there are none, as in numpy."""

    def __init__(self, body: Body, answer: ir.Value, lengths: ir.Value, k: int) -> None:
        self.body, self.k = body, k
        start, one = (body.weight(f"edgeexit_{n}_{k}", np.array(i, np.int64)) for n, i in (("start", 0), ("step", 1)))
        positions = body.op("Gather", body.op("Shape", answer), one, axis=0)
        column = body.weight(f"edgeexit_column_{k}", np.array([-1, 1], np.int64))
        places = body.op("Reshape", body.op("Range", start, positions, one), column)
        self.valid = body.op("Less", places, lengths)
        self.count = body.op("ReduceSum", body.op("Cast", self.valid, to=int(ir.DataType.FLOAT)), keepdims=0)

    def mean(self, values: ir.Value, width: int) -> ir.Value:
        """Of `(1, positions, width)`."""
        body, k = self.body, self.k
        zero, least, wide = (
            body.weight(f"edgeexit_{name}_{k}", np.array(number, np.float32))
            for name, number in (("zero", 0), ("least", 1), ("width", width))
        )
        total = body.op("ReduceSum", body.op("Where", self.valid, values, zero), keepdims=0)
        return body.op("Div", total, body.op("Mul", body.op("Max", self.count, least), wide))
