"""Pareto fronts of policies on design rows: per-exit thresholds, one shared threshold, patience, Q-exit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.search.front import ParetoFront, Point
from edgeexit.calibrate.search.lagrange import per_exit_thresholds
from edgeexit.calibrate.search.thresholds import place_cuts, reached
from edgeexit.policy.policies import Patience, Policy, QExit, Threshold, fixed_exit
from edgeexit.records.base import Rows, outcome, replay

SHARED_CUTS = 500


def pareto(
    records: Rows,
    score: str = "maxprob",
    *,
    shared: bool = False,
    temperatures: tuple[float, ...] | None = None,
) -> ParetoFront:
    """Threshold policies from cheap to dear, with their cost and accuracy on these design rows.

    Args:
        records: the design rows.
        score: of `edgeexit.policy.scores.ANSWER_SCORES`.
        shared: one threshold for all exits instead of one each.
        temperatures: `(exits,)` divisors of the logits; None = the artifact's own.

    Returns:
        A path. Per-exit thresholds are never worse than a shared one or than any fixed exit.

    Raises:
        PolicyError: unknown score, or temperatures for another number of exits.
    """
    s = records.scores(score, temperatures)[:-1]
    chosen = _shared_thresholds(s, records)
    if not shared:
        chosen += [fixed_exit(k, records.exits).thresholds for k in range(records.exits)]
        chosen += per_exit_thresholds(records, s)
    policies = (Threshold(t, score, temperatures) for t in dict.fromkeys(chosen))
    name = f"{'shared ' * shared}{score} threshold{'s' * (not shared)}"
    return ParetoFront.of(name, records.measure, measured(policies, records))


def qexit_path(records: Rows, score: str = "maxprob", *, temperatures: tuple[float, ...] | None = None) -> ParetoFront:
    """PALBERT's rule at thresholds q from 0 up, most of them near 1, where sure exits are told apart."""
    q = [float(v) for v in np.unique(np.concatenate([np.linspace(0, 1, 100, False), 1 - np.geomspace(1e-6, 1, 100)]))]
    policies = (QExit(v, score, temperatures) for v in q)
    return ParetoFront.of(f"Q-exit on {score}", records.measure, measured(policies, records))


def patience_path(records: Rows) -> ParetoFront:
    """`Patience` of 1 to exits - 1 (the last never stops early)."""
    return ParetoFront.of(
        "patience", records.measure, measured((Patience(p) for p in range(1, records.exits)), records)
    )


def measured(policies: Iterable[Policy], records: Rows) -> Iterator[Point]:
    """Every policy with its cost and accuracy on these rows."""
    for policy in policies:
        found = outcome(replay(policy, records), records)
        yield Point(policy, found.cost, found.accuracy)


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
