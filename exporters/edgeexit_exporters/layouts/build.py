"""Files of one ONNX layout: `all`, `prefix`, `chain` or `fused`."""

from __future__ import annotations

from collections.abc import Sequence

from edgeexit.bundle.manifest import ExitSpec
from edgeexit_exporters.layouts import sherpa
from edgeexit_exporters.layouts.fuse import fused
from edgeexit_exporters.layouts.sherpa import Contract
from edgeexit_exporters.onnx.pieces import all_exits, alone, chain, prefix
from edgeexit_exporters.onnx.serialize import SHARED_WEIGHTS, share_weights, to_bytes
from edgeexit_exporters.source.source import Source
from edgeexit_exporters.stages import Stage


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
