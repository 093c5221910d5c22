"""The fused layout: one ONNX graph whose nested `If` nodes decide, so that any onnxruntime is the whole runtime.

The contract (inputs, outputs, stopping rule) is written in `docs/bundle-format.md`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgeexit.bundle.manifest import ExitSpec
from edgeexit.errors import ModelError
from edgeexit.policy.scores import score_named
from edgeexit_exporters.onnx.graph import constant
from edgeexit_exporters.onnx.names import FUSED, all_names, free_name
from edgeexit_exporters.onnx.serialize import finish, strip_shapes
from edgeexit_exporters.stages import Stage

THRESHOLDS = "exit_thresholds"
OUTPUT, INDEX, SCORE, UNCERTAINTY = "output", "exit_index", "exit_score", "exit_uncertainty"
LENGTHS = "exit_lengths"
TEMPERATURE = "edgeexit_temperature_"
_RESERVED = FUSED


@dataclass
class _Body:
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


def fused(model: ir.Model, stages: Sequence[Stage], exits: Sequence[ExitSpec], score: str) -> ir.Model:
    """Build the fused graph.

    Stage 0 and its score stand at the top; every later stage stands in the `else` branch of the decision
    before it, with the weights it uses: onnxruntime's fusions do not fire for weights of an outer scope.

    Args:
        model: the whole network; left as it is.
        stages: its stages.
        exits: what each exit gives; all of one dtype and class count.
        score: one of `edgeexit.policy.scores.GRAPH_SCORES`.

    Raises:
        ModelError: outputs that do not fit one output tensor, or a name that is taken.
    """
    _check(model, exits)
    inputs = [_one(v) for v in model.graph.inputs]
    thresholds = ir.Value(name=THRESHOLDS, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([len(stages) - 1]))
    scope = {v.name or "": v for v in inputs}
    body, outputs = _scope(model, stages, exits, score, 0, scope, thresholds)
    graph = ir.Graph(
        [*inputs, thresholds],
        outputs,
        nodes=body.nodes,
        initializers=body.weights,
        opset_imports=dict(model.graph.opset_imports),
    )
    result = finish(model, graph)
    strip_shapes(graph, outputs)
    return result


def set_temperatures(data: bytes, temperatures: Sequence[float]) -> bytes:
    """Rewrite the named temperature constants of a fused graph in place.

    Raises:
        ModelError: the graph has no such constant for an exit.
    """
    proto = onnx.load_from_string(data)
    left = {f"{TEMPERATURE}{k}": t for k, t in enumerate(temperatures)}
    todo = [proto.graph]
    while todo:
        graph = todo.pop()
        for tensor in graph.initializer:
            if tensor.name in left:
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(left.pop(tensor.name), np.float32), tensor.name))
        todo.extend(a.g for node in graph.node if node.op_type == "If" for a in node.attribute)
    if left:
        raise ModelError(f"not a fused graph of this toolkit: it lacks the constant {sorted(left)[0]!r}")
    raw: bytes = proto.SerializeToString(deterministic=True)
    return raw


def _scope(
    model: ir.Model,
    stages: Sequence[Stage],
    exits: Sequence[ExitSpec],
    score: str,
    k: int,
    scope: dict[str, ir.Value],
    thresholds: ir.Value,
) -> tuple[_Body, list[ir.Value]]:
    """Stage k, its decision and everything behind it; `scope` holds what is visible here by name."""
    spec = exits[k]
    learned = spec.learned if score_named(score).needs == "learned" else None
    extras = [n for n in (spec.uncertainty, learned, spec.lengths) if n is not None]
    body = _stage(model, stages[k], [spec.answer.name, *extras], scope, k)
    answer = scope[stages[k].exit]
    sure = _score(body, answer, spec, score, k, {n: scope[n] for n in extras})
    told = _told(body, exits, k, scope)
    given = [v for v in (answer, sure, told, None if spec.lengths is None else scope[spec.lengths]) if v is not None]
    names = _names(exits)
    last = k == len(stages) - 1
    if last:
        return body, _results(body, given, names, k, spec, suffix="" if k == 0 else f"{_tag(body.taken)}_{k}")
    position = body.weight(f"edgeexit_exit_{k}", np.array(k, np.int64))
    stop = body.op("GreaterOrEqual", sure, body.op("Gather", thresholds, position, axis=0))
    then, tag = _Body(f"exit_{k}", body.taken), _tag(body.taken)
    then_outputs = _results(then, given, names, k, spec, suffix=f"{tag}_{k}")
    other, other_outputs = _scope(model, stages, exits, score, k + 1, dict(scope), thresholds)
    branch = ir.node(
        "If",
        [stop],
        attributes={
            "then_branch": ir.Graph([], then_outputs, nodes=then.nodes, initializers=then.weights, name=f"exit_{k}"),
            "else_branch": ir.Graph(
                [], other_outputs, nodes=other.nodes, initializers=other.weights, name=f"stage_{k + 1}"
            ),
        },
        num_outputs=len(then_outputs),
        name=f"edgeexit_decision_{k}",
    )
    body.nodes.append(branch)
    suffix = "" if k == 0 else f"{tag}_after_{k}"
    for value, name, like in zip(branch.outputs, names, other_outputs, strict=True):
        value.name, value.type = name + suffix, like.type
        value.shape = _shape(exits) if name == OUTPUT else like.shape
    return body, list(branch.outputs)


def _stage(model: ir.Model, stage: Stage, answers: Sequence[str], scope: dict[str, ir.Value], k: int) -> _Body:
    """Copy one stage's nodes here; what outer scopes hold is used from there, never repeated."""
    held = [n for n in stage.inputs if n in scope]
    wanted = dict.fromkeys((*answers, *stage.cuts))
    graph = ir.convenience.extract(model.graph, held, list(wanted))
    for value in list(graph.inputs):
        value.replace_all_uses_with(scope[value.name or ""], replace_graph_outputs=True)
    taken = all_names(model.graph)
    body = _Body(f"stage_{k}", taken)
    for name, value in sorted(graph.initializers.items()):
        if name in scope:
            value.replace_all_uses_with(scope[name], replace_graph_outputs=True)
        else:
            graph.initializers.pop(name)
            body.weights.append(value)
            scope[name] = value
    nodes = list(graph)
    graph.outputs.clear()
    graph.remove(nodes)
    for node in nodes:
        for value in node.outputs:
            name = value.name or ""
            if name in scope or name in _RESERVED:  # names are unique along a path, and ours are ours
                value.name = free_name(f"{name}_stage_{k}", taken)
            if name:
                scope.setdefault(name, value)
    body.nodes.extend(nodes)
    return body


