"""Sizes and costs of stages, measured in a real run: exact also where shapes are computed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from edgeexit.errors import ModelError, first_line
from edgeexit_exporters.onnx.graph import COMPUTE

Arrays = Mapping[str, NDArray[Any]]


def session(
    data: bytes | str, threads: int = 1, optimized: str = "", level: str = "ALL", quiet: bool = False
) -> onnxruntime.InferenceSession:
    """An onnxruntime session, with one thread for checks and measurements.

    Args:
        data: the model, or its file.
        threads: within one operation; 0 = onnxruntime's choice.
        optimized: where to write the graph that really runs; empty = nowhere.
        level: how far onnxruntime rewrites it: NONE leaves it, BASIC holds on every machine, EXTENDED makes this
            engine's kernels of it, ALL also changes how tensors lie in memory.
        quiet: whether it is run on what it may refuse, so that it should not write so to the terminal.

    Raises:
        ModelError: onnxruntime cannot load the model.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4 if quiet else 3
    if optimized:
        options.optimized_model_filepath = optimized
    known = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = (
        known.ORT_DISABLE_ALL if level == "NONE" else getattr(known, f"ORT_ENABLE_{level}")
    )
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as e:
        raise ModelError(f"onnxruntime {onnxruntime.__version__} cannot load the model: {_said(e)}") from e


def run(
    model: onnxruntime.InferenceSession, inputs: Arrays, outputs: Sequence[str] | None = None
) -> dict[str, NDArray[Any]]:
    """Run a session; inputs it does not have are left out.

    Raises:
        ModelError: the model does not run on these inputs.
    """
    wanted = [o.name for o in model.get_outputs()] if outputs is None else list(outputs)
    needed = [i.name for i in model.get_inputs()]
    if lacking := [n for n in needed if n not in inputs]:
        raise ModelError(f"the model reads input {lacking[0]!r}, and there is no example of it")
    feed = {n: inputs[n] for n in needed}
    try:
        found = model.run(wanted, feed)
    except Exception as e:
        shapes = ", ".join(f"{n} {a.dtype}{list(a.shape)}" for n, a in feed.items())
        raise ModelError(f"the model does not run on example inputs ({shapes}): {_said(e)}") from e
    return dict(zip(wanted, found, strict=True))


def all_values(
    proto: onnx.ModelProto, names: Iterable[str], inputs: Arrays, quiet: bool = False
) -> dict[str, NDArray[Any]]:
    """Run a model with inner tensors as outputs, too; `quiet` as for `session`."""
    if not (names := list(dict.fromkeys(names))):
        return {}  # an empty list of outputs would mean all of them
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    have = {o.name for o in probe.graph.output}
    # A bare name without a type is enough for onnxruntime, which infers the type itself.
    probe.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in have)
    return run(session(probe.SerializeToString(), quiet=quiet), inputs, names)


@dataclass(frozen=True)
class NodeCost:
    """Multiply-accumulates of the nodes of a graph for one input; None = not known."""

    macs: Mapping[str, int | None]
    """First output name of a node -> its cost; nodes that count nothing are left out."""

    def total(self, nodes: Iterable[ir.Node]) -> int | None:
        costs = [self.macs.get(n.outputs[0].name or "", 0) for n in nodes]
        return None if any(c is None for c in costs) else sum(c for c in costs if c is not None)


def node_costs(model: ir.Model, inputs: Arrays) -> NodeCost:
    """Count multiply-accumulates on one input by running it and reading the sizes.

    Convolutions, matrix products, recurrences and attention count; element-wise work does not, as is usual
    (MLPerf Tiny, T-RECX). Custom operations and control flow around counted operations are unknown.
    """
    nodes = [n for n in model.graph if n.op_type in COMPUTE]
    constants = {
        v.name or "": tuple(v.const_value.shape.numpy())
        for v in model.graph.initializers.values()
        if v.const_value is not None
    }
    names = [
        v.name or ""
        for n in nodes
        for v in (*n.inputs, *n.outputs)
        if v is not None and v.name and v.name not in constants
    ]
    arrays = all_values(ir.to_proto(model), [n for n in names if n not in inputs], inputs)
    shapes: dict[str, tuple[int, ...]] = {**constants, **{n: a.shape for n, a in {**inputs, **arrays}.items()}}

    def shape(value: ir.Value | None) -> tuple[int, ...]:
        return shapes[value.name or ""] if value is not None and value.name else ()

    macs: dict[str, int | None] = {}
    for node in model.graph:
        key = node.outputs[0].name or ""
        if node.domain not in ("", "ai.onnx") and node.op_type != "DynamicQuantizeLSTM":
            macs[key] = None
        elif node.op_type in COMPUTE:
            macs[key] = _count(node, [shape(v) for v in node.inputs], [shape(v) for v in node.outputs])
        elif any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            inner = [
                n for a in node.attributes.values() for g in _graphs(a) for n in ir.traversal.RecursiveGraphIterator(g)
            ]
            if any(n.op_type in COMPUTE or n.domain not in ("", "ai.onnx") for n in inner):
                macs[key] = None
    return NodeCost(macs)


