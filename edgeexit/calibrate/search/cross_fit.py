"""Cross-fitted choice of a policy: candidates are compared on rows that they were not built on.

The cheapest of many policies that look allowed on the rows they were built on is one that was lucky there: per-exit
thresholds chosen that way on 200 rows of DS-CNN for a drop of 1 point lose 2.4 points on new rows (60 splits). So the
design rows are cut into folds, the family is built without each fold and measured on it, and a candidate counts as
allowed when its loss there stays one standard error below the limit (the rule of Breiman et al., "Classification and
Regression Trees", 1984). Candidates are asked from the dearest down, and the first that fails ends the search: a
lucky one beyond it is not reached.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.search.family import CandidateFamily
from edgeexit.calibrate.search.front import Point, at_most
from edgeexit.common.measures import inside
from edgeexit.errors import Infeasible, PolicyError
from edgeexit.records.base import Rows, replay

FOLDS = 5

Loss = Callable[[Rows, NDArray[np.int64]], NDArray[np.float64]]
"""Rows and the exits taken `(n,)` -> what every row loses `(n,)`."""


@dataclass(frozen=True)
class CrossFit:
    """Every candidate of a family with its loss on rows that it was not built on."""

    points: tuple[Point, ...]
    """Built on all rows, by increasing cost; the last exit alone is the last."""
    loss: NDArray[np.float64]
    """`(candidates,)` mean loss per row."""
    error: NDArray[np.float64]
    """`(candidates,)` its standard error, at least one row's loss; of the last exit alone without that floor."""

    def cheapest(self, limit: float) -> Point | None:
        """The cheapest candidate reached from the dear side whose loss and one standard error are within `limit`.

        The search starts at the last exit alone; where that fails, at the candidate of least loss. None = it fails too.
        """
        passes = self.loss + self.error <= limit + 1e-12
        start = len(self.points) - 1
        if not passes[start]:
            start = int(np.argmin(self.loss + self.error))
        if not passes[start]:
            return None
        failing = np.flatnonzero(~passes[:start])
        return self.points[int(failing[-1]) + 1 if len(failing) else 0]


def cross_fit(design: Rows, family: CandidateFamily, loss: Loss, *, folds: int = FOLDS, seed: int = 0) -> CrossFit:
    """Measure a family's candidates on rows that they were not built on.

    In every fold a candidate is the dearest policy, built without the fold, that costs no more on the rows it was
    built on than the candidate does on all rows.

    Args:
        design: the rows to choose on.
        family: the family.
        loss: what is measured, such as `drop_of`.
        folds: parts of the rows; at most one per row.
        seed: of the folds.

    Raises:
        PolicyError: as `CandidateFamily.candidates`.
    """
    points = family.candidates(design)
    costs = np.array([p.cost for p in points])
    lost = np.zeros((len(points), design.n))
    order = np.random.default_rng(seed).permutation(design.n)
    for fold in range(min(folds, design.n)):
        left_out = np.sort(order[fold :: min(folds, design.n)])
        rest = np.setdiff1d(order, left_out)
        built = family.candidates(design.take(rest)) if len(rest) else points
        within = np.searchsorted([p.cost for p in built], costs + 1e-12, side="right") - 1
        rows = design.take(left_out)
        for j in np.unique(within):
            lost[np.ix_(within == j, left_out)] = loss(rows, replay(built[max(j, 0)].policy, rows))
    # No loss on n rows is not certainty: less than one row cannot be seen. The last exit alone is the reference.
    error = np.maximum(lost.std(1) / math.sqrt(design.n), 1 / design.n)
    error[-1] = lost[-1].std() / math.sqrt(design.n)
    return CrossFit(points, lost.mean(1), error)


def drop_of(rows: Rows, taken: NDArray[np.int64]) -> NDArray[np.float64]:
    """`(n,)` what the last exit's answers are worth above those of the exits taken."""
    return np.asarray(rows.correct[-1] - rows.correct[taken, np.arange(rows.n)], np.float64)


def worth_of(rows: Rows, taken: NDArray[np.int64]) -> NDArray[np.float64]:
    """`(n,)` what the answers of the exits taken are worth, negative: less is better."""
    return np.asarray(-rows.correct[taken, np.arange(rows.n)], np.float64)


def for_drop(design: Rows, family: CandidateFamily, drop: float) -> Point:
    """The cheapest policy that loses at most `drop` against the last exit, allowing one standard error.

    The last exit alone, which loses nothing, is a candidate, so there is always one; with fewer than ``1 / drop`` rows
    it is the only one.

    Raises:
        PolicyError: a drop that leaves no accuracy.
    """
    full = float(design.correct[-1].mean(dtype=float))
    if drop >= full:
        what = inside(design.measure)
        raise PolicyError(f"a drop of {drop:g} from the last exit's {what} of {full:.4g} leaves nothing")
    chosen = cross_fit(design, family, drop_of).cheapest(drop)
    assert chosen is not None
    return chosen


def for_accuracy(design: Rows, family: CandidateFamily, target: float) -> Point:
    """The cheapest policy of at least this accuracy, allowing one standard error.

    Raises:
        Infeasible: no candidate reaches it; the message has the best and its cost.
    """
    fit = cross_fit(design, family, worth_of)
    chosen = fit.cheapest(-target)
    if chosen is None:
        best, what = int(np.argmin(fit.loss + fit.error)), inside(design.measure)
        raise Infeasible(
            f"{family.name}: {what} of {target:g} is out of reach on {design.n} design rows; the best reachable, one "
            f"standard error allowed for, is {at_most(float(-fit.loss[best] - fit.error[best]))}, at a cost of "
            f"{fit.points[best].cost:.4g}"
        )
    return chosen
