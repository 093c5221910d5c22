"""Fine-tuning of exits and network together, and what it gains over heads on a frozen network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import Infeasible, ModelError
from edgeexit.pictures.preprocess import Preprocess
from edgeexit_exporters.augment.graft import graft
from edgeexit_exporters.augment.heads import Head
from edgeexit_exporters.augment.measured import SplitRows, shipped
from edgeexit_exporters.augment.places import Place
from edgeexit_exporters.augment.result import Tuned
from edgeexit_exporters.augment.spec import AugmentSpec
from edgeexit_exporters.source.source import Source

Tune = Callable[[Any, tuple[NDArray[Any], NDArray[np.int64]], Sequence[float]], None]
"""(module with `backbone` and `heads`, inputs and classes, cumulative costs) -> trains it in place; such as
`edgeexit_models.finetune`."""
_EXAMPLE = 512
"""Rows that features are standardised by while training."""


def tunable(source: Source) -> None:
    """Refuse what cannot be trained on, before minutes of work.

    Raises:
        ModelError: an ONNX file, or several inputs.
    """
    if source.module is None:
        raise ModelError("fine-tuning needs a torch module (package.module:function); an .onnx file cannot be trained")
    if len(source.inputs) != 1:
        names = ", ".join(s.tensor.name for s in source.inputs)
        raise ModelError(f"fine-tuning takes networks with one input; this one has {len(source.inputs)}: {names}")


def fine_tuned(
    tune: Tune, source: Source, places: Sequence[Place], heads: Sequence[Head], rows: SplitRows, out: Path,
    spec: AugmentSpec, *, total: int, preprocess: Mapping[str, Preprocess],
) -> Tuned:  # fmt: skip
    """Train heads and backbone on, export, calibrate and judge against the network as it was.

    Args:
        tune: see `Tune`; gets the rows to fit on, and the untouched network's answers where there are no labels.
        source: the untouched network.
        places, heads: the exits to begin with.
        rows: with what the untouched network answered.
        out: the bundle's folder.
        spec: of the run.
        total: multiply-accumulates of the untouched network.
        preprocess: by the inputs' names.

    Raises:
        ModelError: see `Trainable`; ExportMismatch: see `export`.
    """
    from edgeexit_exporters.augment.trainable import Trainable  # needs torch

    (name,) = [i.tensor.name for i in source.inputs]
    x = rows.inputs[name]
    fit = rows.parts["fit"]
    some = fit[np.linspace(0, len(fit) - 1, min(_EXAMPLE, len(fit))).astype(int)]
    module = Trainable(source, places, heads, spec.pool, {name: x[some]})
    costs = [(p.macs or 0) / total for p in places]
    tune(module, (x[fit], rows.truth[fit]), [*costs, 1.0])
    network, trained = module.trained()
    grafted = graft(network, places, trained, spec.pool)
    try:
        result = shipped(grafted, source, rows, out, spec, total=total, preprocess=preprocess, changed=True)
    except Infeasible as e:
        return Tuned(None, f"Not worth it: {e}", None, None)
    return Tuned(result.verdict, result.verdict.text, result.bundle, result.point, result.left_out)


def beside(out: Path) -> Path:
    """Where the fine-tuned bundle goes."""
    return out.with_name(f"{out.name.removesuffix('.edgeexit')}-tuned.edgeexit")
