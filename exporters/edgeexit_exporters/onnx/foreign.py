"""Foreign ONNX content, brought to plain tensors in order, with names of what is left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper

from edgeexit.errors import ModelError
from edgeexit_exporters.onnx.files import MAX_WEIGHT_BYTES, all_nodes, graphs, node_graphs

_KINDS = {
    "sequence_type": "a sequence",
    "map_type": "a map",
    "optional_type": "an optional",
    "sparse_tensor_type": "a sparse tensor",
}
_SHOWN = 6


@dataclass
class Adapted:
    """What was done to a foreign file."""

    odd_outputs: dict[str, str] = field(default_factory=dict)
    """Outputs that are no tensors, taken off the graph: name -> what it is, in words."""
    notes: list[str] = field(default_factory=list)
    """Content that the export leaves out, or reads in a certain way; one sentence each."""


def adapt(proto: onnx.ModelProto, name: str) -> Adapted:
    """Bring a foreign model into a form that graph surgery can read.

    Sparse weights become dense, outputs that are no tensors are taken off, and nodes are put in order.

    Args:
        proto: with all weights inside; changed in place.
        name: of the file, for messages.

    Raises:
        ModelError: an input that is no tensor, weights of one name that differ, a sparse tensor out of bounds, nodes in
            a circle, or more weights than one file holds.
    """
    adapted = Adapted()
    _refuse_odd_inputs(proto.graph, name)
    for graph in graphs(proto.graph):
        _dense_weights(graph, name)
        _one_of_each(graph, name)
        odd = [v for v in graph.value_info if _kind(v.type)]  # of no use, and not every library reads them
        for value in odd:
            graph.value_info.remove(value)
    for node in all_nodes(proto):
        _dense_constants(node, name)
    for output in [o for o in proto.graph.output if _kind(o.type)]:
        adapted.odd_outputs[output.name] = _said(output, proto.graph)
        proto.graph.output.remove(output)
    _sort(proto.graph, name)
    for function in proto.functions:
        _sort(function, name)
    adapted.notes += _left_out(proto)
    return adapted


def _kind(type_: onnx.TypeProto) -> str | None:
    """What a value is, in words; None = a tensor, or not stated."""
    which = type_.WhichOneof("value")
    if which in (None, "tensor_type"):
        return None
    if which == "sequence_type" and type_.sequence_type.elem_type.WhichOneof("value") == "map_type":
        return "a sequence of maps"
    return _KINDS.get(which, f"of type {which}")


def _said(output: onnx.ValueInfoProto, graph: onnx.GraphProto) -> str:
    kind = _kind(output.type) or ""
    for node in graph.node:
        if node.op_type == "ZipMap" and output.name in node.output:
            return f"{kind} made of {node.input[0]!r} (by ZipMap; options={{'zipmap': False}} converts without it)"
    return kind


def _refuse_odd_inputs(graph: onnx.GraphProto, name: str) -> None:
    for value in graph.input:
        if kind := _kind(value.type):
            raise ModelError(
                f"{name}: input {value.name!r} is {kind}; exits are cut out of networks of tensors: convert the model "
                "so that it takes a tensor"
            )


def _dense_weights(graph: onnx.GraphProto, name: str) -> None:
    for sparse in graph.sparse_initializer:
        graph.initializer.append(dense(sparse, sparse.values.name, name))
    graph.ClearField("sparse_initializer")


def _dense_constants(node: onnx.NodeProto, name: str) -> None:
    for a in node.attribute:
        if node.op_type == "Constant" and a.name == "sparse_value" and a.HasField("sparse_tensor"):
            whole = dense(a.sparse_tensor, node.output[0] if node.output else "", name)
            a.CopyFrom(onnx.helper.make_attribute("value", whole))


def dense(sparse: onnx.SparseTensorProto, tensor: str, name: str) -> onnx.TensorProto:
    """The tensor with all its zeros.

    Args:
        sparse: indices are places in the flattened tensor `(n,)`, or coordinates `(n, rank)`.
        tensor: its name.
        name: of the file, for messages.

    Raises:
        ModelError: indices that do not fit, or a tensor that no file holds.
    """
    shape = tuple(int(d) for d in sparse.dims)
    count = 1
    for size in shape:
        count *= size
    try:
        values, at = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
        if min(shape, default=1) < 0 or count * values.itemsize > MAX_WEIGHT_BYTES:
            raise ValueError(f"a tensor of {list(shape)} does not fit one file")
        if at.dtype.kind != "i" or at.ndim not in (1, 2) or len(at) != values.size:
            raise ValueError(f"{values.size} values with indices of {at.dtype}{list(at.shape)}")
        if at.ndim == 2:
            if at.shape[1] != len(shape) or (at.size and not ((at >= 0) & (at < np.array(shape))).all()):
                raise ValueError(f"coordinates that do not fit a tensor of {list(shape)}")
            at = np.ravel_multi_index(tuple(at.T), shape) if at.size else at[:, 0]
        if at.size and not (at.min() >= 0 and at.max() < count):
            raise ValueError(f"indices up to {at.max()} for {count} numbers")
        flat = np.zeros(count, values.dtype)
        flat[at] = values.reshape(-1)
    except (ValueError, TypeError, KeyError) as e:
        raise ModelError(f"{name}: sparse weight {tensor!r} is damaged: {e}") from e
    return numpy_helper.from_array(flat.reshape(shape), tensor)


def _one_of_each(graph: onnx.GraphProto, name: str) -> None:
    """Weights that stand twice stand once."""
    seen: dict[str, onnx.TensorProto] = {}
    for tensor in list(graph.initializer):
        before = seen.setdefault(tensor.name, tensor)
        if before is not tensor and before.SerializeToString() != tensor.SerializeToString():
            raise ModelError(f"{name}: weight {tensor.name!r} stands twice and holds different numbers; remove one")
    if len(seen) < len(graph.initializer):
        kept = onnx.GraphProto(initializer=seen.values())
        graph.ClearField("initializer")
        graph.initializer.extend(kept.initializer)


def _left_out(proto: onnx.ModelProto) -> list[str]:
    """Sentences about content that plays no part in the export."""
    graph, notes = proto.graph, []
    if proto.training_info:
        notes.append("training_info of the file is left out: only inference is exported")
    if names := [q.tensor_name for g in graphs(graph) for q in g.quantization_annotation]:
        notes.append(f"quantization annotations of {_some(names)} are left out: no engine here reads them")
    if proto.metadata_props:
        notes.append(f"metadata of the file is not used: {_some([p.key for p in proto.metadata_props])}")
    weights = {t.name for t in graph.initializer}
    if proto.ir_version > 3 and (names := [v.name for v in graph.input if v.name in weights]):
        notes.append(f"inputs with a value in the file keep that value: {_some(names)}")
    read = {n for g in graphs(graph) for node in g.node for n in node.input}
    read |= {o.name for g in graphs(graph) for o in g.output}
    if names := [v.name for v in graph.input if v.name not in read | weights]:
        notes.append(f"no operation reads input {_some(names)}")
    return notes


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(n[:60]) for n in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _sort(graph: onnx.GraphProto | onnx.FunctionProto, name: str) -> None:
    """Put nodes, and those of inner graphs, behind what they read; those in order stay as they are."""
    for node in graph.node:
        for inner in node_graphs(node):
            _sort(inner, name)
    makers = {out: i for i, node in enumerate(graph.node) for out in node.output if out}
    needs = [sorted({makers[n] for n in _reads(node) if n in makers}) for node in graph.node]
    if all(j < i for i, needed in enumerate(needs) for j in needed):
        return
    order: list[int] = []
    state = [0] * len(needs)  # 0 = not seen, 1 = waits for what it needs, 2 = placed
    for start in range(len(needs)):
        todo = [start]
        while todo:
            i = todo[-1]
            if state[i] == 2:
                todo.pop()
                continue
            waiting = [j for j in needs[i] if state[j] != 2]
            if not waiting:
                state[i] = 2
                order.append(todo.pop())
            elif state[i] == 1 and any(state[j] == 1 for j in waiting):
                raise ModelError(
                    f"{name}: nodes form a circle through {_called(graph.node[i])}: it needs its own answer, so the "
                    "graph cannot be run"
                )
            else:
                state[i] = 1
                todo.extend(reversed(waiting))
    nodes = [onnx.NodeProto.FromString(graph.node[i].SerializeToString()) for i in order]
    graph.ClearField("node")
    graph.node.extend(nodes)


def _reads(node: onnx.NodeProto) -> Iterable[str]:
    """Names that a node reads itself, or from outside in its inner graphs."""
    yield from node.input
    for inner in node_graphs(node):
        own = {v.name for v in inner.input} | {t.name for t in inner.initializer}
        own |= {out for n in inner.node for out in n.output}
        yield from ({n for x in inner.node for n in _reads(x)} | {o.name for o in inner.output}) - own


def _called(node: onnx.NodeProto) -> str:
    outputs = ", ".join(repr(o) for o in list(node.output)[:2])
    return f"{node.op_type} {node.name!r} ({outputs})" if node.name else f"{node.op_type} ({outputs})"
