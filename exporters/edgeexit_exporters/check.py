"""Every artifact is compared with the source model, exit by exit, before a bundle is written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from edgeexit.checks import relative_error
from edgeexit.errors import ExportMismatch
from edgeexit_exporters import fuse, measure
from edgeexit_exporters.answers import Answer
from edgeexit_exporters.stages import Stage

TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2}
"""Allowed error by precision, as a fraction of an exit's largest output."""


class Comparison:
    """Collects the largest error of every exit over many inputs, and refuses a breach."""

    def __init__(self, artifact: str, exits: Sequence[str], tensors: Sequence[str], tolerance: float) -> None:
        self.artifact, self.exits, self.tensors, self.tolerance = artifact, exits, tensors, tolerance
        self.errors = [0.0] * len(exits)
        self.inputs = 0

    def add(self, k: int, found: NDArray[Any], expected: NDArray[Any], inputs: Mapping[str, NDArray[Any]]) -> None:
        """Compare exit `k` on some inputs.

        Raises:
            ExportMismatch: the error is above the tolerance; names artifact, exit, tensor and error.
        """
        worst = relative_error(found, expected)
        self.errors[k] = max(self.errors[k], worst)
        self.inputs += len(expected) if k == 0 else 0
        if not worst <= self.tolerance:
            sizes = ", ".join(f"{n} {list(a.shape)}" for n, a in inputs.items())
            what = (
                f"shape {found.shape} instead of {expected.shape}"
                if found.shape != expected.shape
                else f"error {worst:.2e}"
            )
            raise ExportMismatch(
                f"{self.artifact}: exit {self.exits[k]!r} (tensor {self.tensors[k]!r}) differs from the source model: "
                f"{what}, tolerance {self.tolerance:.0e} of the largest output, inputs {sizes}; no bundle was written"
            )


def compare(
    layout: str, files: Mapping[str, bytes], stages: Sequence[Stage], answers: Sequence[Answer], comparison: Comparison
) -> None:
    """Run a layout's files and compare every exit with the source model's answers.

    Raises:
        ExportMismatch: an exit differs by more than the tolerance.
    """
    with tempfile.TemporaryDirectory(prefix="edgeexit-") as folder:
        for name, raw in files.items():
            Path(folder, name).write_bytes(raw)
        sessions = [measure.session(str(Path(folder, name))) for name in files if name.endswith(".onnx")]
        for answer in answers:
            for k, found in _answer(layout, sessions, stages, answer):
                comparison.add(k, found, answer.outputs[k], answer.inputs)


def _answer(
    layout: str, sessions: Sequence[InferenceSession], stages: Sequence[Stage], answer: Answer
) -> Iterator[tuple[int, NDArray[Any]]]:
    if layout == "fused":
        if answer.batch == 1:  # one input per call is the contract
            yield from _forced(sessions[0], len(stages), answer)
    elif layout == "chain":
        known = dict(answer.inputs)
        for k, (session, stage) in enumerate(zip(sessions, stages, strict=True)):
            known.update(measure.run(session, known))
            yield k, known[stage.exit]
    elif layout == "prefix":
        for k, session in enumerate(sessions):
            yield k, measure.run(session, answer.inputs)[stages[k].exit]
    else:
        found = measure.run(sessions[0], answer.inputs)
        for k, stage in enumerate(stages):
            yield k, found[stage.exit]


def _forced(session: InferenceSession, count: int, answer: Answer) -> Iterator[tuple[int, NDArray[Any]]]:
    for k in range(count):
        thresholds = np.full(count - 1, np.inf, np.float32)
        thresholds[k:] = -np.inf
        found = measure.run(session, {**answer.inputs, fuse.THRESHOLDS: thresholds})
        if int(found[fuse.INDEX]) != k:
            raise ExportMismatch(
                f"the fused graph answered at exit {int(found[fuse.INDEX])}, forced was {k}; no bundle was written"
            )
        yield k, found[fuse.OUTPUT]