def _told(body: _Body, exits: Sequence[ExitSpec], k: int, scope: dict[str, ir.Value]) -> ir.Value | None:
    """The uncertainty as a scalar, NaN at an exit of one head; None where no exit has several."""
    name = exits[k].uncertainty
    if name is not None:
        return body.op("ReduceMean", scope[name], keepdims=0)
    if all(e.uncertainty is None for e in exits):
        return None
    return body.weight(f"edgeexit_unknown_{k}", np.array(np.nan, np.float32))


def _score(
    body: _Body, answer: ir.Value, spec: ExitSpec, score: str, k: int, extras: Mapping[str, ir.Value]
) -> ir.Value:
    """The score as nodes: a float32 scalar, the mean over (valid) positions where there are several.

    Reductions run over all axes, written without an axes argument: that form is the same in every opset.
    """
    temperature = body.weight(f"{TEMPERATURE}{k}", np.array(1, np.float32))
    needs = score_named(score).needs
    if needs != "answer":
        return BUILDERS[score](_Head(body, extras[getattr(spec, needs)], k))
    return BUILDERS[score](_Logits(body, answer, spec, k, temperature, extras))


class _Head:
    """An exit's output beside its answer, as the scores of `HEAD_SCORES` take it."""

    def __init__(self, body: _Body, value: ir.Value, k: int) -> None:
        self.body, self.value, self.k = body, value, k


