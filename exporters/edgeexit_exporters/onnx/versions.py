"""IR versions of generated ONNX graphs: the lowest that has all they use, whatever their source's file stated."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

LOWEST = 8
"""Older ones list weights among the inputs, or lack what nested graphs need; onnxruntime reads 8 since 1.10."""
_TYPES = {
    "FLOAT8E4M3FN": 9, "FLOAT8E4M3FNUZ": 9, "FLOAT8E5M2": 9, "FLOAT8E5M2FNUZ": 9, "INT4": 10, "UINT4": 10,
    "FLOAT4E2M1": 11, "FLOAT8E8M0": 12, "INT2": 13, "UINT2": 13,
}  # fmt: skip
"""Types that came with a later version."""


def ir_version(model: ir.Model) -> int:
    """The IR version that a model needs by its opsets and the types of its values."""
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in model.graph.opset_imports.items()]
    by_opset = int(onnx.helper.find_min_ir_version_for(opsets, ignore_unknown=True)) if opsets else LOWEST
    by_type = max((_TYPES.get(v.dtype.name, LOWEST) for v in _values(model.graph) if v.dtype is not None), default=0)
    return max(LOWEST, by_opset, by_type)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    for inner in (graph, *graph.subgraphs()):
        yield from inner.inputs
        yield from inner.initializers.values()
        for node in inner:
            yield from node.outputs
