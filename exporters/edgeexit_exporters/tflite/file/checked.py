"""Checks of a parsed .tflite: every index names something, and every weight has its size."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from edgeexit.errors import BundleError

MAX_RANK = 16
MAX_DEPTH = 64
"""Control flow inside control flow."""
_MAX_ELEMENTS = 2**40
_VERSION = 3
ITEM_BITS = {
    0: 32, 1: 16, 2: 32, 3: 8, 4: 64, 6: 8, 7: 16, 8: 64, 9: 8, 10: 64, 11: 128, 12: 64, 15: 32, 16: 16, 17: 4, 18: 16,
}  # fmt: skip
"""Bits of one element by `TensorType`; texts, resources and variants have no fixed size."""
SUBGRAPHS = ("thenSubgraphIndex", "elseSubgraphIndex", "condSubgraphIndex", "bodySubgraphIndex", "initSubgraphIndex")
"""Fields of operator options that name a subgraph."""


def indices(values: Any) -> list[int]:
    """A vector of the object tree, which may be missing, a list or an array."""
    return [] if values is None else [int(v) for v in values]


def shape(tensor: Any) -> tuple[int, ...]:
    return tuple(indices(tensor.shape))


def text(value: Any) -> str:
    """A name of the object tree: bytes when read, text when made here; missing is empty.

    Raises:
        BundleError: not UTF-8.
    """
    if value is None or isinstance(value, str):
        return value or ""
    try:
        return bytes(value).decode()
    except UnicodeDecodeError as e:
        raise BundleError(f"damaged .tflite file: the name {bytes(value)[:40]!r} is not UTF-8") from e


def byte_size(tensor: Any) -> int | None:
    """Bytes of a tensor's elements; None where its type has no fixed size."""
    bits = ITEM_BITS.get(tensor.type)
    return None if bits is None else (math.prod(shape(tensor)) * bits + 7) // 8


def called(operator: Any) -> list[int]:
    """Subgraphs that an operator (IF, WHILE, CALL_ONCE) runs."""
    options = operator.builtinOptions
    return [getattr(options, name) for name in SUBGRAPHS if hasattr(options, name)]


def check(model: Any, size: int) -> None:
    """Walk the whole tree once.

    Args:
        model: the schema's `ModelT`.
        size: bytes of the file; the vectors of an honest file are not larger together.

    Raises:
        BundleError: naming the first thing that does not hold.
    """
    if model.version != _VERSION:
        raise _damaged(f"schema version {model.version}, known: {_VERSION}")
    if not model.subgraphs:
        raise _damaged("no subgraph")
    model.buffers = model.buffers or []
    model.operatorCodes = model.operatorCodes or []
    _buffers(model, size)
    left = size // 2  # indices take 4 bytes each; a little sharing is fine
    for i, graph in enumerate(model.subgraphs):
        graph.tensors, graph.operators = graph.tensors or [], graph.operators or []
        left -= sum(_length(v) for v in (graph.inputs, graph.outputs))
        left -= sum(_length(v) for o in graph.operators for v in (o.inputs, o.outputs, o.intermediates))
        left -= sum(_length(v) for t in graph.tensors for v in (t.shape, t.shapeSignature))
        if left < 0:
            raise _damaged("its lists are longer than the file")
        _tensors(model, graph, i)
        _operators(model, graph, i)
    _nesting(model)
    _signatures(model)
    for entry in model.metadata or []:
        text(entry.name)
        _inside([entry.buffer], len(model.buffers), "a metadata buffer")


def _damaged(what: str) -> BundleError:
    return BundleError(f"damaged .tflite file: {what}")


def _length(values: Any) -> int:
    return 0 if values is None else len(values)


def _inside(numbers: Iterable[int], count: int, what: str, lowest: int = 0) -> None:
    for index in numbers:
        if not lowest <= index < count:
            raise _damaged(f"{what} is number {index} of {count}")


def _buffers(model: Any, size: int) -> None:
    if sum(_length(b.data) for b in model.buffers) > size:
        raise _damaged("its buffers are larger than the file")
    if any(b.offset > 1 or b.size > 1 for b in model.buffers):
        raise BundleError("the .tflite file keeps weights behind the flatbuffer, as files over 2 GB do; not supported")


