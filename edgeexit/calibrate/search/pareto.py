"""Threshold families: one threshold per exit, searched along the Pareto front; or one threshold for all exits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.search.family import CandidateFamily, PolicyFamily, SweepCurve
from edgeexit.calibrate.search.front import ParetoFront, measured
from edgeexit.calibrate.search.lagrange import per_exit_thresholds
from edgeexit.calibrate.search.thresholds import place_cuts, reached
from edgeexit.policy.policies import Threshold, fixed_exit
from edgeexit.records.base import Rows

SHARED_CUTS = 500


def pareto(
    records: Rows,
    score: str = "maxprob",
    *,
    shared: bool = False,
    temperatures: tuple[float, ...] | None = None,
) -> ParetoFront:
    """Pareto front of threshold policies on these design rows.

    Args:
        records: the design rows.
        score: of `edgeexit.policy.scores.ANSWER_SCORES`.
        shared: one threshold for all exits instead of one each.
        temperatures: `(exits,)` divisors of the logits; None = the artifact's own.

    Returns:
        Per-exit thresholds are never worse than a shared one or than any fixed exit.

    Raises:
        PolicyError: unknown score, or temperatures for another number of exits.
    """
    return records._once(
        ("pareto", score, shared, temperatures), lambda: _thresholds_front(records, score, shared, temperatures)
    )


def _thresholds_front(records: Rows, score: str, shared: bool, temperatures: tuple[float, ...] | None) -> ParetoFront:
    s = records.scores(score, temperatures)[:-1]
    chosen = _shared_thresholds(s, records)
    if not shared:
        chosen += [fixed_exit(k, records.exits).thresholds for k in range(records.exits)]
        chosen += per_exit_thresholds(records, s)
    policies = (Threshold(t, score, temperatures) for t in dict.fromkeys(chosen))
    name = f"{'shared ' * shared}{score} threshold{'s' * (not shared)}"
    return ParetoFront.of(name, records.measure, measured(policies, records))


def _shared_thresholds(s: NDArray[np.float32], records: Rows) -> list[tuple[float, ...]]:
    """All cuts of the pooled scores that are on the front; the cuts are measured together, not one by one."""
    cuts = place_cuts(s, SHARED_CUTS)
    before = np.zeros(records.n, np.int64)
    cost, right = np.zeros(len(cuts)), np.zeros(len(cuts))
    for k in range(records.exits):
        # A row stops at k for the cuts that k's score reaches and no earlier one did: a range of cuts.
        last = k == records.exits - 1
        upto = np.full(records.n, len(cuts)) if last else np.maximum(before, reached(s[k], cuts))
        price = np.full(records.n, records.relative_cost[k])
        for total, worth in ((cost, price), (right, records.correct[k])):
            steps = np.bincount(before, worth, len(cuts) + 1) - np.bincount(upto, worth, len(cuts) + 1)
            total += steps.cumsum()[:-1]
        before = upto
    on_front: list[tuple[float, ...]] = []
    best = -1.0
    for j in np.lexsort((-right, cost)):
        if right[j] > best + 1e-9:
            best = float(right[j])
            on_front.append((float(cuts[j]),) * (records.exits - 1))
    return on_front


def _per_exit(rows: Rows, asked: CandidateFamily) -> ParetoFront:
    return pareto(rows, asked.score, temperatures=asked.temperatures)


def _shared(rows: Rows, asked: CandidateFamily) -> ParetoFront:
    return pareto(rows, asked.score, shared=True, temperatures=asked.temperatures)


def _shared_cuts(rows: Rows, asked: CandidateFamily) -> Sequence[Threshold]:
    """All of them: one that is not on the front of some rows may be on that of others."""
    cuts = place_cuts(rows.scores(asked.score, asked.temperatures)[:-1], SHARED_CUTS)
    return [Threshold((float(c),) * (rows.exits - 1), asked.score, asked.temperatures) for c in cuts]


THRESHOLD = PolicyFamily(
    "threshold",
    "{score} thresholds",
    "thresholds per exit by search",
    front=_per_exit,
    curves=lambda scores, default: [SweepCurve(s, s) for s in scores],
)
SHARED = PolicyFamily(
    "shared",
    "shared {score} threshold",
    "one threshold for all exits",
    candidates=_shared_cuts,
    front=_shared,
    curves=lambda scores, default: [SweepCurve(f"shared-{s}", s, dashed=True) for s in scores],
)
