"""Manifest entries of a network: exits, stages, costs and precision."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgeexit.bundle.manifest import ExitSpec, StageSpec, StateSpec
from edgeexit.errors import ModelError
from edgeexit_exporters.analysis.probe import Probe
from edgeexit_exporters.onnx import graph, pieces
from edgeexit_exporters.onnx.measure import NodeCost
from edgeexit_exporters.source.source import Source
from edgeexit_exporters.stages import Stage


def exits(source: Source, parts: Sequence[Stage], seen: Probe, costs: NodeCost) -> tuple[ExitSpec, ...]:
    """The exits; costs count everything for one input.

    Args:
        source: the network.
        parts: its stages.
        seen: what running it showed.
        costs: of its nodes.

    Raises:
        ModelError: an exit is not `(batch, ..., classes >= 2)` of floating-point numbers.
    """
    values = graph.values(source.model.graph)
    done: set[ir.Node] = set()
    specs = []
    for k, (exit, kind) in enumerate(zip(source.exits, source.joint.kinds, strict=True)):
        name, spec = exit.answer, seen.tensors[exit.answer]
        if len(spec.shape) < 2 or not isinstance(spec.shape[-1], int) or spec.shape[-1] < 2:
            raise ModelError(f"exit {name!r} has shape {list(spec.shape)}; expected (batch, ..., classes >= 2)")
        if spec.dtype not in ("float16", "float32", "float64") or spec.batch_axis != 0:
            raise ModelError(
                f"exit {name!r} ({spec.dtype} {list(spec.shape)}) must be floating point, one row per input"
            )
        carried = [n for part in parts[: k + 1] for n in part.carried]
        own = {node for n in (*exit.outputs, *carried) for node in _ancestors(values[n])}
        done |= own
        specs.append(
            ExitSpec(
                _exit_name(name, k),
                tuple(seen.tensors[n] for n in exit.outputs),
                "probs" if exit.members > 1 else kind,
                costs.total(done),
                costs.total(own),
                exit.members,
                exit.uncertainty,
                exit.learned,
                exit.lengths,
            )
        )
    return tuple(specs)


def stages(source: Source, parts: Sequence[Stage], seen: Probe, costs: NodeCost) -> tuple[StageSpec, ...]:
    """The stages; a weight that several stages read counts where it is read first."""
    nodes = list(source.model.graph)
    tensors = {i.tensor.name: i.tensor for i in source.inputs}
    counted: set[str] = set()
    specs = []
    for k, (part, piece) in enumerate(zip(parts, pieces.chain(source.model, parts), strict=True)):
        weights = [v for n, v in piece.graph.initializers.items() if n not in counted]
        counted.update(piece.graph.initializers)
        later = {n for p in parts[k + 1 :] for n in p.inputs}
        carried = {n for p in parts[: k + 1] for n in p.cuts} & later
        specs.append(
            StageSpec(
                part.inputs,
                part.outputs,
                costs.total(nodes[i] for i in part.nodes),
                graph.parameter_count(weights),
                graph.weight_bytes(weights),
                sum(int(seen.one[n].nbytes) for n in carried),
                tuple(StateSpec(tensors[s.input], s.output) for s in part.states),
            )
        )
    return tuple(specs)


def graph_precision(source: Source) -> str:
    """int8 where the graph is quantised (int8-dynamic where ranges are found while it runs), fp16 or fp32 else."""
    if source.quantized is not None:
        return source.quantized.precision
    if any(n.op_type == "DynamicQuantizeLinear" for n in source.model.graph.all_nodes()):
        return "int8-dynamic"
    if any("Quantize" in n.op_type or "QLinear" in n.op_type for n in source.model.graph.all_nodes()):
        return "int8"
    kinds = [v.const_value.dtype for v in source.model.graph.initializers.values() if v.const_value is not None]
    halves = sum(1 for k in kinds if k in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16))
    return "fp16" if halves > sum(1 for k in kinds if k == ir.DataType.FLOAT) else "fp32"


def _exit_name(tensor: str, k: int) -> str:
    return tensor if len(tensor) <= 512 else f"exit{k}"


def _ancestors(value: ir.Value) -> list[ir.Node]:
    owner = value.graph
    assert isinstance(owner, ir.Graph)
    ancestors: dict[ir.Node, None] = {}
    todo = [value]
    while todo:
        node = todo.pop().producer()
        if node is not None and node not in ancestors:
            ancestors[node] = None
            todo.extend(graph.read_by(node, owner))
    return list(ancestors)
