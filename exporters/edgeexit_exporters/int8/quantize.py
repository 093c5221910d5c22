"""Quantization of ONNX networks to int8: the whole network first, then cut into stages.

onnxruntime quantises no body of an `If`, so a fused graph cannot be quantised; and stages quantised one by one would
meet with different scales. Activations are uint8, weights int8 per output channel: with int8 activations onnxruntime
leaves convolutions in float on x86-64 (`session.qdqisint8allowed` is off there), while uint8 fuses there and on ARM,
and the answers are the same, as only the zero point moves.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
from numpy.typing import NDArray

from edgeexit.errors import ModelError, first_line
from edgeexit_exporters.int8.calibration import CalibrationRows, calibration_rows
from edgeexit_exporters.int8.channels_last import channels_last_cuts
from edgeexit_exporters.int8.float_heads import float_heads, last_float_nodes
from edgeexit_exporters.int8.kernels import is_node
from edgeexit_exporters.int8.names import hide_names, restore_names
from edgeexit_exporters.onnx import measure, pieces, serialize
from edgeexit_exporters.onnx.graph import COMPUTE, prepare
from edgeexit_exporters.onnx.names import all_names, free_name
from edgeexit_exporters.source.input_roles import like_data
from edgeexit_exporters.source.join import join
from edgeexit_exporters.source.source import Quantized, Source
from edgeexit_exporters.spec import FORMATS

Arrays = Mapping[str, NDArray[Any]]
PRECISIONS = tuple(p for p in FORMATS["onnx"] if p != "fp32")
METHODS = ("percentile", "minmax", "entropy")
PERCENTILE = 99.999
"""Of an activation's values inside its range: drops single outliers only."""


def quantize(
    source: Source,
    data: Arrays | None = None,
    *,
    precision: str = "int8",
    method: str = "percentile",
    percentile: float = PERCENTILE,
    reduce_range: bool = False,
    exclude: Sequence[str] = (),
    progress: Callable[[str], None] = lambda text: None,
) -> Source:
    """Quantise a float network; every exit still answers in float32.

    Heads that end in a matrix product give it without rounding it to 8 bits, and a Softmax or Sigmoid at the end
    stays float, as does what joins several heads: scores need finer steps than 1/255.

    Args:
        source: of float32 weights; left as it is.
        data: calibration rows by input name, see `calibration_rows`; None for int8-dynamic only.
        precision: "int8" (activations have fixed ranges, found from `data`), or "int8-dynamic" (ranges are found
            while it runs; for products with weights and LSTMs: its convolutions are slower than float ones).
        method: how ranges are found: "percentile", "minmax" (of all values), "entropy".
        percentile: of the values that stay inside the range, for method "percentile".
        reduce_range: weights of 7 bits: x86-64 processors with AVX2 but without VNNI add two products in 16 bits,
            which can overflow with 8.
        exclude: nodes that stay float, by name or by operation. What logarithms are taken of stays so in any case.
        progress: called with each step's name.

    Returns:
        A source whose reference is the quantised graph itself, run as one piece by onnxruntime. How far it is from
        the float network is what `refit` measures.

    Raises:
        ModelError: quantised already, not float32, nothing in it can be quantised, or an unknown word.
        DataError: see `calibration_rows`.
    """
    _check(source, precision, method, percentile)
    static = precision == "int8"
    if static and data is None:
        raise ModelError("int8 needs calibration rows (--data); int8-dynamic does without, and is slower")
    rows = calibration_rows(source.inputs, data) if static and data is not None else {}
    progress("preparing the network for int8")
    model = prepared(source)
    tensors = [n for e in source.joint.raw for n in e.tensors]
    kept = list(
        dict.fromkeys([*_kept(model, exclude), *_before_logarithms(model), *([] if static else _weightless(model))])
    )
    skipped = [*kept, *last_float_nodes(model, tensors)]
    if not any(n.op_type in COMPUTE and n.name not in skipped for n in model.graph):
        raise ModelError("nothing to quantise: the network has no convolution or matrix product that is not excluded")
    convolves = any(n.op_type == "Conv" and n.name not in skipped for n in model.graph)
    renamed = hide_names(model)
    feeds = {old: new for new, old in renamed.items()}
    progress(f"quantising to {precision}")
    with tempfile.TemporaryDirectory(prefix="edgeexit-") as folder, quiet():
        # By path: of a model in memory, onnxruntime moves the weights out, and does not bring them back.
        given, out = Path(folder, "float.onnx"), Path(folder, "quantised.onnx")
        given.write_bytes(serialize.to_bytes(model, "the network"))
        try:
            if static:
                fed = {feeds.get(n, n): a for n, a in rows.items()}
                _static(given, out, CalibrationRows(source.inputs, fed), skipped, method, percentile, reduce_range)
            else:
                _dynamic(given, out, skipped, reduce_range, convolves)
            proto = onnx.load(out)
        except Exception as e:
            raise ModelError(f"onnxruntime cannot quantise the network: {first_line(e)}") from e
    quantized = prepare(proto, "the quantised network")
    restore_names(quantized, renamed)
    float_heads(quantized, tensors)
    quantized = _tidy(quantized)
    raw = ir.to_proto(quantized)
    joint = join(quantized, source.joint.raw, source.joint.kinds, source.exits)
    if joint.kinds != source.joint.kinds or joint.exits != source.joint.exits:
        raise ModelError("the quantised network's exits came out otherwise than the float network's; name --outputs")

    if static:
        channels_last_cuts(quantized, joint.exits)

    def reference(arrays: Arrays) -> dict[str, NDArray[Any]]:
        return measure.all_values(raw, source.raw_tensors, arrays)

    note: dict[str, Any] = {"precision": precision, "reduce_range": reduce_range, "kept_float": list(kept)}
    if static:
        note |= {"method": method, "rows": len(next(iter(rows.values())))}
        note |= {"percentile": percentile} if method == "percentile" else {}
    return replace(
        source,
        inputs=like_data(source.inputs, rows),
        model=quantized,
        joint=joint,
        raw_reference=reference,
        provenance={**source.provenance, "quantization": note},
        quantized=Quantized(precision, tuple(kept)),
    )


