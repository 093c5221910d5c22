"""Ordered candidates of a guarantee: policies from safe to bold, fixed by the design rows alone.

One order serves every loss and every alpha, so that a weaker promise never costs more: whatever passes at an alpha
passes at a larger one too; what bounds the loss at every exit bounds it on average; and a bound on disagreement is one
on the accuracy gap.

The default order is after Ringel, Cohen, Freedman and Romano, "Early Time Classification with Accumulated Accuracy Gap
Control", ICML 2024, with exits in the place of time steps and many levels in the place of alpha. At each level, exit by
exit, the most eager threshold is taken at which the inputs that left so far disagree with the last exit in at most that
share; then the exits are opened one after the other from the last to the first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.search.family import CandidateFamily
from edgeexit.calibrate.search.thresholds import place_cuts, reached
from edgeexit.policy.policies import Policy, Threshold, fixed_exit
from edgeexit.records.base import Rows

LEVELS = tuple(float(level) for level in np.geomspace(0.001, 0.5, 24))
"""Shares of accumulated disagreement on the design rows."""
_CUTS = 100
_STARTS = 7


@dataclass(frozen=True)
class OrderedCandidates:
    """Policies in the order in which they are tested."""

    policies: tuple[Policy, ...]
    """From safe to bold; the first is the last exit alone, which loses nothing."""
    weights: tuple[float, ...]
    """`(policies,)` shares of the error probability delta, sum 1: where a test may start. The first has half of it."""

    @classmethod
    def starting_at(cls, policies: Sequence[Policy], starts: Sequence[int]) -> OrderedCandidates:
        """Half of delta at the first policy, the other half evenly at up to six of the other `starts`."""
        weights, others = [0.0] * len(policies), [s for s in starts if s]
        if others:
            chosen = {others[int(i)] for i in np.linspace(0, len(others) - 1, min(len(others), _STARTS - 1))}
            for s in chosen:
                weights[s] = 0.5 / len(chosen)
        weights[0] = 1 - sum(weights)
        return cls(tuple(policies), tuple(weights))


def ordered_candidates(design: Rows, policy: str | None, family: CandidateFamily) -> OrderedCandidates:
    """The order for a family: by level for thresholds, by falling cost for others.

    Args:
        design: rows that the order is made on; never those that certify.
        policy: the family that was asked for; None = thresholds per exit.
        family: its score, temperatures and options.

    Raises:
        PolicyError: as `CandidateFamily.candidates`.
    """
    if policy in (None, "threshold"):
        return by_level(design, family.score, family.temperatures)
    policies = [p.policy for p in reversed(family.candidates(design))]
    return OrderedCandidates.starting_at(policies, np.linspace(0, len(policies), _STARTS + 1).astype(int)[:-1].tolist())


def by_level(design: Rows, score: str = "maxprob", temperatures: tuple[float, ...] | None = None) -> OrderedCandidates:
    """Thresholds per exit that keep the accumulated disagreement below a level, from strict to loose. Needs no labels.

    Raises:
        PolicyError: an unknown score.
    """
    scores, loss = design.scores(score, temperatures)[:-1], 1 - design.agreement
    cuts = [place_cuts(row, _CUTS) for row in scores]
    ranks = [reached(row, c) for row, c in zip(scores, cuts, strict=True)]
    last = design.exits - 1
    policies: dict[Policy, None] = {fixed_exit(last, design.exits, score): None}
    starts = [0]
    for level in LEVELS:
        thresholds = _screen(cuts, ranks, loss, level)
        starts.append(len(policies))
        for k in reversed(range(last)):
            policies.setdefault(Threshold((*[math.inf] * k, *thresholds[k:]), score, temperatures))
    return OrderedCandidates.starting_at(list(policies), sorted({s for s in starts if s < len(policies)}))


def _screen(
    cuts: list[NDArray[np.float32]], ranks: list[NDArray[np.int64]], loss: NDArray[np.float64], level: float
) -> list[float]:
    """Exit by exit, the most eager threshold with an accumulated loss of at most `level`; inf = none."""
    left = np.zeros(loss.shape[1], bool)
    lost, thresholds = 0.0, []
    for k, rank in enumerate(ranks):
        size = len(cuts[k]) + 1
        # Rows that reach cut j have a rank above j.
        joining = np.bincount(rank[~left], minlength=size)[::-1].cumsum()[::-1][1:]
        losing = np.bincount(rank[~left], loss[k][~left], size)[::-1].cumsum()[::-1][1:]
        total = left.sum() + joining
        allowed = np.flatnonzero((total > 0) & (lost + losing <= level * total + 1e-9))
        if not len(allowed):
            thresholds.append(math.inf)
            continue
        j = int(allowed[0])
        thresholds.append(float(cuts[k][j]))
        left, lost = left | (rank > j), lost + float(losing[j])
    return thresholds
