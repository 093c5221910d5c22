"""Heads of a quantised network that answer in float: their last matrix product is not rounded to 8 bits.

onnxruntime's int8 products give float32 at no cost (QGemm and MatMulIntegerToFloat), and 256 steps make ties among
scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgeexit_exporters.onnx.graph import values

_LAST = {"Softmax", "LogSoftmax", "Sigmoid"}
_PASSES_ON = {"Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Transpose"}
_FLOAT_RESULT = {"Gemm", "MatMul"}


def last_float_nodes(model: ir.Model, tensors: Sequence[str]) -> list[str]:
    """Names of each head's last Softmax or Sigmoid, and of what only changes its shape: left in float."""
    known = values(model.graph)
    names = []
    for name in tensors:
        chain = []
        node = known[name].producer()
        while node is not None and node.op_type in _PASSES_ON | _LAST:
            chain.append(node.name or "")
            if node.op_type in _LAST:
                names += chain
                break
            node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return list(dict.fromkeys(names))


def float_heads(model: ir.Model, tensors: Sequence[str]) -> None:
    """Take rounding away after heads' last matrix products, where nothing but the answer reads it.

    Args:
        model: the quantised network; changed in place.
        tensors: the heads' outputs; keep their names.
    """
    for name in tensors:
        pairs: list[tuple[ir.Node, ir.Node]] = []
        node = values(model.graph)[name].producer()
        while node is not None and _one_reader(node):
            feeds = node.inputs[0].producer() if node.inputs[0] is not None else None
            if node.op_type == "DequantizeLinear" and feeds is not None and feeds.op_type == "QuantizeLinear":
                if not _one_reader(feeds):
                    break
                pairs.append((feeds, node))
                feeds = feeds.inputs[0].producer() if feeds.inputs[0] is not None else None
            elif node.op_type not in _PASSES_ON | _LAST:
                break
            node = feeds
        if node is not None and node.op_type in _FLOAT_RESULT and _one_reader(node):
            for pair in pairs:
                _bypass(model.graph, *pair)


def _one_reader(node: ir.Node) -> bool:
    value = node.outputs[0]
    return len(value.uses()) + value.is_graph_output() == 1


def _bypass(graph: ir.Graph, quantize: ir.Node, dequantize: ir.Node) -> None:
    value, rounded = quantize.inputs[0], dequantize.outputs[0]
    assert value is not None
    name, type_, shape, is_answer = rounded.name, rounded.type, rounded.shape, rounded.is_graph_output()
    rounded.replace_all_uses_with(value, replace_graph_outputs=True)
    graph.remove([dequantize, quantize], safe=True)
    if is_answer:
        value.name, value.type, value.shape = name, type_, shape