def prepared(source: Source) -> ir.Model:
    """The float network as it is quantised: batch norms folded, MatMul and Add made Gemm, every node named.

    Its outputs are `Source.raw_tensors`, without what `join` added.

    Raises:
        ModelError: onnxruntime cannot run it.
    """
    raw = serialize.to_bytes(pieces.all_exits(source.model, source.raw_tensors), "the network")
    with tempfile.TemporaryDirectory(prefix="edgeexit-") as folder:
        out = Path(folder, "prepared.onnx")
        measure.session(raw, optimized=str(out), level="BASIC")
        proto = onnx.shape_inference.infer_shapes(onnx.load(out))
    model = prepare(proto, "the prepared network")
    _split_products(model.graph)
    return model


def _split_products(graph: ir.Graph) -> None:
    """Gemm that adds an activation becomes MatMul and Add again: int8 kernels add constants only."""
    taken = all_names(graph)
    for node in [n for n in graph if n.op_type == "Gemm" and len(n.inputs) > 2]:
        plain = all(a.name in ("alpha", "beta") and a.as_float() == 1 for a in node.attributes.values() if a.value)
        a, b, c = node.inputs[:3]
        if c is None or c.is_initializer() or not plain:
            continue
        product = ir.node("MatMul", [a, b], name=f"{node.name}_product")
        total = ir.node("Add", [product.outputs[0], c], name=f"{node.name}_sum")
        old, new = node.outputs[0], total.outputs[0]
        product.outputs[0].name = free_name(f"{old.name}_product", taken)
        product.outputs[0].type, product.outputs[0].shape = old.type, old.shape
        graph.insert_before(node, [product, total])
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        new.name, new.type, new.shape = old.name, old.type, old.shape


