"""Serialisation of ONNX models: the same model gives the same bytes; weights that files share lie in one data file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx_ir as ir

from edgeexit.errors import ModelError
from edgeexit_exporters.onnx.files import MAX_WEIGHT_BYTES
from edgeexit_exporters.onnx.graph import weight_bytes
from edgeexit_exporters.onnx.versions import LOWEST, ir_version

SHARED_WEIGHTS = "weights.bin"
SHARED_LEAST_BYTES = 1024
"""Smaller weights that two stages read are cheaper repeated than referenced."""
_ALIGN = 64


def to_bytes(model: ir.Model, what: str) -> bytes:
    """Serialise, the same model to the same bytes.

    Raises:
        ModelError: the weights do not fit one file.
    """
    inside = sum(
        weight_bytes([v])
        for graph in (model.graph, *model.graph.subgraphs())
        for v in graph.initializers.values()
        if not isinstance(v.const_value, ir.ExternalTensor)
    )
    if inside > MAX_WEIGHT_BYTES:
        raise ModelError(f"{what}: {inside / 2**30:.1f} GiB of weights do not fit one ONNX file (less than 2 GiB)")
    raw: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return raw


def finish(source: ir.Model, graph: ir.Graph) -> ir.Model:
    """A model around a graph, in a form that serialises to the same bytes each time."""
    graph.name = "edgeexit"
    order = sorted(graph.initializers)  # extract() collects weights in a set: order them, or bytes differ
    weights = [graph.initializers.pop(name) for name in order]
    for value in weights:
        graph.register_initializer(value)
    for node in graph.all_nodes():
        node.metadata_props.clear()  # exporters leave source paths of their machine there
        node.doc_string = None
    graph.metadata_props.clear()
    graph.doc_string = None
    model = ir.Model(graph, ir_version=LOWEST, producer_name="edgeexit")
    model.ir_version = ir_version(model)
    return model


def strip_shapes(graph: ir.Graph, keep: Sequence[ir.Value]) -> None:
    """Forget the sizes of all values but `keep`: after an input's size changed, stale ones would mislead."""
    kept = set(keep)
    for node in graph.all_nodes():
        for value in node.outputs:
            if value not in kept:
                value.shape = None


def share_weights(models: Sequence[ir.Model]) -> bytes:
    """Move weights that several files hold into one data file that all of them point to.

    Returns:
        The bytes of that file (`SHARED_WEIGHTS`); empty where nothing is shared.
    """
    count = Counter(v.name for m in models for v in m.graph.initializers.values())
    data = bytearray()
    placed: dict[str, ir.ExternalTensor] = {}
    for model in models:
        for value in model.graph.initializers.values():
            tensor, name = value.const_value, value.name
            if tensor is None or name is None or count[name] < 2 or tensor.nbytes < SHARED_LEAST_BYTES:
                continue
            if isinstance(tensor, ir.ExternalTensor):  # in a file of its own already
                continue
            if name not in placed:
                data.extend(b"\0" * (-len(data) % _ALIGN))
                placed[name] = ir.ExternalTensor(
                    SHARED_WEIGHTS,
                    len(data),
                    tensor.nbytes,
                    tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()),
                    name=name,
                )
                data.extend(tensor.tobytes())
            value.const_value = placed[name]
    return bytes(data)
