"""Counts of int8 kernels in the graph that onnxruntime makes of each file, stage by stage.

A quantised file that is not fused runs in float with roundings between: the answers of int8 at more than the cost of
float, and nobody says so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from edgeexit.bundle.layouts import LAYOUTS
from edgeexit.errors import ModelError
from edgeexit_exporters.onnx import measure

QUANTIZED = {
    "QLinearConv", "ConvInteger", "QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention",
}  # fmt: skip
"""Operations of int8 kernels; those of onnxruntime's own domain included."""
FLOAT = {
    "Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul",
    "TransposeMatMul", "GemmFastGelu", "Einsum", "LSTM", "GRU", "RNN", "Attention", "MultiHeadAttention",
}  # fmt: skip
"""The same in float."""
_DECISION = "edgeexit_decision_"


@dataclass(frozen=True)
class Kernels:
    """Of one stage (layouts fused and chain) or of everything up to one exit (prefix)."""

    quantized: int
    """Convolutions and products that run in int8."""
    compute: int
    """All of them."""
    floating: tuple[str, ...] = ()
    """Names of those that run in float."""


def count_kernels(layout: str, files: Mapping[str, bytes]) -> tuple[Kernels, ...]:
    """Load a layout's files into onnxruntime and count, in the graphs that it runs, what runs in int8.

    Args:
        layout: fused, chain, prefix or all.
        files: as `layouts.build` gives them.

    Returns:
        One entry per stage (fused, chain), per exit (prefix), or one for everything (all).

    Raises:
        ModelError: onnxruntime cannot load a file.
    """
    counts: list[Kernels] = []
    with tempfile.TemporaryDirectory(prefix="edgeexit-") as folder:
        for name, raw in files.items():
            Path(folder, name).write_bytes(raw)
        for name in (n for n in files if n.endswith(".onnx")):
            optimized = Path(folder, f"{name}.optimized")
            # Not ALL: int8 kernels are chosen by then, and the nodes still have the names that a user can exclude.
            measure.session(str(Path(folder, name)), optimized=str(optimized), level="EXTENDED")
            graph = onnx.load(optimized).graph
            counts += _by_decision(graph) if LAYOUTS[layout].scored else [_count(_all_nodes(graph))]
    return tuple(counts)


def check_kernels(artifact: str, kernels: Sequence[Kernels], kept: Sequence[str] = ()) -> None:
    """Refuse an artifact of which something runs in float that was not kept in float on purpose.

    Args:
        artifact: named in the message.
        kernels: of its stages or exits.
        kept: names of nodes that may run in float.

    Raises:
        ModelError: names the stage and the node.
    """
    for k, stage in enumerate(kernels):
        left = [n for n in stage.floating if not any(is_node(n, name) for name in kept)]
        if left:
            raise ModelError(
                f"{artifact}: stage {k} was left in float: {stage.quantized} of {stage.compute} convolutions, products "
                f"and recurrences run in int8, not {', '.join(repr(n) for n in left[:4])}. onnxruntime has no int8 "
                "kernel for it here: leave it in float knowingly (exclude it by that name: --keep-float), or export "
                "this network in float"
            )


def is_node(node: str, name: str) -> bool:
    """Whether a node of the graph that runs was the node `name`: onnxruntime's fusions add to names."""
    return node == name or node.startswith((f"{name}/", f"{name}_token_"))


def _by_decision(graph: onnx.GraphProto) -> list[Kernels]:
    """Stage 0 stands at the top, stage k + 1 in the else branch of decision k."""
    decisions = [n for n in graph.node if n.op_type == "If" and n.name.startswith(_DECISION)]
    counts = [_count(n for n in _all_nodes(graph, but=decisions))]
    for decision in decisions:
        branches = {a.name: a.g for a in decision.attribute}
        counts += _by_decision(branches["else_branch"])
    return counts


def _all_nodes(graph: onnx.GraphProto, but: Sequence[onnx.NodeProto] = ()) -> list[onnx.NodeProto]:
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if any(node is b for b in but):
            continue
        nodes.append(node)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                nodes += _all_nodes(inner)
    return nodes


def _count(nodes: Iterable[onnx.NodeProto]) -> Kernels:
    ours = [n for n in nodes if n.op_type in QUANTIZED | FLOAT]
    floating = tuple(n.name or n.output[0] for n in ours if n.op_type in FLOAT)
    return Kernels(len(ours) - len(floating), len(ours), floating)
