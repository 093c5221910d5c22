"""Runs of each ONNX layout's files at every exit, for comparison with the source model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from onnxruntime import InferenceSession

from edgeexit.bundle.manifest import ExitSpec
from edgeexit.errors import ExportMismatch
from edgeexit_exporters.analysis.answers import Answer, Arrays
from edgeexit_exporters.layouts import fuse
from edgeexit_exporters.onnx import measure

FUSED_SCORE = "score of the fused graph"
"""Beside the exit's tensors, any of which a network may call exit_score."""

Sessions = Sequence[InferenceSession]
Exits = Sequence[ExitSpec]
Outputs = Iterator[tuple[int, Arrays]]
"""Exit, and its tensors by name."""


def run_fused(sessions: Sessions, exits: Exits, answer: Answer) -> Outputs:
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


def run_chain(sessions: Sessions, exits: Exits, answer: Answer) -> Outputs:
    """Stage after stage, each on what those before it gave."""
    tensors = dict(answer.inputs)
    for k, session in enumerate(sessions):
        tensors.update(measure.run(session, tensors))
        yield k, tensors


def run_prefixes(sessions: Sessions, exits: Exits, answer: Answer) -> Outputs:
    """Each exit's own file."""
    for k, session in enumerate(sessions):
        yield k, measure.run(session, answer.inputs)


def run_all(sessions: Sessions, exits: Exits, answer: Answer) -> Outputs:
    """One file that gives every exit."""
    tensors = measure.run(sessions[0], answer.inputs)
    yield from ((k, tensors) for k in range(len(exits)))