def _graphs(attr: ir.Attr) -> list[ir.Graph]:
    if attr.type == ir.AttributeType.GRAPH:
        return [attr.as_graph()]
    return list(attr.as_graphs()) if attr.type == ir.AttributeType.GRAPHS else []


def _count(node: ir.Node, i: list[tuple[int, ...]], o: list[tuple[int, ...]]) -> int | None:
    out, op = math.prod(o[0]), node.op_type
    if op in ("Conv", "ConvInteger"):
        return out * math.prod(i[1][1:])
    if op == "QLinearConv":
        return out * math.prod(i[3][1:])
    if op == "ConvTranspose":
        return math.prod(i[0]) * math.prod(i[1][1:])
    if op in ("MatMul", "MatMulInteger", "QLinearMatMul"):
        return out * i[0][-1]
    if op == "Gemm":
        transposed = "transA" in node.attributes and node.attributes["transA"].as_int() == 1
        return out * i[0][0 if transposed else 1]
    if op in ("LSTM", "DynamicQuantizeLSTM", "GRU", "RNN"):
        steps = i[0][0] * i[0][1]  # time x batch, in either layout
        return steps * (math.prod(i[1]) + math.prod(i[2]))
    if op == "Einsum":
        terms = node.attributes["equation"].as_string().replace(" ", "").split("->")[0].split(",")
        if any("." in t for t in terms):
            return None
        sizes = {axis: size for term, s in zip(terms, i, strict=True) for axis, size in zip(term, s, strict=True)}
        return math.prod(sizes.values())
    if op == "Attention" and len(i[0]) == 4:  # (batch, heads, time, width)
        return math.prod(i[0]) * i[1][2] + math.prod(i[0][:3]) * i[1][2] * i[2][3]
    return None


def batch_axes(small: Arrays, large: Arrays, sizes: tuple[int, int]) -> dict[str, int | None]:
    """Which axis of each tensor counts inputs: the one whose size followed the batch size.

    Args:
        small: tensors of a run with `sizes[0]` inputs.
        large: the same tensors of a run with `sizes[1]` inputs, whose first ones are those of `small`.
        sizes: two different batch sizes.

    Raises:
        ModelError: a tensor grows with the batch along no single axis, so that a batch cannot be thinned out.
    """
    found: dict[str, int | None] = {}
    for name, a in small.items():
        b = large[name]
        axes = [k for k, (p, q) in enumerate(zip(a.shape, b.shape, strict=False)) if p != q]
        if a.ndim == b.ndim and not axes and np.array_equal(a, b):
            found[name] = None
        elif (
            a.ndim == b.ndim
            and len(axes) == 1
            and (a.shape[axes[0]], b.shape[axes[0]]) == sizes
            and _close(a, np.take(b, range(sizes[0]), axes[0]))
        ):
            found[name] = axes[0]
        else:
            raise ModelError(
                f"tensor {name!r} mixes the inputs of a batch (shape {list(a.shape)} for {sizes[0]}, {list(b.shape)} "
                f"for {sizes[1]} inputs), so inputs cannot leave it one by one"
            )
    return found


def _close(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Equal but for rounding, which may differ between batch sizes."""
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    scale = float(np.max(np.abs(a), initial=0, where=np.isfinite(a))) or 1.0
    rounding = 1e-3 if a.dtype.itemsize > 2 else 5e-2
    return bool(np.allclose(a.astype(np.float64), b.astype(np.float64), rtol=0, atol=rounding * scale, equal_nan=True))


_PLACE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |/onnxruntime_src/\S+ [^()]*\([^()]*\)( \[with [^\]]*\])? ?")


def _said(error: BaseException) -> str:
    """onnxruntime's message without its codes and places in its sources."""
    return first_line(ModelError(_PLACE.sub("", str(error))), 600)
