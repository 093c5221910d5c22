"""The fused layout: one ONNX graph whose nested `If` nodes decide, so that any onnxruntime is the whole runtime.

The contract (inputs, outputs, stopping rule) is written in `docs/bundle-format.md`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from edgeexit.bundle.manifest import ExitSpec
from edgeexit.errors import ModelError
from edgeexit.policy.scores import score_named
from edgeexit_exporters.layouts.score_nodes import TEMPERATURE, Body, add_score
from edgeexit_exporters.onnx.names import FUSED, all_names, free_name
from edgeexit_exporters.onnx.serialize import finish, strip_shapes
from edgeexit_exporters.stages import Stage

THRESHOLDS = "exit_thresholds"
OUTPUT, INDEX, SCORE, UNCERTAINTY = "output", "exit_index", "exit_score", "exit_uncertainty"
LENGTHS = "exit_lengths"
_RESERVED = FUSED


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
) -> tuple[Body, list[ir.Value]]:
    """Stage k, its decision and everything behind it; `scope` holds what is visible here by name."""
    spec = exits[k]
    learned = spec.learned if score_named(score).needs == "learned" else None
    extras = [n for n in (spec.uncertainty, learned, spec.lengths) if n is not None]
    body = _stage(model, stages[k], [spec.answer.name, *extras], scope, k)
    answer = scope[stages[k].exit]
    sure = add_score(body, answer, spec, score, k, {n: scope[n] for n in extras})
    uncertainty = _told(body, exits, k, scope)
    given = [
        v for v in (answer, sure, uncertainty, None if spec.lengths is None else scope[spec.lengths]) if v is not None
    ]
    names = _names(exits)
    last = k == len(stages) - 1
    if last:
        return body, _results(body, given, names, k, spec, suffix="" if k == 0 else f"{_tag(body.taken)}_{k}")
    position = body.weight(f"edgeexit_exit_{k}", np.array(k, np.int64))
    stop = body.op("GreaterOrEqual", sure, body.op("Gather", thresholds, position, axis=0))
    then, tag = Body(f"exit_{k}", body.taken), _tag(body.taken)
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


def _stage(model: ir.Model, stage: Stage, answers: Sequence[str], scope: dict[str, ir.Value], k: int) -> Body:
    """Copy one stage's nodes here; what outer scopes hold is used from there, never repeated."""
    held = [n for n in stage.inputs if n in scope]
    wanted = dict.fromkeys((*answers, *stage.cuts))
    graph = ir.convenience.extract(model.graph, held, list(wanted))
    for value in list(graph.inputs):
        value.replace_all_uses_with(scope[value.name or ""], replace_graph_outputs=True)
    taken = all_names(model.graph)
    body = Body(f"stage_{k}", taken)
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


def _told(body: Body, exits: Sequence[ExitSpec], k: int, scope: dict[str, ir.Value]) -> ir.Value | None:
    """The uncertainty as a scalar, NaN at an exit of one head; None where no exit has several."""
    name = exits[k].uncertainty
    if name is not None:
        return body.op("ReduceMean", scope[name], keepdims=0)
    if all(e.uncertainty is None for e in exits):
        return None
    return body.weight(f"edgeexit_unknown_{k}", np.array(np.nan, np.float32))


def _results(
    body: Body, given: Sequence[ir.Value], names: Sequence[str], k: int, spec: ExitSpec, suffix: str
) -> list[ir.Value]:
    """What the graph gives (`given` lacks the index), as values made in this scope, as a branch's outputs must be."""
    index = body.weight(f"edgeexit_index{suffix or '_0'}_value", np.array(k, np.int64))
    results = [body.op("Identity", v) for v in (given[0], index, *given[1:])]
    for value, name in zip(results, names, strict=True):
        whole = name in (INDEX, LENGTHS)
        dtype = ir.DataType.INT64 if whole else ir.DataType.FLOAT
        value.name = name + suffix
        value.type = ir.TensorType(ir.DataType[_ONNX_NAMES[spec.answer.dtype]] if name == OUTPUT else dtype)
        value.shape = {OUTPUT: _shape([spec]), LENGTHS: ir.Shape([1])}.get(name, ir.Shape([]))
    return results


def _tag(taken: Collection[str]) -> str:
    """What stands between the name of an output and a branch's number, so that no tensor of the network has it."""
    tag = ""
    while any(n.startswith(f"{name}{tag}_") for name in _RESERVED for n in taken):
        tag += "_"
    return tag


def _names(exits: Sequence[ExitSpec]) -> tuple[str, ...]:
    """The graph's outputs."""
    uncertainty = (UNCERTAINTY,) if any(e.uncertainty is not None for e in exits) else ()
    return (OUTPUT, INDEX, SCORE, *uncertainty, *((LENGTHS,) if exits[0].lengths is not None else ()))


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
