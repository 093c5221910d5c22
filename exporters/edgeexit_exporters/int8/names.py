"""Names around int8: those that onnxruntime's quantizer would take are changed before, and restored after."""

from __future__ import annotations

import re

import onnx_ir as ir

from edgeexit_exporters.onnx.names import all_names, free_name

_LIKE_ITS_OWN = re.compile(
    r"_(quantized|quant|scale|zero_point|ReduceRange|output_scale_mul|output_quantized|scales_mul|quant_scales?_mul"
    r"|(Dequantize|Quantize)Linear(_\w*)?)(_?\d+)?$"
)
"""It adds such ends to the names of tensors, and does not look whether the name is free."""


def hide_names(model: ir.Model) -> dict[str, str]:
    """Rename tensors that have such an end and stand on one that the model has, too.

    Args:
        model: changed in place.

    Returns:
        New name -> old name, of inputs and outputs: they have to be put back.
    """
    graph = model.graph
    taken = all_names(graph)
    renamed: dict[str, str] = {}

    def other(name: str) -> str:
        new = free_name(f"source_{len(taken)}", taken)
        taken.add(new)
        return new

    for name in [n for n in graph.initializers if _LIKE_ITS_OWN.search(n)]:
        value = graph.initializers.pop(name)
        value.name = other(name)
        graph.register_initializer(value)
    for value in (*graph.inputs, *(v for node in graph for v in node.outputs)):
        if value.name and _LIKE_ITS_OWN.search(value.name) and not value.is_initializer():
            new = other(value.name)
            if value.is_graph_input() or value.is_graph_output():
                renamed[new] = value.name
            value.name = new
    return renamed


def restore_names(model: ir.Model, renamed: dict[str, str]) -> None:
    """Give inputs and outputs their names back; what has such a name by now gets another one.

    Args:
        model: changed in place.
        renamed: of `hide_names`.
    """
    graph = model.graph
    taken = {*all_names(graph), *renamed.values()}
    old = {*renamed.values()}
    for name in [n for n in graph.initializers if n in old]:
        value = graph.initializers.pop(name)
        value.name = free_name(f"{name}_", taken)
        taken.add(value.name)
        graph.register_initializer(value)
    for value in (v for node in graph for v in node.outputs):
        if value.name in old:
            value.name = free_name(f"{value.name}_", taken)
            taken.add(value.name)
    for value in (*graph.inputs, *(v for node in graph for v in node.outputs)):
        if value.name in renamed:
            value.name = renamed[value.name]
