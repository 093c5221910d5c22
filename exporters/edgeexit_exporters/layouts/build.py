"""ONNX layouts: one row per layout says how its models are cut from the network and how they are run.

Other packages add rows through the entry-point group ``edgeexit.layouts.onnx``, named as their row in
``edgeexit.layouts``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnxruntime import InferenceSession

from edgeexit.bundle.layouts import LAYOUTS
from edgeexit.bundle.manifest import ExitSpec
from edgeexit.common.plugins import Table
from edgeexit.errors import ExportMismatch, ModelError
from edgeexit_exporters.analysis.answers import Arrays, SourceAnswer
from edgeexit_exporters.layouts import fuse, sherpa
from edgeexit_exporters.layouts.sherpa import Contract
from edgeexit_exporters.onnx import measure
from edgeexit_exporters.onnx.pieces import all_exits, alone, chain, prefix
from edgeexit_exporters.onnx.serialize import SHARED_WEIGHTS, share_weights, to_bytes
from edgeexit_exporters.source.source import Source
from edgeexit_exporters.stages import Stage

FUSED_SCORE = "score of the fused graph"
"""Beside the exit's tensors, any of which a network may call exit_score."""

Sessions = Sequence[InferenceSession]
Exits = Sequence[ExitSpec]
Outputs = Iterator[tuple[int, Arrays]]
"""Exit, and its tensors by name."""
Run = Callable[[Sessions, Exits, SourceAnswer], Outputs]


@dataclass(frozen=True)
class OnnxLayout:
    """How one layout looks in ONNX."""

    models: Callable[[Source, Sequence[Stage], Sequence[ExitSpec], str], dict[str, ir.Model]]
    """(source, stages, exits, score) -> models by file name, in order. Raises ModelError where it cannot hold them."""
    run: Run
    """(sessions of the files, exits, inputs) -> what every exit gives."""


def _fused(source: Source, stages: Sequence[Stage], exits: Sequence[ExitSpec], score: str) -> dict[str, ir.Model]:
    return {"model.onnx": fuse.fused(source.model, stages, exits, score)}


def _chain(source: Source, stages: Sequence[Stage], exits: Sequence[ExitSpec], score: str) -> dict[str, ir.Model]:
    return {f"stage_{k}.onnx": m for k, m in enumerate(chain(source.model, stages))}


def _prefix(source: Source, stages: Sequence[Stage], exits: Sequence[ExitSpec], score: str) -> dict[str, ir.Model]:
    return {f"exit_{k}.onnx": prefix(source.model, n) for k, n in enumerate(alone(stages))}


def _all(source: Source, stages: Sequence[Stage], exits: Sequence[ExitSpec], score: str) -> dict[str, ir.Model]:
    return {"model.onnx": all_exits(source.model, source.tensors)}


def _run_fused(sessions: Sessions, exits: Exits, answer: SourceAnswer) -> Outputs:
    """The fused graph forced to every exit. It names its outputs its own way and gives the uncertainty as a scalar."""
    if answer.batch != 1:  # one input per call is the contract
        return
    for k, exit in enumerate(exits):
        thresholds = np.full(len(exits) - 1, np.inf, np.float32)
        thresholds[k:] = -np.inf
        outputs = measure.run(sessions[0], {**answer.inputs, fuse.THRESHOLDS: thresholds})
        if int(outputs[fuse.INDEX]) != k:
            raise ExportMismatch(
                f"the fused graph answered at exit {int(outputs[fuse.INDEX])}, forced was {k}; no bundle was written"
            )
        tensors = {exit.answer.name: outputs[fuse.OUTPUT], FUSED_SCORE: outputs[fuse.SCORE].reshape(1)}
        if exit.uncertainty is not None:
            tensors[exit.uncertainty] = outputs[fuse.UNCERTAINTY].reshape(1)
        if exit.lengths is not None:
            tensors[exit.lengths] = outputs[fuse.LENGTHS]
        yield k, tensors


def _run_chain(sessions: Sessions, exits: Exits, answer: SourceAnswer) -> Outputs:
    """Stage after stage, each on what those before it gave."""
    tensors = dict(answer.inputs)
    for k, session in enumerate(sessions):
        tensors.update(measure.run(session, tensors))
        yield k, tensors


def _run_prefixes(sessions: Sessions, exits: Exits, answer: SourceAnswer) -> Outputs:
    """Each exit's own file."""
    for k, session in enumerate(sessions):
        yield k, measure.run(session, answer.inputs)


def _run_all(sessions: Sessions, exits: Exits, answer: SourceAnswer) -> Outputs:
    """One file that gives every exit."""
    tensors = measure.run(sessions[0], answer.inputs)
    yield from ((k, tensors) for k in range(len(exits)))


ONNX_LAYOUTS: Table[OnnxLayout] = Table(
    "edgeexit.layouts.onnx",
    {
        "fused": OnnxLayout(_fused, _run_fused),
        "chain": OnnxLayout(_chain, _run_chain),
        "prefix": OnnxLayout(_prefix, _run_prefixes),
        "all": OnnxLayout(_all, _run_all),
    },
    ModelError,
)


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
        contract: of sherpa-onnx, for self-contained files of a speech model.

    Raises:
        ModelError: the layout cannot hold this network.
    """
    models = ONNX_LAYOUTS[layout].models(source, stages, exits, score)
    beside = {}
    if contract is not None:
        for k, model in enumerate(models.values()):
            contract.dress(model, exits[k], k)
        beside[sherpa.TOKENS] = contract.tokens.encode()
    shared = share_weights(list(models.values())) if LAYOUTS[layout].one_file else b""
    files = {name: to_bytes(m, f"{layout}/{name}") for name, m in models.items()}
    return {**files, **({SHARED_WEIGHTS: shared} if shared else {}), **beside}
