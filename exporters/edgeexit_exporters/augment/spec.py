"""Augment spec: how exits are added to a single-exit network, validated once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgeexit.bundle.layouts import LAYOUTS, RUN_LAYOUTS
from edgeexit.calibrate.guarantees.risk import Guarantee
from edgeexit.errors import ModelError
from edgeexit.policy.scores import GRAPH_SCORES
from edgeexit_exporters.analysis.tolerance import tolerance_for
from edgeexit_exporters.spec import check_layouts

HEADS = ("linear", "mlp")


@dataclass(frozen=True)
class AugmentSpec:
    """What to add and how; the names are those of `edgeexit augment`.

    Raises:
        ModelError: an unknown word or tolerance, or no layout that decides where to stop.
    """

    drop: float = 0.01
    """Accuracy (or agreement) that may be lost, in [0, 1)."""
    exits: int = 3
    """Most exits before the network's own answer."""
    candidates: int = 12
    """Most places that are tried."""
    aside: Sequence[str] = ()
    """Inputs or tensors that exits need not see, such as an attention mask."""
    mask: str | None = None
    """The input or tensor (b, t) that is 1 where a position is real and 0 where it is padding: heads pool over real
    positions only. It is set aside, too."""
    pool: str = "avgmax"
    """How features become vectors, one of `features.POOLS`."""
    head: str = "linear"
    """One of `HEADS`; mlp needs torch."""
    score: str = "maxprob"
    """What thresholds compare."""
    guarantee: Guarantee | None = None
    """Certified on the third part of the rows instead of `drop`."""
    temperature: float = 1.0
    """Of the network's answers as targets, without labels."""
    seed: int = 0
    """Seed of the split and of the heads."""
    layouts: Sequence[str] | None = None
    """See `ExportSpec`; None = those of fused, chain, prefix, all that can be written; others are warned of."""
    outputs: str = "auto"
    """Of the network, "logits", "probs" or "auto"; see `ExportSpec`. Of a `Source`, it is known."""
    tolerance: float | None = None
    """See `ExportSpec`; None = 1e-4, and 1e-6 for the network's own answer, or what its own rounding needs."""
    threads: int = 1
    """Of onnxruntime while features are read."""
    class_names: Sequence[str] | None = None
    """Noted in the bundle."""
    preprocess: Any = None
    """See `ExportSpec`."""
    anyway: bool = False
    """Write the bundle even where it is not worth it."""
    overwrite: bool = False
    """Replace a bundle that is there."""

    def __post_init__(self) -> None:
        if self.score not in GRAPH_SCORES:
            raise ModelError(f"unknown score {self.score!r} for a graph; known: {', '.join(GRAPH_SCORES)}")
        check_layouts(self.layouts)
        if self.layouts is not None and not any(LAYOUTS[name].stops_early for name in self.layouts):
            raise ModelError(
                f"layouts {', '.join(self.layouts)}: none of them decides where to stop, so there is nothing to "
                f"calibrate; add {' or '.join(RUN_LAYOUTS)}"
            )
        tolerance_for("fp32", asked=self.tolerance)
        if self.head not in HEADS:
            raise ModelError(f"unknown head {self.head!r}; known: {', '.join(HEADS)}")
