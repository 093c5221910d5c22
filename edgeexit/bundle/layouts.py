"""Artifact layouts: one row per layout with what the manifest's checks, the engine and the commands need to know of it.

How a layout's files are built stands in the exporters, keyed by the same names: `edgeexit_exporters.layouts.build` for
ONNX and `edgeexit_exporters.tflite.layouts` for TFLite. Other packages add rows through the entry-point group
``edgeexit.layouts``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeexit.common.plugins import Table
from edgeexit.errors import BundleError


@dataclass(frozen=True)
class Layout:
    """One layout: how stages become files, and how those are run."""

    name: str
    driver: str | None
    """"module:class" of the driver that runs it in an engine; None = a language model's, run by `edgeexit.lm`."""
    decision: Literal["graph", "runtime", "caller", "none"]
    """Who chooses the exit of an input: the graph itself, the runtime between stages, the caller who fixes one before
    (each network is self-contained), or nobody, as every exit is computed and recorded."""
    networks: Literal["one", "exits"] = "one"
    """How many networks its files hold: one, or one per exit."""
    one_file: bool = False
    """The networks may share one file where the format has signatures (all formats but ONNX)."""
    default: bool = True
    """Written where an export names no layouts."""
    section: str | None = None
    """The manifest's section that describes what it holds; None = it holds any network."""

    @property
    def stops_early(self) -> bool:
        """Whether an engine runs it and leaves at an exit that depends on the input."""
        return self.driver is not None and self.decision in ("graph", "runtime")

    @property
    def answers(self) -> bool:
        """Whether an engine runs it to answer inputs, not only to record every exit."""
        return self.driver is not None and self.decision != "none"

    @property
    def language_model(self) -> bool:
        """Whether it holds a decoder, which `edgeexit.lm` runs."""
        return self.driver is None

    @property
    def scored(self) -> bool:
        """Whether the graph computes the score, so that the artifact names it."""
        return self.decision == "graph"

    @property
    def stepwise(self) -> bool:
        """Whether an engine goes from stage to stage: times are per stage, batches thin out, streams are possible."""
        return self.driver is not None and self.decision == "runtime"

    @property
    def self_contained(self) -> bool:
        """Whether each network computes its exit from the inputs: costs are `prefix_macs`, names are per exit."""
        return self.decision == "caller"

    def count_networks(self, exits: int) -> int:
        """Networks in the files of an artifact with so many exits."""
        return exits if self.networks == "exits" else 1


_DRIVERS = "edgeexit.engine.layouts"
LAYOUTS: Table[Layout] = Table(
    "edgeexit.layouts",
    {
        row.name: row
        for row in (
            Layout("fused", f"{_DRIVERS}.fused:Fused", "graph"),
            Layout("chain", f"{_DRIVERS}.chain:Chain", "runtime", "exits", one_file=True),
            Layout("prefix", f"{_DRIVERS}.single:Prefix", "caller", "exits"),
            Layout("all", f"{_DRIVERS}.single:AllExits", "none"),
            Layout("decoder", None, "runtime", "exits", default=False, section="lm"),
        )
    },
    BundleError,
)
"""By name, in the order in which a device looks for an artifact."""
NETWORK_LAYOUTS = tuple(row.name for row in LAYOUTS.values() if not row.language_model)
"""What any network is exported as."""
DEFAULT_LAYOUTS = tuple(row.name for row in LAYOUTS.values() if row.default)
"""What is written where an export names none."""
RUN_LAYOUTS = tuple(row.name for row in LAYOUTS.values() if row.stops_early)
"""Layouts that leave early."""


def layout_order(name: str) -> int:
    """Place of a layout in a list: those of other packages come last."""
    return list(LAYOUTS).index(name) if name in list(LAYOUTS) else len(LAYOUTS)
