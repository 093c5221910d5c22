"""Every format and precision that was asked for, of one network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import BackendMissing, DataError, ModelError
from edgeexit_exporters.analysis.analysis import Analysis, survey
from edgeexit_exporters.artifact_set import ArtifactSet
from edgeexit_exporters.int8 import quantize as onnx_int8
from edgeexit_exporters.int8.calibration import LEAST_ROWS, calibration_rows
from edgeexit_exporters.int8.sensitivity import layer_sensitivity
from edgeexit_exporters.layouts.artifacts import onnx_artifacts
from edgeexit_exporters.refit import RowParts, divide_rows
from edgeexit_exporters.source.source import Source

Arrays = Mapping[str, NDArray[Any]]
FORMATS = {
    "onnx": ("fp32", *onnx_int8.PRECISIONS),
    "tflite": ("fp32", "int8", "int16x8", "int8-dynamic", "weight-only"),
}
"""Format -> precisions it can be made in."""
PRECISIONS = tuple(dict.fromkeys(p for known in FORMATS.values() for p in known))
RANGES = ("minmax", "percentile", "mse", "entropy")
"""How activations' ranges are read off calibration rows; mse is TFLite's, entropy ONNX's."""
FIXED_RANGES = ("int8", "int16x8")
"""Precisions that need calibration rows."""
_BATCH = 256


@dataclass(frozen=True)
class LabelledRows:
    """What quantized files are calibrated and measured on."""

    inputs: dict[str, NDArray[Any]]
    labels: NDArray[np.int64] | None
    parts: RowParts


@dataclass(frozen=True)
class Forms:
    """What to make besides one float ONNX file per layout."""

    formats: Sequence[str] = ("onnx",)
    """Of `FORMATS`."""
    precisions: Sequence[str] = ("fp32",)
    """Every format gets those it has."""
    classes: NDArray[np.int64] | None = None
    """`(n,)` true classes of the data; None = agreement with the float network counts."""
    ranges: str | None = None
    """How activations' ranges are found, of `RANGES`; None = percentile for ONNX, minmax for TFLite."""
    drop: float = 0.01
    """Accuracy below the last exit that the stored operating points may lose."""
    max_drop: float | None = None
    """Accuracy that an exit may lose against the float one; None = it is shown only."""
    stage_files: bool = False
    """A TFLite chain as one file per stage, for devices that never run the last ones."""
    keep_float: Sequence[str] = ()
    """What stays float in int8: nodes or operations of the ONNX graph, and TFLite operations (GATHER), which are in
    capitals."""
    layers: bool = False
    """Also find which layer costs which exit most, in ONNX int8."""
    seed: int = 0
    """Of the division of rows."""
    buckets: Sequence[int] = ()
    """Rising sizes for the one free axis of the inputs in TFLite files; an input is padded up to the next one."""

    def check(self, data: Arrays | None) -> None:
        """Refuse before minutes of work what would be refused after them.

        Raises:
            ModelError: an unknown word, a precision that no format has, or calibration rows missing.
        """
        for what, words, known in (("format", self.formats, FORMATS), ("precision", self.precisions, PRECISIONS)):
            if not words:
                raise ModelError(f"no {what} asked for; known: {', '.join(known)}")
            if unknown := [w for w in words if w not in known]:
                raise ModelError(f"unknown {what} {unknown[0]!r}; known: {', '.join(known)}")
        for p in self.precisions:
            if not any(p in FORMATS[f] for f in self.formats):
                having = [f for f, known in FORMATS.items() if p in known]
                raise ModelError(f"precision {p!r} is not made for {self.formats[0]}; it is for {', '.join(having)}")
        if self.ranges is not None and self.ranges not in RANGES:
            raise ModelError(f"unknown way to find ranges {self.ranges!r}; known: {', '.join(RANGES)}")
        for method, only in (("mse", "tflite"), ("entropy", "onnx")):
            if self.ranges == method and tuple(self.formats) != (only,):
                raise ModelError(f"ranges {method!r} are for format {only} alone; choose minmax or percentile")
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
        needing = [p for p in self.precisions if p in FIXED_RANGES]
        if data is None and (needing or self.max_drop is not None):
            why = f"precision {needing[0]}" if needing else "--max-drop"
            raise ModelError(f"{why} needs calibration rows (--data): at least {3 * LEAST_ROWS}, 1,000 are good")

    def rows(self, source: Source, data: Arrays | None, classes: int | None = None) -> LabelledRows | None:
        """The data, divided; None = nothing is to be calibrated or measured.

        Args:
            source: whose inputs they are.
            data: `(rows, ...)` arrays by input name.
            classes: that the network tells apart; None = unknown.

        Raises:
            DataError: it does not fit, or too few rows.
        """
        counts = {len(a) for a in (data or {}).values() if a.ndim}
        if self.classes is not None and counts and len(self.classes) not in counts:
            raise DataError(f"{len(self.classes)} classes (y) for {max(counts)} rows of data")
        if data is None or (tuple(self.formats), tuple(self.precisions)) == (("onnx",), ("fp32",)):
            return None
        inputs = calibration_rows(source.inputs, source.streamed(data))
        n = len(next(iter(inputs.values())))
        if self.classes is not None and len(self.classes) != n:
            raise DataError(f"{len(self.classes)} classes (y) for {n} rows of data")
        low, high = (0, -1) if self.classes is None else (int(self.classes.min()), int(self.classes.max()))
        if classes is not None and (low < 0 or high >= classes):
            raise DataError(f"classes (y) reach from {low} to {high}; the network answers 0 to {classes - 1}")
        return LabelledRows(inputs, self.classes, divide_rows(n, self.seed))


