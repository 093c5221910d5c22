"""Export spec: everything that an export is asked for besides source, target and data, validated once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeexit.bundle.layouts import DEFAULT_LAYOUTS, LAYOUTS, NETWORK_LAYOUTS, layout_order
from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.errors import ModelError
from edgeexit.policy.scores import GRAPH_SCORES

FORMATS = {
    "onnx": ("fp32", "int8", "int8-dynamic"),
    "tflite": ("fp32", "int8", "int16x8", "int8-dynamic", "weight-only"),
}
"""Format -> precisions that it has."""
PRECISIONS = tuple(dict.fromkeys(p for precisions in FORMATS.values() for p in precisions))
RANGES = ("minmax", "percentile", "mse", "entropy")
"""How activations' ranges are read off calibration rows; mse is TFLite's, entropy ONNX's."""
FIXED_RANGES = ("int8", "int16x8")
"""Precisions that need calibration rows."""
LEAST_ROWS = 32
"""For ranges, for choosing thresholds and for measuring, each; below it a range is the luck of a few rows."""


@dataclass(frozen=True)
class ExportSpec:
    """What to export and how; the names are those of `edgeexit export`.

    Raises:
        ModelError: an unknown word, or options that exclude each other.
    """

    exits: Sequence[str] | None = None
    """For ONNX the exits' tensor names, shallow to deep, ``a+b`` for heads that answer together (None: the file's
    outputs); for torch names to give them."""
    weights: Path | str | None = None
    """State dict for a ``module:function`` source."""
    inputs: Sequence[str] = ()
    """``"name:dtype[axes]"`` of each input; see `inputs.parse_input`."""
    scores: Sequence[str] | None = None
    """For ONNX, tensors ``(batch,)`` in [0, 1] of learned scores, one per exit; torch modules return theirs."""
    lengths: Sequence[str] | None = None
    """For ONNX, tensors ``(batch,)`` of whole numbers that count the valid positions of sequences, one per exit or one
    for all; torch modules return theirs."""
    states: Mapping[str, str] | None = None
    """For ONNX, state inputs -> the tensors that are their next values; torch modules list theirs in an attribute
    ``states`` (see `torch_source.from_torch`). A network with states gets no fused layout."""
    outputs: str = "auto"
    """What exits give: "logits", "probs", or "auto" (probs where an exit's rows sum to 1 on every example input)."""
    layouts: Sequence[str] | None = None
    """Layouts to write; one that fails is an error then. None = fused, chain, prefix, all: one that fails is left out
    with a warning that gives the reason, as long as one that leaves early is there."""
    score: str = "maxprob"
    """The score inside the fused graph, one of `edgeexit.policy.scores.GRAPH_SCORES`."""
    formats: Sequence[str] = ("onnx",)
    """Of `FORMATS`."""
    precisions: Sequence[str] = ("fp32",)
    """Every format gets those that it has; fp32 is the network as it is."""
    tolerance: float | None = None
    """Largest allowed error as a fraction of an exit's largest output over all compared inputs; None = 1e-4, in half
    precision 1e-2, or what the network's own rounding needs (see `tolerance`); for int8 1e-4 here and 3e-2 on other
    machines."""
    ranges: str | None = None
    """How activations' ranges are estimated, of `RANGES`; None = percentile for ONNX, minmax for TFLite."""
    drop: float = 0.01
    """Accuracy below the last exit that the stored operating points may lose, a fraction."""
    max_drop: float | None = None
    """Accuracy that an exit may lose against the float one, a fraction; None = it is reported only."""
    stage_files: bool = False
    """A TFLite chain as one file per stage, for devices that never run the last ones."""
    keep_float: Sequence[str] = ()
    """What stays float in int8: nodes or operations of the ONNX graph, and TFLite operations (GATHER), in capitals."""
    layers: bool = False
    """Also measure which layer costs which exit most, in ONNX int8."""
    buckets: Sequence[int] = ()
    """Rising sizes for the one free axis of the inputs in TFLite files; an input is padded up to the next one."""
    seed: int = 0
    """Seed of the division of rows."""
    labels: Sequence[str] | None = None
    """Class names."""
    name: str | None = None
    """The bundle's name; None = that of its folder."""
    task: str | None = None
    """Noted in the manifest; None = transcription with `speech`, else classification."""
    speech: SpeechSpec | None = None
    """Features and tokens of a speech model; None = those of the module's ``speech_spec``."""
    preprocess: Any = None
    """How pictures become inputs, see `preprocessing.declare`; uint8 rows of data are pictures then. None = as is
    attached to the module, e.g. in its attribute ``preprocess``."""
    overwrite: bool = False
    """Replace a bundle that is there."""

    def __post_init__(self) -> None:
        if self.score not in GRAPH_SCORES:
            raise ModelError(f"unknown score {self.score!r} for a graph; known: {', '.join(GRAPH_SCORES)}")
        check_layouts(self.layouts)
        for what, words, known in (("format", self.formats, FORMATS), ("precision", self.precisions, PRECISIONS)):
            if not words:
                raise ModelError(f"no {what} asked for; known: {', '.join(known)}")
            if unknown := [w for w in words if w not in known]:
                raise ModelError(f"unknown {what} {unknown[0]!r}; known: {', '.join(known)}")
        for p in self.precisions:
            if not any(p in FORMATS[f] for f in self.formats):
                having = [f for f, precisions in FORMATS.items() if p in precisions]
                raise ModelError(f"precision {p!r} is not made for {self.formats[0]}; it is for {', '.join(having)}")
        self._check_ranges()
        if self.layers and ("onnx" not in self.formats or "int8" not in self.precisions):
            raise ModelError("layers are compared in ONNX int8: ask for --format onnx and --precision int8 as well")
        if self.buckets and "tflite" not in self.formats:
            raise ModelError(
                "buckets are sizes of TFLite files: ask for --format tflite as well; ONNX takes every size"
            )
        sizes = list(self.buckets)
        if sizes != sorted({n for n in sizes if n > 0}):
            raise ModelError(f"buckets are rising sizes such as 100,200,400; found {', '.join(map(str, sizes))}")
        for what, value in (("drop", self.drop), ("max_drop", self.max_drop)):
            if value is not None and not 0 <= value < 1:
                raise ModelError(f"{what} is a fraction in [0, 1), found {value!r}; 0.01 is one point")

    def _check_ranges(self) -> None:
        if self.ranges is not None and self.ranges not in RANGES:
            raise ModelError(f"unknown way to find ranges {self.ranges!r}; known: {', '.join(RANGES)}")
        for method, only in (("mse", "tflite"), ("entropy", "onnx")):
            if self.ranges == method and tuple(self.formats) != (only,):
                raise ModelError(f"ranges {method!r} are for format {only} alone; choose minmax or percentile")

    @property
    def float_onnx_only(self) -> bool:
        """Whether nothing is to be calibrated or measured on rows."""
        return (tuple(self.formats), tuple(self.precisions)) == (("onnx",), ("fp32",))

    def check_data(self, data: Mapping[str, Any] | None) -> None:
        """Refuse missing calibration rows before minutes of work.

        Raises:
            ModelError: what is asked for needs rows, and there are none.
        """
        needing = [p for p in self.precisions if p in FIXED_RANGES]
        if data is None and (needing or self.max_drop is not None):
            why = f"precision {needing[0]}" if needing else "--max-drop"
            raise ModelError(f"{why} needs calibration rows (--data): at least {3 * LEAST_ROWS}, 1,000 are good")


def check_layouts(layouts: Sequence[str] | None) -> None:
    """Refuse names that are no layouts of a network; None = the default ones.

    Raises:
        ModelError: an unknown layout, or none.
    """
    for name in DEFAULT_LAYOUTS if layouts is None else layouts:
        if name not in LAYOUTS or LAYOUTS[name].language_model:
            raise ModelError(f"unknown layout {name!r}; known: {', '.join(NETWORK_LAYOUTS)}")
    if layouts is not None and not layouts:
        raise ModelError(f"no layout asked for; known: {', '.join(NETWORK_LAYOUTS)}")


def in_order(layouts: Sequence[str]) -> list[str]:
    """The layouts in the order of the table, each once."""
    return sorted(dict.fromkeys(layouts), key=layout_order)
