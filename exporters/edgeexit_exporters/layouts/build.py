"""ONNX files of each layout: one row per layout says how its models are cut from the network and how they are run.

Other packages add rows through the entry-point group ``edgeexit.layouts.onnx``, named as their row in
``edgeexit.layouts``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgeexit.bundle.layouts import LAYOUTS
from edgeexit.bundle.manifest import ExitSpec
from edgeexit.common.plugins import Table
from edgeexit_exporters.analysis.answers import Answer
from edgeexit_exporters.layouts import sherpa
from edgeexit_exporters.layouts.fuse import fused
from edgeexit_exporters.layouts.run import Outputs, Sessions, run_all, run_chain, run_fused, run_prefixes
from edgeexit_exporters.layouts.sherpa import Contract
from edgeexit_exporters.onnx.pieces import all_exits, alone, chain, prefix
from edgeexit_exporters.onnx.serialize import SHARED_WEIGHTS, share_weights, to_bytes
from edgeexit_exporters.source.source import Source
from edgeexit_exporters.stages import Stage


@dataclass(frozen=True)
class OnnxLayout:
    """How one layout looks in ONNX."""

    models: Callable[[Source, Sequence[Stage], Sequence[ExitSpec], str], dict[str, ir.Model]]
    """(source, stages, exits, score) -> models by file name, in order. Raises ModelError where it cannot hold them."""
    run: Callable[[Sessions, Sequence[ExitSpec], Answer], Outputs]
    """(sessions of the files, exits, inputs) -> what every exit gives."""


def _fused(source: Source, stages: Sequence[Stage], exits: Sequence[ExitSpec], score: str) -> dict[str, ir.Model]:
    return {"model.onnx": fused(source.model, stages, exits, score)}


def _chain(source: Source, stages: Sequence[Stage], exits: Sequence[ExitSpec], score: str) -> dict[str, ir.Model]:
    return {f"stage_{k}.onnx": m for k, m in enumerate(chain(source.model, stages))}


def _prefix(source: Source, stages: Sequence[Stage], exits: Sequence[ExitSpec], score: str) -> dict[str, ir.Model]:
    return {f"exit_{k}.onnx": prefix(source.model, n) for k, n in enumerate(alone(stages))}


def _all(source: Source, stages: Sequence[Stage], exits: Sequence[ExitSpec], score: str) -> dict[str, ir.Model]:
    return {"model.onnx": all_exits(source.model, source.tensors)}


ONNX_LAYOUTS: Table[OnnxLayout] = Table(
    "edgeexit.layouts.onnx",
    {
        "fused": OnnxLayout(_fused, run_fused),
        "chain": OnnxLayout(_chain, run_chain),
        "prefix": OnnxLayout(_prefix, run_prefixes),
        "all": OnnxLayout(_all, run_all),
    },
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
