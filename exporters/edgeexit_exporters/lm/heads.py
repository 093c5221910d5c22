"""Heads in ONNX: a short list of the vocabulary, and weights that lie in the embedding's file."""

from __future__ import annotations

import io

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeexit.errors import ModelError
from edgeexit_exporters.onnx import serialize
from edgeexit_exporters.onnx.graph import constant

EMBEDDING = "embedding.npy"


def npy(array: NDArray[np.generic]) -> bytes:
    """The bytes of a ``.npy`` file."""
    out = io.BytesIO()
    np.lib.format.write_array(out, np.ascontiguousarray(array), allow_pickle=False)
    return out.getvalue()


def shortened(head: ir.Model, ids: NDArray[np.int64]) -> ir.Model:
    """A head whose logits are those of the tokens `ids` (S,) only.

    Raises:
        ModelError: the graph does not end in one product with the vocabulary's weights.
    """
    head = head.clone()
    product, weight = _product(head)
    array = _array(weight)
    short = constant(f"{_base(weight)}.short.T", np.ascontiguousarray(array[:, ids]))
    _exchange(head.graph, product, weight, short)
    logits = head.graph.outputs[0]
    logits.shape = ir.Shape([*logits.shape[:-1], len(ids)]) if logits.shape is not None else None
    return head


def tied(head: ir.Model, table: NDArray[np.float32]) -> ir.Model | None:
    """The head with its weights in `EMBEDDING` beside it, read where they lie; None = they are not the embedding's.

    MatMul takes its weights the other way round, so the product becomes a Gemm.

    Args:
        head: `hidden` -> `logits`.
        table: `(vocab, width)`, as `npy` writes it.
    """
    try:
        product, weight = _product(head)
    except ModelError:  # it does more than that: leave it as it is
        return None
    array = _array(weight)
    if array.shape != table.shape[::-1] or not np.array_equal(array, table.T):
        return None
    head = head.clone()
    product, weight = _product(head)
    offset = len(npy(table)) - table.nbytes
    place = ir.ExternalTensor(
        EMBEDDING, offset, table.nbytes, ir.DataType.FLOAT, shape=ir.Shape(table.shape), name="embedding"
    )
    rows = ir.Value(name="embedding", type=ir.TensorType(ir.DataType.FLOAT), shape=place.shape, const_value=place)
    axis = constant("head.axis", np.array([0], np.int64))
    flat = ir.node("Squeeze", [product.inputs[0], axis], name="head.squeeze")
    gemm = ir.node("Gemm", [flat.outputs[0], rows], {"transB": 1}, name=product.name)
    back = ir.node("Unsqueeze", [gemm.outputs[0], axis], name="head.unsqueeze")
    flat.outputs[0].name, gemm.outputs[0].name = "head.flat", "head.rows"
    graph, old, new = head.graph, product.outputs[0], back.outputs[0]
    for value in (rows, axis):
        graph.register_initializer(value)
    graph.insert_before(product, [flat, gemm, back])
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(product, safe=True)
    graph.initializers.pop(weight.name or "")
    new.name, new.type, new.shape = old.name, old.type, old.shape
    return serialize.finish(head, graph)


def _product(head: ir.Model) -> tuple[ir.Node, ir.Value]:
    """The last operation and its weights."""
    node = head.graph.outputs[0].producer()
    weight = None if node is None or len(node.inputs) != 2 else node.inputs[1]
    if node is None or node.op_type != "MatMul" or weight is None or weight.const_value is None:
        raise ModelError(
            f"the head ends in {'nothing' if node is None else node.op_type}, expected one product with the "
            "vocabulary's weights, without a bias"
        )
    return node, weight


def _array(weight: ir.Value) -> NDArray[np.float32]:
    assert weight.const_value is not None
    array: NDArray[np.float32] = weight.const_value.numpy()
    return array


def _base(weight: ir.Value) -> str:
    return (weight.name or "head").removesuffix(".T").removesuffix(".weight")


def _exchange(graph: ir.Graph, node: ir.Node, old: ir.Value, new: ir.Value) -> None:
    graph.register_initializer(new)
    node.replace_input_with(1, new)
    if old.name is not None and not old.uses():
        graph.initializers.pop(old.name)
