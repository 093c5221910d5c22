"""Every artifact is compared with the source model, exit by exit, before a bundle is written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from edgeexit.checks import relative_error
from edgeexit.errors import ExportMismatch
from edgeexit.manifest import ExitSpec, Port, StateSpec
from edgeexit_exporters import fuse, measure
from edgeexit_exporters.answers import Answer, Arrays, exit_scores
from edgeexit_exporters.join import valid_of
from edgeexit_exporters.sherpa import called

EXACT = 1e-6
"""Of the same computation in another graph: engines fuse differently at a cut, and rounding follows the fusion."""
_SCORE = "score of the fused graph"
"""Beside the exit's tensors, any of which a network may call exit_score."""
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "int8": 3e-2, "int8-dynamic": 3e-2}
"""Allowed error by precision, as a fraction of an exit's largest output. For int8 it is what another machine's kernels
may differ by: a number that is rounded the other way moves on through the layers (measured: 1.8e-2)."""
ONE_ENGINE = {"int8": 1e-4}
"""Allowed when an artifact is made, if less: the same int8 kernels on the same machine give the same bits (measured: 0)
in every layout, and one step of one activation is seen."""


@dataclass
class Comparison:
    """Collects the largest error of every exit over many inputs, and refuses a breach."""

    artifact: str
    exits: Sequence[ExitSpec]
    tolerance: float
    score: str | None = None
    exact: Sequence[int] = ()
    """Exits that are the source model's own computation: their answers may differ by its last bits only."""
    states: Sequence[StateSpec] = ()
    """Whose next values are compared as well, where a file gives them."""

    def __post_init__(self) -> None:
        self.errors = [0.0] * len(self.exits)
        self.inputs = 0

    @property
    def exactly(self) -> bool:
        """Whether the exits that should be exact were so far, bit for bit."""
        return not any(self.errors[k] for k in self.exact)

    def add(self, k: int, outputs: Arrays, answer: Answer) -> None:
        """Compare what exit `k` gave on some inputs, by tensor name, with the source model; the answer must be there.

        Raises:
            ExportMismatch: an error is above the tolerance; names artifact, exit, tensor and error.
        """
        self.inputs += answer.batch if k == 0 else 0
        spec = self.exits[k]
        for name in (spec.answer.name, *(s.name for s in spec.outputs[1:] if s.name in outputs)):
            found, expected = outputs[name], answer.outputs[name]
            if name == spec.answer.name and spec.lengths is not None and found.shape[::2] == expected.shape[::2]:
                found, expected = (valid_of(a, answer.outputs[spec.lengths]) for a in (found, expected))
            self._compare(k, name, found, expected, answer.inputs)
        for state in self.states:
            if state.output in outputs:
                self._compare(k, state.output, outputs[state.output], answer.outputs[state.output], answer.inputs)
        if self.score is not None and _SCORE in outputs:
            expected = exit_scores(answer.outputs, spec, self.score)
            if np.isfinite(expected).all():  # what is not a number in the source is none here
                self._compare(k, _SCORE, outputs[_SCORE], expected, answer.inputs)

    def _compare(
        self, k: int, tensor: str, found: NDArray[Any], expected: NDArray[Any], inputs: Mapping[str, NDArray[Any]]
    ) -> None:
        worst = relative_error(found, expected)
        whole = (self.exits[k].answer.name, *(s.output for s in self.states))
        if tensor not in whole and found.shape == expected.shape:
            worst = float(np.abs(found - expected).max(initial=0))  # in [0, 1] already, and often near 0
        if tensor != _SCORE:  # which is no output of the exit, and which numpy rounds otherwise
            self.errors[k] = max(self.errors[k], worst)
        own = k in self.exact and tensor == self.exits[k].answer.name
        tolerance = min(EXACT, self.tolerance) if own else self.tolerance
        if tensor == self.exits[k].lengths:
            tolerance = 0.0
        if not worst <= tolerance:
            sizes = ", ".join(f"{n} {list(a.shape)}" for n, a in inputs.items())
            what = (
                f"shape {found.shape} instead of {expected.shape}"
                if found.shape != expected.shape
                else f"error {worst:.2e}"
            )
            raise ExportMismatch(
                f"{self.artifact}: exit {self.exits[k].name!r} (tensor {tensor!r}) differs from the source model: "
                f"{what}, tolerance {tolerance:.0e} of the largest output, inputs {sizes}; no bundle was written"
            )


def compare(
    layout: str,
    files: Mapping[str, bytes],
    answers: Sequence[Answer],
    comparison: Comparison,
    ports: Sequence[Port] = (),
) -> None:
    """Run a layout's files and compare every exit with the source model's answers.

    Args:
        layout, files: what to run.
        answers: of the source model.
        comparison: collects.
        ports: tensors that the files call otherwise.

    Raises:
        ExportMismatch: an exit differs by more than the tolerance.
    """
    with tempfile.TemporaryDirectory(prefix="edgeexit-") as folder:
        for name, raw in files.items():
            Path(folder, name).write_bytes(raw)
        sessions = [measure.session(str(Path(folder, name))) for name in files if name.endswith(".onnx")]
        for answer in answers:
            for k, found in _answer(layout, sessions, comparison.exits, answer):
                names = called(ports, comparison.exits[k])
                comparison.add(k, {names.get(n, n): a for n, a in found.items()}, answer)


def _answer(
    layout: str, sessions: Sequence[InferenceSession], exits: Sequence[ExitSpec], answer: Answer
) -> Iterator[tuple[int, Arrays]]:
    """Exit, and its tensors by name."""
    if layout == "fused":
        if answer.batch == 1:  # one input per call is the contract
            yield from _forced(sessions[0], exits, answer)
    elif layout == "chain":
        known = dict(answer.inputs)
        for k, session in enumerate(sessions):
            known.update(measure.run(session, known))
            yield k, known
    elif layout == "prefix":
        for k, session in enumerate(sessions):
            yield k, measure.run(session, answer.inputs)
    else:
        found = measure.run(sessions[0], answer.inputs)
        yield from ((k, found) for k in range(len(exits)))


def _forced(session: InferenceSession, exits: Sequence[ExitSpec], answer: Answer) -> Iterator[tuple[int, Arrays]]:
    """The fused graph at every exit. It names its outputs its own way and gives the uncertainty as a scalar."""
    count = len(exits)
    for k, exit in enumerate(exits):
        thresholds = np.full(count - 1, np.inf, np.float32)
        thresholds[k:] = -np.inf
        found = measure.run(session, {**answer.inputs, fuse.THRESHOLDS: thresholds})
        if int(found[fuse.INDEX]) != k:
            raise ExportMismatch(
                f"the fused graph answered at exit {int(found[fuse.INDEX])}, forced was {k}; no bundle was written"
            )
        given = {exit.answer.name: found[fuse.OUTPUT], _SCORE: found[fuse.SCORE].reshape(1)}
        if exit.uncertainty is not None:
            given[exit.uncertainty] = found[fuse.UNCERTAINTY].reshape(1)
        if exit.lengths is not None:
            given[exit.lengths] = found[fuse.LENGTHS]
        yield k, given
