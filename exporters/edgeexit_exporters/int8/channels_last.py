"""Channels-last cuts of int8 convolution networks, as onnxruntime's int8 convolutions read and write.

The engine turns tensors once at a network's start and once at its end; without this, twice more at every cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgeexit_exporters.onnx import graph
from edgeexit_exporters.onnx.names import all_names, free_name
from edgeexit_exporters.source.join import JoinedExit
from edgeexit_exporters.stages import stages

_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def channels_last_cuts(model: ir.Model, exits: Sequence[JoinedExit]) -> None:
    """Turn every quantised cut tensor that a convolution reads, and back again on both sides.

    Engines take a pair of opposite turns out, and one more turn into a convolution that reads channels last anyway.

    Args:
        model: a quantised network, joined; changed in place.
        exits: its exits.

    Raises:
        ModelError: see `stages`.
    """
    parts = stages(graph.view(model.graph), [e.answer for e in exits], [e.extras for e in exits])
    known, taken = graph.values(model.graph), all_names(model.graph)
    for name in dict.fromkeys(n for p in parts for n in p.cuts):
        value = known[name]
        readers = [u.node for u in value.uses()]
        maker = value.producer()
        if maker is None or value.is_graph_output() or any(r.op_type != "DequantizeLinear" for r in readers):
            continue
        if not any(u.node.op_type == "Conv" and _is_2d(u.node) for r in readers for u in r.outputs[0].uses()):
            continue
        turned = ir.node(
            "Transpose", [value], attributes={"perm": list(_TO_LAST)}, name=free_name(f"{name}_channels_last", taken)
        )
        back = ir.node(
            "Transpose",
            [turned.outputs[0]],
            attributes={"perm": list(_TO_FIRST)},
            name=f"{graph.TURN_BACK}_{name}",
        )
        for node in (turned, back):
            node.outputs[0].name, node.outputs[0].type = node.name, value.type
        model.graph.insert_after(maker, [turned, back])
        for reader in readers:
            reader.replace_input_with(0, back.outputs[0])


def _is_2d(conv: ir.Node) -> bool:
    weight = conv.inputs[1]
    dequantize = weight.producer() if weight is not None else None
    stored = dequantize.inputs[0] if dequantize is not None else weight
    return stored is not None and stored.const_value is not None and len(stored.const_value.shape) == 4
