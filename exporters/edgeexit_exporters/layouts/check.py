"""Comparison of every artifact with the source model, exit by exit, before a bundle is written.

Errors are fractions of an exit's largest output. The scale is that of all compared inputs together: an input whose
outputs happen to be tiny is measured by what the exit usually gives, one whose outputs are larger by its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.manifest import ExitSpec, Port, StateSpec
from edgeexit.engine.inputs import largest_difference
from edgeexit.errors import ExportMismatch
from edgeexit_exporters.analysis.answers import Arrays, SourceAnswer, exit_scores
from edgeexit_exporters.analysis.tolerance import Tolerance, relative_errors
from edgeexit_exporters.layouts.build import FUSED_SCORE, Run
from edgeexit_exporters.layouts.sherpa import called
from edgeexit_exporters.onnx import measure
from edgeexit_exporters.source.join import valid_of


class _Difference(NamedTuple):
    """Of one tensor on some inputs."""

    absolute: float
    scale: float
    inputs: Mapping[str, NDArray[Any]]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    """Of what came out, and of what was expected."""


@dataclass
class ArtifactComparison:
    """Collects the differences of every exit over many inputs, and refuses a breach."""

    artifact: str
    exits: Sequence[ExitSpec]
    tolerance: Tolerance
    score: str | None = None
    exact: Sequence[int] = ()
    """Exits that are the source model's own computation: their answers may differ by its own rounding only."""
    states: Sequence[StateSpec] = ()
    """Whose next values are compared as well, where a file gives them."""
    _seen: dict[tuple[int, str], list[_Difference]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self._seen = {}  # also of a copy that `dataclasses.replace` makes
        self.inputs = 0

    @property
    def errors(self) -> tuple[float, ...]:
        """`(exits,)` largest error of each."""
        return tuple(
            # The score is no output of the exit, and numpy rounds it otherwise.
            max((max(self._errors(i, name)) for i, name in self._seen if i == k and name != FUSED_SCORE), default=0.0)
            for k in range(len(self.exits))
        )

    @property
    def exactly(self) -> bool:
        """Whether the exits that should be exact were so far, bit for bit."""
        return not any(self.errors[k] for k in self.exact)

    def add(self, k: int, outputs: Arrays, answer: SourceAnswer) -> None:
        """Take in what exit `k` gave on some inputs, by tensor name; the source model's answer must be there."""
        self.inputs += answer.batch if k == 0 else 0
        spec = self.exits[k]
        for name in (spec.answer.name, *(s.name for s in spec.outputs[1:] if s.name in outputs)):
            actual, expected = outputs[name], answer.outputs[name]
            if name == spec.answer.name and spec.lengths is not None and actual.shape[::2] == expected.shape[::2]:
                actual, expected = (valid_of(a, answer.outputs[spec.lengths]) for a in (actual, expected))
            self._take(k, name, actual, expected, answer.inputs)
        for state in self.states:
            if state.output in outputs:
                self._take(k, state.output, outputs[state.output], answer.outputs[state.output], answer.inputs)
        if self.score is not None and FUSED_SCORE in outputs:
            expected = exit_scores(answer.outputs, spec, self.score)
            if np.isfinite(expected).all():  # what is not a number in the source is none here
                self._take(k, FUSED_SCORE, outputs[FUSED_SCORE], expected, answer.inputs)

    def check(self) -> None:
        """Refuse a difference above the tolerance.

        Raises:
            ExportMismatch: names artifact, exit, tensor and error.
        """
        for (k, tensor), seen in self._seen.items():
            errors = self._errors(k, tensor)
            worst = int(np.argmax(errors))
            tolerance = self._allowed(k, tensor)
            if errors[worst] <= tolerance:
                continue
            actual, expected = seen[worst].shapes
            sizes = ", ".join(f"{n} {list(a.shape)}" for n, a in seen[worst].inputs.items())
            what = f"shape {actual} instead of {expected}" if actual != expected else f"error {errors[worst]:.2e}"
            raise ExportMismatch(
                f"{self.artifact}: exit {self.exits[k].name!r} (tensor {tensor!r}) differs from the source model: "
                f"{what}, tolerance {tolerance:.0e} of the largest output{self.tolerance.why(k)}, inputs {sizes}; "
                "no bundle was written"
            )

    def _take(
        self, k: int, tensor: str, actual: NDArray[Any], expected: NDArray[Any], inputs: Mapping[str, NDArray[Any]]
    ) -> None:
        found_at = _Difference(*largest_difference(actual, expected), inputs, (actual.shape, expected.shape))
        self._seen.setdefault((k, tensor), []).append(found_at)

    def _errors(self, k: int, tensor: str) -> list[float]:
        """Of a tensor on each of the inputs; what lies in [0, 1] already, and often near 0, is not divided."""
        seen = self._seen[k, tensor]
        if tensor not in (self.exits[k].answer.name, *(s.output for s in self.states)):
            return [d.absolute for d in seen]
        return relative_errors([(d.absolute, d.scale) for d in seen])

    def _allowed(self, k: int, tensor: str) -> float:
        if tensor == self.exits[k].lengths:
            return 0.0
        if k in self.exact and tensor == self.exits[k].answer.name:
            return self.tolerance.exact(k)
        return self.tolerance.here


def compare(
    run: Run,
    files: Mapping[str, bytes],
    answers: Sequence[SourceAnswer],
    comparison: ArtifactComparison,
    ports: Sequence[Port] = (),
) -> None:
    """Run a layout's files and compare every exit with the source model's answers.

    Args:
        run: of the layout.
        files: of the layout, models in order.
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
            for k, outputs in run(sessions, comparison.exits, answer):
                names = called(ports, comparison.exits[k])
                comparison.add(k, {names.get(n, n): a for n, a in outputs.items()}, answer)
    comparison.check()
