"""Tolerances of the comparison with the source model; they follow the network's own rounding.

A network that sums long rows, or whose small outputs are differences of large numbers, answers a little otherwise under
every other order of summation. How much is measured on the network itself: run whole with onnxruntime's optimisations
on, partly on and off, and with two threads. A difference between torch and onnxruntime does not count: that is what is
to be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeexit.engine.inputs import LEAST_SCALE, largest_difference
from edgeexit.errors import ModelError
from edgeexit_exporters.analysis.answers import SourceAnswer, valid_answer
from edgeexit_exporters.onnx import measure
from edgeexit_exporters.source.join import JoinedExit

BY_PRECISION = {"fp32": 1e-4, "fp16": 1e-2, "int8": 3e-2, "int8-dynamic": 3e-2}
"""Allowed error by precision, as a fraction of an exit's largest output. For int8 it is what another machine's kernels
may differ by: a number that is rounded the other way moves on through the layers (measured: 1.8e-2)."""
ONE_ENGINE = {"int8": 1e-4}
"""Allowed when an artifact is made, if less: the same int8 kernels on the same machine give the same bits (measured: 0)
in every layout, and one step of one activation is seen."""
EXACT = 1e-6
"""Floor of the same computation in another graph: engines fuse otherwise at a cut, and rounding follows the fusion."""
MARGIN = 4.0
"""Times the network's own rounding: what a cut changes is rounded in ways that no run of the whole network shows."""
MOST = {"fp32": 1e-2, "fp16": 1e-1}
"""More is not allowed on account of the network's own rounding: a network that moves so far is refused."""
_OTHERWISE = (("NONE", 1), ("BASIC", 1), ("EXTENDED", 1), ("ALL", 2))
"""Optimisation level and threads; compared with everything on and one thread."""


@dataclass(frozen=True)
class Tolerance:
    """Allowed errors of one precision's artifacts."""

    stated: float
    """For the manifest: on other machines, too."""
    here: float
    """On this machine, when an artifact is made."""
    rounding: tuple[float, ...] = ()
    """`(exits,)` the network's own, relative; empty = not measured."""
    asked: bool = False
    """The user's own number, which holds everywhere."""

    def exact(self, k: int) -> float:
        """For an exit that is the source model's own computation."""
        if self.asked:
            return self.here
        own = self.rounding[k] if k < len(self.rounding) else 0.0
        return min(max(EXACT, MARGIN * own), self.here)

    def why(self, k: int) -> str:
        """Where the tolerance comes from, for an error message."""
        if self.asked or k >= len(self.rounding):
            return ""
        moved = f"{self.rounding[k]:.0e}"
        return f" (the source model itself moves by {moved} between the engine's optimisation levels; see --tolerance)"


def tolerance_for(precision: str, rounding: Sequence[float] = (), asked: float | None = None) -> Tolerance:
    """The tolerance of a precision.

    Args:
        precision: of the artifacts.
        rounding: `(exits,)` of `own_rounding`; empty = not measured.
        asked: the user's own number, as a fraction of an exit's largest output; None = as measured.

    Raises:
        ModelError: `asked` is not a positive number.
    """
    if asked is not None:
        if not 0 < asked < float("inf"):
            raise ModelError(f"--tolerance {asked!r}: expected a number above 0, e.g. 1e-5")
        return Tolerance(asked, asked, tuple(rounding), asked=True)
    stated = BY_PRECISION.get(precision, 1e-4)
    here = ONE_ENGINE.get(precision, stated)
    if precision in MOST:  # integers are summed without rounding
        stated = here = max(stated, min(MARGIN * max(rounding, default=0.0), MOST[precision]))
    return Tolerance(stated, here, tuple(rounding))


def relative_errors(differences: Sequence[tuple[float, float]]) -> list[float]:
    """Largest differences of several comparisons of one tensor as fractions of its scale.

    Args:
        differences: of each comparison, the largest absolute difference and the largest expected value.

    Returns:
        Each divided by the largest value that was expected there, or by the median over all comparisons that expected
        anything but zeros, whichever is more: the mean would hide small outputs beside a huge one.
    """
    scales = [scale for _, scale in differences if scale > 0]
    usual = float(np.median(scales)) if scales else 0.0
    return [difference / max(scale, usual, LEAST_SCALE) for difference, scale in differences]


def own_rounding(
    proto: onnx.ModelProto, exits: Sequence[JoinedExit], answers: Sequence[SourceAnswer]
) -> tuple[float, ...]:
    """Measure how far a network's answers move when the engine computes them in another order.

    Args:
        proto: the whole network, with the exits' tensors among its outputs.
        exits: of it.
        answers: whose inputs it is run on.

    Returns:
        `(exits,)` largest difference as a fraction of the exit's largest output; 0 = it never moved.
    """
    raw = proto.SerializeToString()
    usual = _run(raw, "ALL", 1, exits, answers)
    worst = [0.0] * len(exits)
    for level, threads in _OTHERWISE:
        try:
            other = _run(raw, level, threads, exits, answers)
        except ModelError:  # operations that only a rewritten graph has kernels for
            continue
        for k in range(len(exits)):
            pairs = [largest_difference(b[k], a[k]) for a, b in zip(usual, other, strict=True)]
            worst[k] = max(worst[k], *relative_errors(pairs))
    return tuple(worst)


def _run(
    raw: bytes, level: str, threads: int, exits: Sequence[JoinedExit], answers: Sequence[SourceAnswer]
) -> list[list[NDArray[Any]]]:
    """Per input, every exit's answer, in its valid positions."""
    session = measure.session(raw, threads=threads, level=level, quiet=True)
    runs = []
    for answer in answers:
        outputs = measure.run(session, answer.inputs, [n for e in exits for n in e.outputs])
        runs.append([valid_answer(outputs, e) for e in exits])
    return runs