def _tensors(model: Any, graph: Any, i: int) -> None:
    for j, tensor in enumerate(graph.tensors):
        where = f"tensor {j} of subgraph {i}"
        text(tensor.name)
        _inside([tensor.buffer], len(model.buffers), f"the buffer of {where}")
        if _length(tensor.shape) > MAX_RANK or _length(tensor.shapeSignature) > MAX_RANK:
            raise _damaged(f"{where} has more than {MAX_RANK} axes")
        axes = shape(tensor)
        if any(a < 0 for a in axes) or math.prod(axes) > _MAX_ELEMENTS:
            raise _damaged(f"{where} has shape {list(axes)}")
        held, needed = _length(model.buffers[tensor.buffer].data), byte_size(tensor)
        if held and needed is not None and held != needed:
            raise _damaged(f"{where} of shape {list(axes)} needs {needed} bytes, its buffer has {held}")
        q = tensor.quantization
        if q is not None and _length(q.scale):
            _quantization(q, axes, where)


def _quantization(q: Any, axes: tuple[int, ...], where: str) -> None:
    scales, zeros = _length(q.scale), _length(q.zeroPoint)
    if zeros not in (0, 1, scales):
        raise _damaged(f"{where} has {scales} scales and {zeros} zero points")
    if scales > 1 and not (0 <= q.quantizedDimension < len(axes) and axes[q.quantizedDimension] == scales):
        raise _damaged(f"{where} of shape {list(axes)} has {scales} scales along axis {q.quantizedDimension}")
    if not all(math.isfinite(s) and s >= 0 for s in map(float, q.scale)):
        raise _damaged(f"{where} has a scale that is negative, infinite or NaN")


def _operators(model: Any, graph: Any, i: int) -> None:
    count = len(graph.tensors)
    _inside(indices(graph.inputs), count, f"an input of subgraph {i}")
    _inside(indices(graph.outputs), count, f"an output of subgraph {i}")
    text(graph.name)
    ready = set(indices(graph.inputs))
    ready |= {j for j, t in enumerate(graph.tensors) if t.isVariable or _length(model.buffers[t.buffer].data)}
    ready |= {j for j, t in enumerate(graph.tensors) if 0 in shape(t)}
    for j, operator in enumerate(graph.operators):
        where = f"operator {j} of subgraph {i}"
        _inside([operator.opcodeIndex], len(model.operatorCodes), f"the code of {where}")
        _inside(indices(operator.inputs), count, f"an input of {where}", lowest=-1)
        _inside(indices(operator.outputs), count, f"an output of {where}")
        _inside(indices(operator.intermediates), count, f"an intermediate of {where}")
        for kind, options in (
            (operator.builtinOptionsType, operator.builtinOptions),
            (operator.builtinOptions2Type, operator.builtinOptions2),
        ):
            if kind and options is None:
                raise _damaged(f"{where} has options of type {kind}, which this schema does not know or does not find")
        early = [t for t in indices(operator.inputs) if t >= 0 and t not in ready]
        if early:
            raise _damaged(f"{where} reads tensor {early[0]} before anything makes it")
        ready.update(indices(operator.outputs))
    for code in model.operatorCodes:
        text(code.customCode)


def _nesting(model: Any) -> None:
    """Control flow names subgraphs that exist, never one it is inside of, and is not too deep."""
    calls = [sorted({c for o in g.operators for c in called(o)}) for g in model.subgraphs]
    for i, callees in enumerate(calls):
        _inside(callees, len(calls), f"a subgraph called from subgraph {i}")
    depth: dict[int, int] = {}

    def measure(i: int, above: int) -> int:
        if above > MAX_DEPTH:
            raise _damaged(f"control flow is nested deeper than {MAX_DEPTH}, or calls itself")
        if i not in depth:
            depth[i] = 1 + max((measure(c, above + 1) for c in calls[i]), default=0)
        return depth[i]

    if max(measure(i, 0) for i in range(len(calls))) > MAX_DEPTH:
        raise _damaged(f"control flow is nested deeper than {MAX_DEPTH}")


def _signatures(model: Any) -> None:
    model.signatureDefs = model.signatureDefs or []
    seen: set[str] = set()
    for signature in model.signatureDefs:
        name = text(signature.signatureKey)
        if name in seen:
            raise _damaged(f"two signatures are named {name!r}")
        seen.add(name)
        _inside([signature.subgraphIndex], len(model.subgraphs), f"the subgraph of signature {name!r}")
        graph = model.subgraphs[signature.subgraphIndex]
        for what, entries, real in (
            ("input", signature.inputs, graph.inputs),
            ("output", signature.outputs, graph.outputs),
        ):
            names = [text(e.name) for e in entries or []]
            if len(set(names)) != len(names):
                raise _damaged(f"two {what}s of signature {name!r} have one name")
            if any(e.tensorIndex not in set(indices(real)) for e in entries or []):
                raise _damaged(f"an {what} of signature {name!r} is no {what} of its subgraph")