class _Logits:
    """An answer's logits over the temperature, as the scores of `ANSWER_SCORES` take them."""

    def __init__(
        self, body: _Body, answer: ir.Value, spec: ExitSpec, k: int, temperature: ir.Value,
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

    def __init__(self, body: _Body, answer: ir.Value, lengths: ir.Value, k: int) -> None:
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


def _results(
    body: _Body, given: Sequence[ir.Value], names: Sequence[str], k: int, spec: ExitSpec, suffix: str
) -> list[ir.Value]:
    """What the graph gives (`given` lacks the index), as values made in this scope, as a branch's outputs must be."""
    index = body.weight(f"edgeexit_index{suffix or '_0'}_value", np.array(k, np.int64))
    found = [body.op("Identity", v) for v in (given[0], index, *given[1:])]
    for value, name in zip(found, names, strict=True):
        whole = name in (INDEX, LENGTHS)
        dtype = ir.DataType.INT64 if whole else ir.DataType.FLOAT
        value.name = name + suffix
        value.type = ir.TensorType(ir.DataType[_ONNX_NAMES[spec.answer.dtype]] if name == OUTPUT else dtype)
        value.shape = {OUTPUT: _shape([spec]), LENGTHS: ir.Shape([1])}.get(name, ir.Shape([]))
    return found


def _tag(taken: Collection[str]) -> str:
    """What stands between the name of an output and a branch's number, so that no tensor of the network has it."""
    tag = ""
    while any(n.startswith(f"{name}{tag}_") for name in _RESERVED for n in taken):
        tag += "_"
    return tag


def _names(exits: Sequence[ExitSpec]) -> tuple[str, ...]:
    """The graph's outputs."""
    told = (UNCERTAINTY,) if any(e.uncertainty is not None for e in exits) else ()
    return (OUTPUT, INDEX, SCORE, *told, *((LENGTHS,) if exits[0].lengths is not None else ()))


_ONNX_NAMES = {"float32": "FLOAT", "float16": "FLOAT16", "float64": "DOUBLE"}


def _shape(exits: Sequence[ExitSpec]) -> ir.Shape:
    """One input's output shape; an axis on which exits differ is free."""
    shapes = [e.answer.shape for e in exits]
    axes = [a[0] if len(set(a)) == 1 else None for a in zip(*shapes, strict=True)]
    return ir.Shape([1, *axes[1:]])


def _one(value: ir.Value) -> ir.Value:
    """A model input for one input per call."""
    shape = list(value.shape) if value.shape is not None else [1]
    return ir.Value(name=value.name, type=value.type, shape=ir.Shape([1, *shape[1:]]))


def check_one_output(exits: Sequence[ExitSpec]) -> None:
    """Whether one output tensor can hold what every exit gives.

    Raises:
        ModelError: exits of unlike shapes or types: they may answer unlike questions, and then are no exits.
    """
    outputs = [e.answer for e in exits]
    for e, o in zip(exits, outputs, strict=True):
        if o.dtype not in _ONNX_NAMES:
            raise ModelError(f"exit {e.name!r} gives {o.dtype}; a score needs floating-point outputs")
        if len(o.shape) != len(outputs[0].shape) or o.dtype != outputs[0].dtype or o.shape[-1] != outputs[0].shape[-1]:
            raise ModelError(
                f"exit {e.name!r} gives {o.dtype} {list(o.shape)}, exit {exits[0].name!r} {outputs[0].dtype} "
                f"{list(outputs[0].shape)}; a fused graph has one output for all exits: export --layouts chain,prefix, "
                "or name with --exits those outputs that answer one question"
            )


def _check(model: ir.Model, exits: Sequence[ExitSpec]) -> None:
    check_one_output(exits)
    taken = _RESERVED & {v.name for v in model.graph.inputs}
    if taken:
        raise ModelError(f"a model input is named {sorted(taken)[0]!r}, a name the fused contract uses; rename it")
