"""Sensitivity of exits to layers: the error of every exit with one layer alone in int8."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeexit.engine.inputs import InputCheck, data_inputs
from edgeexit.errors import ModelError
from edgeexit_exporters.int8.quantize import prepared
from edgeexit_exporters.onnx import measure, pieces, serialize
from edgeexit_exporters.onnx.graph import COMPUTE, constant
from edgeexit_exporters.source.inputs import batch_kind
from edgeexit_exporters.source.join import join
from edgeexit_exporters.source.source import Source

Arrays = Mapping[str, NDArray[Any]]
_BATCH = 64


@dataclass(frozen=True)
class LayerSensitivity:
    """What quantising one operation alone does to every exit."""

    node: str
    operation: str
    errors: tuple[float, ...]
    """`(exits,)` root mean square of the difference to the float answers, over that of those; 0 = no part of it."""


def layer_sensitivity(
    source: Source,
    quantized: Source,
    data: Arrays,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[LayerSensitivity, ...]:
    """Quantise one convolution or product at a time, inputs and weights, and see what every exit says; worst first.

    The rest stays float, so that an error has one cause, and one run of the network per layer is enough: scales are
    those of the whole quantised network. Where a layer stands out, exclude it (`quantize(exclude=...)`).

    Args:
        source: the float network.
        quantized: what `quantize` made of it, with precision "int8".
        data: rows by input name, or ``x``.
        progress: called with each layer's name.

    Raises:
        ModelError: not an int8 network.
        DataError: rows that do not fit.
    """
    if quantized.quantized is None or quantized.quantized.precision != "int8":
        raise ModelError("layers are compared for int8 networks with fixed ranges; quantise with precision int8")
    rows = _rows(source, data)
    model = prepared(source)
    join(model, source.joint.raw, source.joint.kinds)
    expected = _answers(model, source, rows)
    rounded = {n.name: n for n in quantized.model.graph if n.op_type in COMPUTE}
    results = []
    for node in [n for n in model.graph if n.op_type in COMPUTE and n.name in rounded]:
        given = list(node.inputs)
        added = _round_inputs(model.graph, node, rounded[node.name])
        if not added:
            continue
        progress(f"layer {node.name}")
        answers = _answers(model, source, rows)
        for k, value in enumerate(given):
            node.replace_input_with(k, value)
        model.graph.remove(added, safe=True)
        errors = tuple(_rms(answers[e.answer], expected[e.answer]) for e in source.exits)
        results.append(LayerSensitivity(node.name or "", node.op_type, errors))
    return tuple(sorted(results, key=lambda layer: -max(layer.errors)))


def _rows(source: Source, data: Arrays) -> dict[str, NDArray[Any]]:
    specs = [i.tensor for i in source.inputs]
    rows = data_inputs(data, specs, "evaluation data")
    InputCheck(specs).many(rows)
    return rows


def _answers(model: ir.Model, source: Source, rows: Arrays) -> dict[str, NDArray[Any]]:
    """All exits' answers, in batches where the network takes them."""
    names = [e.answer for e in source.exits]
    session = measure.session(serialize.to_bytes(pieces.all_exits(model, names), "the network"))
    dynamic = any(n.op_type == "DynamicQuantizeLinear" for n in model.graph)
    size = _BATCH if batch_kind(source.inputs) == "dynamic" and not dynamic else 1
    count = len(next(iter(rows.values())))
    parts = [measure.run(session, {n: a[i : i + size] for n, a in rows.items()}) for i in range(0, count, size)]
    return {n: np.concatenate([p[n] for p in parts]) for n in names}


def _round_inputs(graph: ir.Graph, node: ir.Node, rounded: ir.Node) -> list[ir.Node]:
    """Give a float node the rounded inputs that its twin in the quantised network has; the nodes added."""
    added: list[ir.Node] = []
    for k, (value, twin) in enumerate(zip(node.inputs, rounded.inputs, strict=False)):
        dequantize = twin.producer() if twin is not None else None
        if value is None or dequantize is None or dequantize.op_type != "DequantizeLinear":
            continue
        held = [v.const_value.numpy() for v in dequantize.inputs if v is not None and v.const_value is not None]
        chain: list[ir.Node] = []
        if len(held) == len(dequantize.inputs):  # weights: as they are stored
            inputs = [constant(f"edgeexit_layer_{k}_{i}", array) for i, array in enumerate(held)]
        else:
            scale = [constant(f"edgeexit_layer_{k}_{i}", array) for i, array in enumerate(held[-2:])]
            chain.append(ir.node("QuantizeLinear", [value, *scale], name=f"edgeexit_layer_{k}_quantize"))
            chain[0].outputs[0].name = f"edgeexit_layer_{k}_rounded"
            inputs = [chain[0].outputs[0], *scale]
        chain.append(ir.node("DequantizeLinear", inputs, attributes=dequantize.attributes, name=f"edgeexit_layer_{k}"))
        chain[-1].outputs[0].name = f"edgeexit_layer_{k}_given"
        for v in {v for n in chain for v in n.inputs if v is not None and v.const_value is not None}:
            graph.initializers[v.name or ""] = v
        graph.insert_before(node, chain)
        node.replace_input_with(k, chain[-1].outputs[0])
        added += chain
    return added


def _rms(values: NDArray[Any], expected: NDArray[Any]) -> float:
    difference, size = values.astype(np.float64) - expected, expected.astype(np.float64)
    return float(np.sqrt((difference**2).mean() / max((size**2).mean(), 1e-12)))
