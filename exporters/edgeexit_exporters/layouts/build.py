"""From stages to model files: the layouts `all`, `prefix` and `chain`; `fuse` makes `fused`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx_ir as ir

from edgeexit.bundle.manifest import ExitSpec
from edgeexit.errors import ModelError
from edgeexit_exporters.layouts import sherpa
from edgeexit_exporters.layouts.sherpa import Contract
from edgeexit_exporters.onnx.files import MAX_WEIGHT_BYTES
from edgeexit_exporters.onnx.graph import weight_bytes
from edgeexit_exporters.onnx.versions import LOWEST, ir_version
from edgeexit_exporters.source.source import Source
from edgeexit_exporters.stages import Stage

SHARED_WEIGHTS = "weights.bin"
SHARED_LEAST_BYTES = 1024
"""Smaller weights that two stages read are cheaper repeated than referenced."""
_ALIGN = 64


def build(
    layout: str,
    source: Source,
    stages: Sequence[Stage],
    exits: Sequence[ExitSpec],
    score: str,
    contract: Contract | None = None,
) -> dict[str, bytes]:
    """The files of one layout, models in order first, then weights that they share.

    Args:
        layout, source, stages, exits, score: what it is of.
        contract: for the prefix files of a speech model, those of sherpa-onnx.

    Raises:
        ModelError: the layout cannot hold this network.
    """
    from edgeexit_exporters.layouts.fuse import fused  # fuse stands on this module

    if layout == "chain":
        models = {f"stage_{k}.onnx": m for k, m in enumerate(chain(source.model, stages))}
    elif layout == "prefix":
        models = {f"exit_{k}.onnx": prefix(source.model, n) for k, n in enumerate(alone(stages))}
    elif layout == "fused":
        models = {"model.onnx": fused(source.model, stages, exits, score)}
    else:
        models = {"model.onnx": all_exits(source.model, source.tensors)}
    beside = {}
    if layout == "prefix" and contract is not None:
        for k, model in enumerate(models.values()):
            contract.dress(model, exits[k], k)
        beside[sherpa.TOKENS] = contract.tokens.encode()
    shared = share_weights(list(models.values())) if layout == "chain" else b""
    files = {name: to_bytes(m, f"{layout}/{name}") for name, m in models.items()}
    return {**files, **({SHARED_WEIGHTS: shared} if shared else {}), **beside}


def all_exits(model: ir.Model, tensors: Sequence[str]) -> ir.Model:
    """One file that computes every exit; for calibration only, it never stops early."""
    inputs = [v for v in model.graph.inputs if v.name]
    return _piece(model, [v.name or "" for v in inputs], tensors)


def alone(stages: Sequence[Stage]) -> list[tuple[str, ...]]:
    """What a network with one exit only gives, for every exit: its tensors, and the next values of states up to it."""
    return [
        tuple(dict.fromkeys((*stage.answers, *(n for s in stages[: k + 1] for n in s.carried))))
        for k, stage in enumerate(stages)
    ]


def prefix(model: ir.Model, exit: Sequence[str]) -> ir.Model:
    """One self-contained file for one exit's tensors: the static baseline."""
    graph = ir.convenience.extract(model.graph, list(model.graph.inputs), list(exit))
    used = {v for v in graph.inputs if v.uses()}
    for value in [v for v in graph.inputs if v not in used]:
        graph.inputs.remove(value)
    return finish(model, graph)


def chain(model: ir.Model, stages: Sequence[Stage]) -> list[ir.Model]:
    """One file per stage; the runtime decides between calls."""
    return [_piece(model, stage.inputs, stage.outputs) for stage in stages]


def share_weights(models: Sequence[ir.Model]) -> bytes:
    """Move weights that several files hold into one data file that all of them point to.

    Returns:
        The bytes of that file (`SHARED_WEIGHTS`); empty where nothing is shared.
    """
    count = Counter(v.name for m in models for v in m.graph.initializers.values())
    data = bytearray()
    placed: dict[str, ir.ExternalTensor] = {}
    for model in models:
        for value in model.graph.initializers.values():
            tensor, name = value.const_value, value.name
            if tensor is None or name is None or count[name] < 2 or tensor.nbytes < SHARED_LEAST_BYTES:
                continue
            if isinstance(tensor, ir.ExternalTensor):  # in a file of its own already
                continue
            if name not in placed:
                data.extend(b"\0" * (-len(data) % _ALIGN))
                placed[name] = ir.ExternalTensor(
                    SHARED_WEIGHTS,
                    len(data),
                    tensor.nbytes,
                    tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()),
                    name=name,
                )
                data.extend(tensor.tobytes())
            value.const_value = placed[name]
    return bytes(data)


def to_bytes(model: ir.Model, what: str) -> bytes:
    """Serialise, the same model to the same bytes.

    Raises:
        ModelError: the weights do not fit one file.
    """
    inside = sum(
        weight_bytes([v])
        for graph in (model.graph, *model.graph.subgraphs())
        for v in graph.initializers.values()
        if not isinstance(v.const_value, ir.ExternalTensor)
    )
    if inside > MAX_WEIGHT_BYTES:
        raise ModelError(f"{what}: {inside / 2**30:.1f} GiB of weights do not fit one ONNX file (less than 2 GiB)")
    raw: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return raw


def _piece(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> ir.Model:
    # An output that is also an input of the piece (an exit that only renames a cut) needs no node here.
    return finish(model, ir.convenience.extract(model.graph, list(inputs), list(outputs)))


def finish(source: ir.Model, graph: ir.Graph) -> ir.Model:
    """A model around a graph, in a form that serialises to the same bytes each time."""
    graph.name = "edgeexit"
    order = sorted(graph.initializers)  # extract() collects weights in a set: order them, or bytes differ
    weights = [graph.initializers.pop(name) for name in order]
    for value in weights:
        graph.register_initializer(value)
    for node in graph.all_nodes():
        node.metadata_props.clear()  # exporters leave source paths of their machine there
        node.doc_string = None
    graph.metadata_props.clear()
    graph.doc_string = None
    model = ir.Model(graph, ir_version=LOWEST, producer_name="edgeexit")
    model.ir_version = ir_version(model)
    return model


def strip_shapes(graph: ir.Graph, keep: Sequence[ir.Value]) -> None:
    """Forget the sizes of all values but `keep`: after an input's size changed, stale ones would mislead."""
    kept = set(keep)
    for node in graph.all_nodes():
        for value in node.outputs:
            if value not in kept:
                value.shape = None
