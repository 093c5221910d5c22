"""Signatures of a .tflite file and their tensors, read from its object tree; and one signature as a tree of its own."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from typing import Any

from edgeexit.errors import ModelError
from edgeexit_exporters.tflite.file.checked import SUBGRAPHS, called, indices, shape, text
from edgeexit_exporters.tflite.file.flatbuffer import Model, schema

DTYPES = {
    0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 9: "int8", 10: "float64",
    12: "uint64", 15: "uint32", 16: "uint16",
}  # fmt: skip
"""numpy's name by `TensorType`."""
_OPS = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
KEPT_METADATA = "min_runtime_version"
"""The one metadata entry that still holds for a part of a file."""


@dataclass(frozen=True)
class Tensor:
    """One input or output of a signature."""

    name: str
    index: int
    """Its place in the subgraph's tensors."""
    dtype: str
    shape: tuple[int, ...]
    """Sizes; an axis the file leaves free is -1."""
    scale: float | None
    """real = scale * (stored - zero_point); None where the tensor is not quantized."""
    zero_point: int | None


@dataclass(frozen=True)
class Signature:
    """A named entry point."""

    name: str
    subgraph: int
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


def tensor(graph: Any, index: int, name: str) -> Tensor:
    """Describe one tensor of a subgraph."""
    entry = graph.tensors[index]
    q = entry.quantization
    scales = [] if q is None or q.scale is None else list(q.scale)
    one = len(scales) == 1
    zero = 0 if not one or q.zeroPoint is None or len(q.zeroPoint) == 0 else int(q.zeroPoint[0])
    axes = tuple(indices(entry.shapeSignature)) or shape(entry)
    dtype = DTYPES.get(entry.type, f"type {entry.type}")
    return Tensor(name, index, dtype, axes, float(scales[0]) if one else None, zero if one else None)


def signatures(model: Model) -> dict[str, Signature]:
    """The signatures of a file by name, in the file's order."""
    by_name = {}
    for s in model.signatureDefs:
        graph = model.subgraphs[s.subgraphIndex]
        sides = [
            {text(e.name): tensor(graph, e.tensorIndex, text(e.name)) for e in entries or []}
            for entries in (s.inputs, s.outputs)
        ]
        by_name[text(s.signatureKey)] = Signature(text(s.signatureKey), s.subgraphIndex, *sides)
    return by_name


def signature(model: Model, name: str) -> Signature:
    """One signature.

    Raises:
        ModelError: there is none of that name.
    """
    by_name = signatures(model)
    if name not in by_name:
        raise ModelError(f"the .tflite file has no signature {name!r}; it has {', '.join(by_name) or 'none'}")
    return by_name[name]


def op_name(code: Any) -> str:
    """`CONV_2D` and the like; a custom operator's own name."""
    number = max(code.builtinCode, code.deprecatedBuiltinCode)  # old files fill only the deprecated field
    custom = number == schema.BuiltinOperator.CUSTOM
    return text(code.customCode) if custom else _OPS.get(number, f"operator {number}")


def op_counts(model: Model, subgraph: int) -> dict[str, int]:
    """How often each operator stands in a subgraph, by name in alphabetical order."""
    operators = model.subgraphs[subgraph].operators
    return dict(sorted(Counter(op_name(model.operatorCodes[o.opcodeIndex]) for o in operators).items()))


def reached(model: Model, subgraph: int) -> list[int]:
    """The subgraph and those its control flow runs, in the file's order."""
    reached, todo = set(), [subgraph]
    while todo:
        i = todo.pop()
        if i not in reached:
            reached.add(i)
            todo.extend(c for o in model.subgraphs[i].operators for c in called(o))
    return sorted(reached)


def part(model: Model, name: str) -> Model:
    """One signature with what it uses; weights are shared with `model`, everything else is a copy.

    Raises:
        ModelError: it has no such signature.
    """
    wanted = signature(model, name)
    kept = reached(model, wanted.subgraph)
    kept.remove(wanted.subgraph)
    kept.insert(0, wanted.subgraph)  # engines without signatures run subgraph 0
    places = {old: new for new, old in enumerate(kept)}
    own = schema.ModelT(version=model.version, description=model.description, operatorCodes=[], buffers=[])
    own.subgraphs = [copy.deepcopy(model.subgraphs[i]) for i in kept]
    own.signatureDefs = [copy.deepcopy(s) for s in model.signatureDefs if text(s.signatureKey) == name]
    own.signatureDefs[0].subgraphIndex = 0
    own.metadata = [copy.copy(m) for m in model.metadata or [] if text(m.name) == KEPT_METADATA] or None
    for graph in own.subgraphs:
        for operator in graph.operators:
            for field in SUBGRAPHS:
                if hasattr(operator.builtinOptions, field):
                    setattr(operator.builtinOptions, field, places[getattr(operator.builtinOptions, field)])
    compact(own, model.operatorCodes, model.buffers)
    return own


def compact(model: Model, codes: list[Any], buffers: list[Any]) -> None:
    """Number operator codes and buffers anew, in the order of their first use; buffer 0 is the empty one.

    Args:
        model: its operators and tensors hold numbers in `codes` and `buffers`; `codes` and `buffers` of its own are
            replaced.
    """
    new_codes: dict[int, int] = {}
    new_buffers: dict[int, int] = {}
    model.buffers = [schema.BufferT()]
    model.operatorCodes = []

    def buffer(old: int) -> int:
        if buffers[old].data is None or len(buffers[old].data) == 0:
            return 0
        if old not in new_buffers:
            new_buffers[old] = len(model.buffers)
            model.buffers.append(buffers[old])
        return new_buffers[old]

    for graph in model.subgraphs:
        for t in graph.tensors:
            t.buffer = buffer(t.buffer)
        for operator in graph.operators:
            if operator.opcodeIndex not in new_codes:
                new_codes[operator.opcodeIndex] = len(model.operatorCodes)
                model.operatorCodes.append(codes[operator.opcodeIndex])
            operator.opcodeIndex = new_codes[operator.opcodeIndex]
    for entry in model.metadata or []:
        entry.buffer = buffer(entry.buffer)
