"""Artifacts of one network in every format and precision of an export spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import BackendMissing, DataError
from edgeexit_exporters.analysis.analysis import Analysis, analyse
from edgeexit_exporters.artifact_set import ArtifactSet
from edgeexit_exporters.int8.calibration import calibration_rows
from edgeexit_exporters.int8.quantize import quantize
from edgeexit_exporters.int8.sensitivity import layer_sensitivity
from edgeexit_exporters.layouts.artifacts import onnx_artifacts
from edgeexit_exporters.refit import RowParts, divide_rows
from edgeexit_exporters.source.source import Source
from edgeexit_exporters.spec import FORMATS, ExportSpec

Arrays = Mapping[str, NDArray[Any]]
_BATCH = 256


@dataclass(frozen=True)
class LabelledRows:
    """Rows that quantized files are calibrated and measured on."""

    inputs: dict[str, NDArray[Any]]
    labels: NDArray[np.int64] | None
    parts: RowParts


def labelled_rows(
    spec: ExportSpec,
    source: Source,
    data: Arrays | None,
    labels: NDArray[np.int64] | None,
    classes: int | None = None,
) -> LabelledRows | None:
    """The data, divided; None = nothing is to be calibrated or measured.

    Args:
        spec: what is asked for.
        source: whose inputs they are.
        data: `(rows, ...)` arrays by input name.
        labels: `(rows,)` true classes; None = agreement with the float network counts.
        classes: that the network tells apart; None = unknown.

    Raises:
        DataError: it does not fit, or too few rows.
    """
    counts = {len(a) for a in (data or {}).values() if a.ndim}
    if labels is not None and counts and len(labels) not in counts:
        raise DataError(f"{len(labels)} classes (y) for {max(counts)} rows of data")
    if data is None or spec.float_onnx_only:
        return None
    inputs = calibration_rows(source.inputs, source.streamed(data))
    n = len(next(iter(inputs.values())))
    if labels is not None and len(labels) != n:
        raise DataError(f"{len(labels)} classes (y) for {n} rows of data")
    low, high = (0, -1) if labels is None else (int(labels.min()), int(labels.max()))
    if classes is not None and (low < 0 or high >= classes):
        raise DataError(f"classes (y) reach from {low} to {high}; the network answers 0 to {classes - 1}")
    return LabelledRows(inputs, labels, divide_rows(n, spec.seed))


def build_artifacts(
    analysis: Analysis,
    layouts: Sequence[str],
    spec: ExportSpec,
    rows: LabelledRows | None,
    *,
    exact: Sequence[int] = (),
    progress: Callable[[str], None] = lambda text: None,
) -> ArtifactSet:
    """Write and check the artifacts of every format, precision and layout.

    Args:
        analysis: of the float network (or of one that its user quantized: then as it is, as ONNX).
        layouts: that can hold the network.
        spec: formats, precisions and the rest.
        rows: None = nothing needs them.
        exact: see `exporting.export_source`.
        progress: called with each step's name.

    Raises:
        ModelError, DataError, ExportMismatch, BackendMissing: see `quantize`, `onnx_artifacts`, `tflite_artifacts`.
    """
    artifact_set = ArtifactSet()
    calibration = None if rows is None else {n: a[rows.parts.ranges] for n, a in rows.inputs.items()}
    for precision in spec.precisions if "onnx" in spec.formats else ():
        if precision not in FORMATS["onnx"]:
            continue
        own = analysis
        if precision != "fp32":
            progress(f"onnx {precision}: quantizing")
            source = quantize(
                analysis.source, calibration, precision=precision, method=spec.ranges or "percentile",
                progress=progress, exclude=[n for n in spec.keep_float if not n.isupper()],
            )  # fmt: skip
            if spec.layers and precision == "int8" and rows is not None:
                held_out = {n: a[rows.parts.held_out] for n, a in rows.inputs.items()}
                artifact_set.layers = layer_sensitivity(analysis.source, source, held_out, progress)
            manifest = analysis.manifest
            own = analyse(source, name=manifest.name, data=calibration, score=spec.score, speech=manifest.speech)
        files = onnx_artifacts(own, layouts, spec, exact=exact, progress=progress)
        if (own.manifest.batch, analysis.manifest.batch) == ("one", "dynamic"):
            files.artifacts = [replace(a, batch="one") for a in files.artifacts]
        artifact_set.add(files)
    if "tflite" in spec.formats:
        try:
            from edgeexit_exporters.tflite.artifacts import tflite_artifacts
        except ImportError as e:
            raise BackendMissing(f"format tflite needs {e.name or e}: pip install 'edgeexit[tflite-export]'") from e
        artifact_set.add(tflite_artifacts(analysis, layouts, spec, calibration, progress=progress))
    return artifact_set


def float_answers(
    source: Source, batched: bool
) -> Callable[[Arrays], tuple[list[NDArray[Any]], list[NDArray[Any]] | None]]:
    """Inputs `(n, ...)` by name -> what the source model answers at every exit, `(n, ...)`, and the valid positions of
    these answers, `(n,)`; None = all are valid."""

    def run(rows: Arrays) -> tuple[list[NDArray[Any]], list[NDArray[Any]] | None]:
        n, size = len(next(iter(rows.values()))), _BATCH if batched else 1
        outputs = [source.reference({k: a[i : i + size] for k, a in rows.items()}) for i in range(0, n, size)]
        answers = [np.concatenate([o[e.answer] for o in outputs]) for e in source.exits]
        counted = [e.lengths for e in source.exits if e.lengths is not None]
        return answers, [np.concatenate([o[n] for o in outputs]) for n in counted] or None

    return run