def _check(source: Source, precision: str, method: str, percentile: float) -> None:
    if precision not in PRECISIONS:
        raise ModelError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    if method not in METHODS:
        raise ModelError(f"unknown calibration method {method!r}; known: {', '.join(METHODS)}")
    if not 90 <= percentile <= 100:
        raise ModelError(f"percentile {percentile:g}: expected 90 to 100, e.g. {PERCENTILE}")
    for node in source.model.graph.all_nodes():
        if "Quantize" in node.op_type or "QLinear" in node.op_type or node.op_type.endswith("Integer"):
            raise ModelError(f"quantised already (node {node.name!r}, {node.op_type}); give the float network")
    for value in source.model.graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype.name in ("FLOAT16", "BFLOAT16", "DOUBLE"):
            name = value.const_value.dtype.name.lower()
            raise ModelError(f"int8 starts from a float32 network; weight {value.name!r} is {name}")


def _kept(model: ir.Model, exclude: Sequence[str]) -> list[str]:
    names = []
    for excluded in exclude:
        named = [n.name or "" for n in model.graph if excluded == n.op_type or is_node(excluded, n.name or "")]
        if not named:
            some = ", ".join(n.name or "" for n in model.graph if n.op_type in COMPUTE)
            raise ModelError(f"no node {excluded!r} to exclude; nodes that compute: {some[:300]}")
        names += named
    return list(dict.fromkeys(names))


def _before_logarithms(model: ir.Model) -> list[str]:
    """What leads to a logarithm that the network goes on from, as in spectral features: values span many decades
    there, and of 255 equal steps the lowest covers most of them. A logarithm at an answer's end is none of these."""
    graph = list(model.graph)
    computing = {n for n in graph if n.op_type in COMPUTE}
    deeper: set[ir.Node] = set()
    for node in reversed(graph):
        after = [user for value in node.outputs for user, _ in value.uses()]
        if any(user in computing or user in deeper for user in after):
            deeper.add(node)
    nodes: set[ir.Node] = set()
    for node in reversed(graph):
        after = [user for value in node.outputs for user, _ in value.uses()]
        if (node.op_type == "Log" and node in deeper) or any(user in nodes for user in after):
            nodes.add(node)
    return [n.name or "" for n in graph if n in nodes and n in computing]


def _weightless(model: ir.Model) -> list[str]:
    """Products of two activations: int8-dynamic shrinks weights, and these have none."""
    products = [n for n in model.graph if n.op_type in ("MatMul", "Gemm")]
    return [n.name or "" for n in products if not any(v is not None and v.is_initializer() for v in n.inputs[:2])]


def _static(
    given: Path, out: Path, rows: CalibrationRows, skipped: list[str], method: str, percentile: float, reduce: bool
) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    quantize_static(
        given,
        out,
        rows,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=reduce,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=skipped,
        calibrate_method={
            "percentile": CalibrationMethod.Percentile,
            "minmax": CalibrationMethod.MinMax,
            "entropy": CalibrationMethod.Entropy,
        }[method],
        # One batch at a time: else the calibrators hold every activation of every row at once.
        extra_options={"CalibStridedMinMax": 1, "CalibPercentile": percentile},
    )


def _dynamic(given: Path, out: Path, skipped: list[str], reduce: bool, convolves: bool) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # ConvInteger has a fast kernel for uint8 weights of one scale only.
    quantize_dynamic(
        given,
        out,
        op_types_to_quantize=["Conv", "MatMul", "LSTM"],
        per_channel=not convolves,
        reduce_range=reduce,
        weight_type=QuantType.QUInt8 if convolves else QuantType.QInt8,
        nodes_to_exclude=skipped,
    )


def _tidy(model: ir.Model) -> ir.Model:
    """Without what onnxruntime's passes leave behind: unused weights and domains, notes, shapes of one batch."""
    for step in (passes.RemoveUnusedNodesPass(), passes.RemoveUnusedOpsetsPass()):
        step(model)
    model.metadata_props.clear()
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """onnxruntime's quantisation prints its progress, and logs on the root logger."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().setLevel(level)