def make(
    known: Analysis,
    layouts: Sequence[str],
    score: str,
    wanted: Forms,
    rows: LabelledRows | None,
    *,
    tolerance: float | None = None,
    exact: Sequence[int] = (),
    named: bool = True,
    progress: Callable[[str], None] = lambda text: None,
) -> ArtifactSet:
    """Write and check them all.

    Args:
        known: of the float network (or of one that its user quantized: then as it is, as ONNX).
        layouts, score, tolerance, exact: see `exporting.export_source`.
        wanted: formats and precisions.
        named: the user named the layouts; see `LayoutFailures`.
        rows: None = nothing needs them.
        progress: called with each step's name.

    Raises:
        ModelError, DataError, ExportMismatch, BackendMissing: see `quantize`, `onnx_artifacts`, `tflite_artifacts`.
    """
    made = ArtifactSet()
    ranges = wanted.ranges
    given = None if rows is None else {n: a[rows.parts.ranges] for n, a in rows.inputs.items()}
    for precision in wanted.precisions if "onnx" in wanted.formats else ():
        if precision not in FORMATS["onnx"]:
            continue
        this = known
        if precision != "fp32":
            progress(f"onnx {precision}: quantizing")
            source = onnx_int8.quantize(
                known.source, given, precision=precision, method=ranges or "percentile", progress=progress,
                exclude=[n for n in wanted.keep_float if not n.isupper()],
            )  # fmt: skip
            if wanted.layers and precision == "int8" and rows is not None:
                held_out = {n: a[rows.parts.held_out] for n, a in rows.inputs.items()}
                made.layers = layer_sensitivity(known.source, source, held_out, progress)
            this = survey(source, name=known.manifest.name, data=given, score=score, speech=known.manifest.speech)
        files = onnx_artifacts(
            this, layouts, score, tolerance=tolerance, exact=exact, named=named, progress=progress
        )  # fmt: skip
        if (this.manifest.batch, known.manifest.batch) == ("one", "dynamic"):
            files.artifacts = [replace(a, batch="one") for a in files.artifacts]
        made.add(files)
    if "tflite" in wanted.formats:
        try:
            from edgeexit_exporters.tflite.artifacts import tflite_artifacts
        except ImportError as e:
            raise BackendMissing(f"format tflite needs {e.name or e}: pip install 'edgeexit[tflite-export]'") from e
        mine = [p for p in wanted.precisions if p in FORMATS["tflite"]]
        made.add(
            tflite_artifacts(
                known, layouts, score, mine, given, ranges=ranges or "minmax", stage_files=wanted.stage_files,
                allow_float=[n for n in wanted.keep_float if n.isupper()], buckets=wanted.buckets, tolerance=tolerance,
                named=named,
                progress=progress,
            )
        )  # fmt: skip
    return made


def float_answers(
    source: Source, batched: bool
) -> Callable[[Arrays], tuple[list[NDArray[Any]], list[NDArray[Any]] | None]]:
    """Inputs `(n, ...)` by name -> what the source model answers at every exit, `(n, ...)`, and the valid positions of
    these answers, `(n,)`; None = all are valid."""

    def run(rows: Arrays) -> tuple[list[NDArray[Any]], list[NDArray[Any]] | None]:
        n, size = len(next(iter(rows.values()))), _BATCH if batched else 1
        found = [source.reference({k: a[i : i + size] for k, a in rows.items()}) for i in range(0, n, size)]
        answers = [np.concatenate([f[e.answer] for f in found]) for e in source.exits]
        counted = [e.lengths for e in source.exits if e.lengths is not None]
        return answers, [np.concatenate([f[n] for f in found]) for n in counted] or None

    return run
