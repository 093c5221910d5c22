"""Import of foreign ONNX files, from a path to a graph for surgery."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from edgeexit.errors import ModelError, first_line
from edgeexit_exporters.onnx import graph, measure
from edgeexit_exporters.onnx.files import all_nodes, load_proto
from edgeexit_exporters.onnx.foreign import Adapted, adapt
from edgeexit_exporters.onnx.names import rename_ours

_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"}
"""Whose operations onnxruntime has."""


@dataclass(frozen=True)
class ForeignModel:
    """An ONNX file of somebody else's."""

    model: ir.Model
    """For surgery."""
    original: onnx.ModelProto
    """As it was in the file, with all weights inside: what answers are compared with."""
    adapted: Adapted

    @property
    def notes(self) -> list[str]:
        return self.adapted.notes


def read(path: Path | str, keep: Collection[str] = ()) -> ForeignModel:
    """Read an ``.onnx`` file.

    Whether a file is valid is for onnxruntime to say, which runs it later: onnx's own checker refuses many files that
    run, and is asked only why one does not.

    Args:
        path: the file.
        keep: tensors that keep their names, whatever they are called.

    Raises:
        ModelError: see `load_proto`, `adapt` and `onnx_graph.prepare`; or onnxruntime cannot load it.
    """
    path = Path(path)
    original = load_proto(path)
    proto = onnx.ModelProto()
    proto.CopyFrom(original)
    adapted = adapt(proto, str(path))
    _refuse_unrunnable(proto, path)
    outputs = len(proto.graph.output)
    produced = {name for node in proto.graph.node for name in node.output} - {o.name for o in proto.graph.output}
    # What an exit is read from stays, though no output of the file may need it.
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in sorted(produced & {*keep}))
    model = graph.prepare(proto, str(path))
    while len(model.graph.outputs) > outputs:
        model.graph.outputs.pop()
    rename_ours(model.graph, {*keep, *(v.name or "" for v in (*model.graph.inputs, *model.graph.outputs))})
    return ForeignModel(model, original, adapted)


def _refuse_unrunnable(proto: onnx.ModelProto, path: Path) -> None:
    try:
        raw = proto.SerializeToString()
    except Exception as e:  # protobuf: 2 GiB, or text that is none
        raise ModelError(f"{path}: cannot be held in one ONNX file: {first_line(e)}") from e
    try:
        measure.session(raw, level="BASIC", quiet=True)
    except ModelError as e:
        raise ModelError(f"{path}: not a valid ONNX model: {e}{_complaint(proto)}{_custom(proto)}") from e


def _custom(proto: onnx.ModelProto) -> str:
    """What to know of operations that are nobody's but the file's."""
    own = {(f.domain, f.name) for f in proto.functions}
    foreign = {(n.domain, n.op_type) for n in all_nodes(proto)} - own
    names = sorted(f"{domain}:{kind}" for domain, kind in foreign if domain not in _DOMAINS)
    if not names:
        return ""
    return f"; it has operations that are no part of ONNX ({', '.join(names[:4])}): export the model without them"


def _complaint(proto: onnx.ModelProto) -> str:
    """What onnx's checker says of a model that onnxruntime refuses."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            onnx.checker.check_model(proto)
    except Exception as e:
        return f"; onnx's checker: {first_line(e)}"
    return ""
