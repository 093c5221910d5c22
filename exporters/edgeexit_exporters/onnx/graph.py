"""ONNX graphs in one form for surgery, and a view of them for the stage algorithm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
from numpy.typing import NDArray

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.errors import ModelError, first_line
from edgeexit_exporters.onnx.files import MAX_WEIGHT_BYTES
from edgeexit_exporters.onnx.versions import ir_version
from edgeexit_exporters.stages import GraphView, ViewNode

OLDEST_OPSET = 13

JOIN = "edgeexit_join"
"""Begins the names of what `join` adds."""

TURN_BACK = "edgeexit_channels_first"
"""Begins the names of nodes that turn a cut tensor back; see `channels_last`. Each stage repeats them."""

RANDOM = {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
    "Dropout",
}
COMPUTE = {
    "Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "Gemm", "MatMul", "MatMulInteger", "QLinearMatMul",
    "Einsum", "LSTM", "DynamicQuantizeLSTM", "GRU", "RNN", "Attention",
}  # fmt: skip
"""Operations whose multiply-accumulates count; never repeated as free."""
_SLOW = {"Cos", "Sin", "Exp", "Log", "Pow", "Sqrt", "Tanh", "Sigmoid", "Erf"}
"""Element by element, but dear enough that results that follow from shapes alone (tables of positions) are carried."""
_REPEATED = {"DequantizeLinear", "DynamicQuantizeLinear"}
"""Repeated by each stage that reads them, so that the cut lies where int8 kernels begin: an engine fuses
DequantizeLinear, Conv, QuantizeLinear only within one graph."""


def prepare(proto: onnx.ModelProto, name: str) -> ir.Model:
    """Bring a model into the form that surgery needs.

    Functions are inlined, Constant nodes become initializers, opsets below 13 are raised to 18, the IR version is one
    that suits what the graph uses.

    Args:
        proto: a model that onnxruntime can load.
        name: for messages.

    Raises:
        ModelError: an opset that cannot be raised, content that graph surgery cannot read, or 2 GiB of weights.
    """
    version = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), None)
    if version is not None and version < OLDEST_OPSET:
        try:
            proto = onnx.version_converter.convert_version(proto, 18)
        except Exception as e:
            raise ModelError(
                f"{name}: opset {version}, at least {OLDEST_OPSET} is needed, and it could not be raised: "
                f"{first_line(e)}; export the model with a newer opset"
            ) from e
    try:
        model = ir.from_proto(proto)
        for step in (
            passes.InlinePass(),
            passes.RemoveInitializersFromInputsPass(),
            passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            passes.TopologicalSortPass(),
            passes.NameFixPass(),
            passes.RemoveUnusedNodesPass(),
        ):
            step(model)
        total = weight_bytes(model.graph.initializers.values())
        model.ir_version = ir_version(model)
    except Exception as e:  # the libraries raise their own classes, several deep
        raise ModelError(f"{name}: its graph cannot be read: {first_line(_cause(e))}") from e
    if total > MAX_WEIGHT_BYTES:
        raise ModelError(
            f"{name}: {total / 2**30:.1f} GiB of weights; a bundle's ONNX file holds less than 2 GiB: "
            "export it in half precision or smaller parts"
        )
    return model


def _cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def weight_bytes(initializers: Iterable[ir.Value]) -> int:
    """Bytes of initializers, as stored."""
    return sum(v.const_value.nbytes for v in initializers if v.const_value is not None)


def parameter_count(initializers: Iterable[ir.Value]) -> int:
    """Numbers in floating or small-integer initializers: no shapes and indices (int64), no scales and zero points of
    a quantised graph, no constants of `join`."""
    return sum(
        math.prod(v.const_value.shape.numpy())
        for v in initializers
        if v.const_value is not None
        and v.const_value.dtype not in (ir.DataType.INT64, ir.DataType.BOOL)
        and not (v.name or "").startswith(JOIN)
        and not _is_scale(v)
    )


def _is_scale(value: ir.Value) -> bool:
    """Whether it only says how numbers are quantised."""
    uses = value.uses()
    return bool(uses) and all(u.node.op_type in ("QuantizeLinear", "DequantizeLinear") and u.idx > 0 for u in uses)


def view(graph: ir.Graph) -> GraphView:
    """The graph as the stage algorithm sees it; values captured by subgraphs count as read."""
    nodes: list[ViewNode] = []
    free: set[ir.Value] = set()
    for node in graph:
        reads = [v for v in read_by(node, graph) if not v.is_initializer()]
        is_free = (
            node.op_type not in RANDOM
            and node.op_type not in COMPUTE | _SLOW
            and node.domain in ("", "ai.onnx")
            and not _subgraphs(node)
            and (node.op_type in ("Shape", "Size") or all(v in free for v in reads))
        )
        outputs = [v for v in node.outputs if v.name]
        if is_free:
            free.update(outputs)
        elif (node.op_type in _REPEATED and node.domain in ("", "ai.onnx", "com.microsoft")) or (
            node.name or ""
        ).startswith(TURN_BACK):
            is_free = True  # what is computed from its output costs something, and is not
        nodes.append(ViewNode(tuple(_name(v) for v in reads), tuple(_name(v) for v in outputs), is_free))
    return GraphView(tuple(_name(v) for v in graph.inputs), tuple(nodes))


def values(graph: ir.Graph) -> dict[str, ir.Value]:
    """Inputs and node outputs of the graph itself, by name."""
    by_name = {v.name: v for v in graph.inputs if v.name}
    by_name.update((v.name, v) for node in graph for v in node.outputs if v.name)
    return by_name


def annotate(graph: ir.Graph, tensors: Mapping[str, TensorSpec]) -> None:
    """Write found types and shapes onto values: an ONNX input or output states its own."""
    known = values(graph)
    for name, spec in tensors.items():
        known[name].type = ir.TensorType(ir.DataType.from_numpy(np.dtype(spec.dtype)))
        known[name].shape = ir.Shape(list(spec.shape))


def constant(name: str, array: NDArray[Any]) -> ir.Value:
    """A named initializer."""
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)


def _name(value: ir.Value) -> str:
    assert value.name is not None  # NameFixPass named everything
    return value.name


def _subgraphs(node: ir.Node) -> list[ir.Graph]:
    graphs: list[ir.Graph] = []
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.GRAPH:
            graphs.append(attr.as_graph())
        elif attr.type == ir.AttributeType.GRAPHS:
            graphs.extend(attr.as_graphs())
    return graphs


def read_by(node: ir.Node, graph: ir.Graph) -> list[ir.Value]:
    """Values of `graph` that the node reads itself or inside its subgraphs, outputs of those included."""
    read = [v for v in node.inputs if v is not None]
    todo = _subgraphs(node)
    while todo:
        inner = todo.pop()
        reads = [v for n in inner for v in n.inputs if v is not None] + list(inner.outputs)
        read.extend(v for v in reads if v.graph is graph)
        todo.extend(g for n in inner for g in _subgraphs(n))
    return list(dict.fromkeys(read))
