"""Weights of 8 and 4 bits by onnxruntime's own quantizers, and a count of what they left alone."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import onnx_ir as ir

from edgeexit.errors import BackendMissing, ModelError, first_line
from edgeexit_exporters.int8.quantize import quiet
from edgeexit_exporters.onnx import serialize
from edgeexit_exporters.onnx.graph import prepare

BLOCK = 32
"""Weights that share a scale. Not more: with 32, onnxruntime 1.32 computes every row of a block of tokens bit for bit
as alone (x86-64 with AVX-512 VNNI, activations of 8 bits); with 128, roundings differ by 1e-6, which thirty layers made
a 2.5 of in the logits."""


@dataclass(frozen=True)
class Precision:
    """How the weights of products are kept and used."""

    bits: int
    floating: bool = False
    """Products in float32; else activations are rounded to 8 bits block by block, which is faster."""
    dynamic: bool = False
    """`quantize_dynamic`: one scale per output channel, and activations rounded with one scale for all tokens."""

    @property
    def operation(self) -> str:
        """What a product becomes."""
        return "MatMulInteger" if self.dynamic else "MatMulNBits"


PRECISIONS = {
    "fp32": None,
    "int8": Precision(8),
    "int4": Precision(4),
    "int8-float": Precision(8, floating=True),
    "int4-float": Precision(4, floating=True),
    "int8-dynamic": Precision(8, dynamic=True),
}


def head_precision(precision: Precision) -> Precision:
    """Heads keep 8 bits, as in other tools' 4-bit models: on SmolLM2-135M the most probable token was the float
    model's in 60 % of 128 with it, in 52 % without, for a tenth more bytes."""
    return replace(precision, bits=max(8, precision.bits))


def quantized(model: ir.Model, precision: Precision, name: str) -> ir.Model:
    """A graph whose products with weights all run on quantized weights.

    Args:
        model: with such products as MatMul; `graphs.Graphs` makes them so.
        precision: one of `PRECISIONS`.
        name: of the file, for messages.

    Raises:
        ModelError: the quantizer fails, or leaves a product in float (it does so without a word).
        BackendMissing: this onnxruntime has no such quantizer.
    """
    products = _products(model.graph)
    if other := [n for n in model.graph if n.op_type == "Gemm"]:
        raise ModelError(f"{name}: product {other[0].name!r} is a Gemm, which onnxruntime's quantizer leaves in float")
    model = model.clone()
    _separate(model.graph)
    proto = ir.to_proto(model)
    with quiet():
        try:
            converted = _dynamic(proto) if precision.dynamic else _blocks(proto, precision)
        except ImportError as e:
            raise BackendMissing(
                f"{name}: quantizing weights needs onnxruntime 1.22 or later with its quantizers ({e}): "
                "pip install -U onnxruntime onnx"
            ) from e
        except Exception as e:
            raise ModelError(f"{name}: onnxruntime cannot quantize it: {first_line(e)[:200]}") from e
    result = prepare(converted, name)
    count = sum(n.op_type == precision.operation for n in result.graph)
    if left := _products(result.graph):
        raise ModelError(
            f"{name}: {count} of {len(products)} products were quantized, not {', '.join(map(repr, left[:4]))}"
        )
    if count != len(products):
        raise ModelError(f"{name}: {count} quantized products, expected {len(products)}")
    for old in [n for n in result.graph.initializers if n.startswith("val_") or n.startswith("const")]:
        value = result.graph.initializers.pop(old)
        value.name = f"{name}.{old}"
        result.graph.register_initializer(value)
    serialize.strip_shapes(result.graph, [*result.graph.inputs, *result.graph.outputs])
    done = serialize.finish(result, result.graph)
    return done


def _products(graph: ir.Graph) -> list[str]:
    """Products of an activation and weights, by name."""
    return [
        n.name or ""
        for n in graph
        if n.op_type in ("MatMul", "Gemm") and any(v is not None and v.is_initializer() for v in n.inputs[:2])
    ]


def _separate(graph: ir.Graph) -> None:
    """Give every product weights of its own: the quantizers write those of two products twice, under one name."""
    for name, value in [*graph.initializers.items()]:
        others = [use for use in value.uses() if use.node.op_type == "MatMul" and use.idx == 1][1:]
        for i, use in enumerate(others, 2):
            copy = ir.Value(name=f"{name}~q{i}", type=value.type, shape=value.shape, const_value=value.const_value)
            graph.register_initializer(copy)
            use.node.replace_input_with(use.idx, copy)


def _blocks(proto: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    config = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK, is_symmetric=True, accuracy_level=1 if precision.floating else 4, bits=precision.bits
    )
    logger = logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer")  # it has a level of its own
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        quantizer = MatMulNBitsQuantizer(proto, algo_config=config)
        quantizer.process()
    finally:
        logger.setLevel(level)
    blocks: onnx.ModelProto = quantizer.model.model
    return blocks


def _dynamic(proto: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(prefix="edgeexit-") as folder:
        given, out = Path(folder, "float.onnx"), Path(folder, "quantized.onnx")
        onnx.save(proto, given)
        quantize_dynamic(given, out, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8)
        return onnx.load(out)
