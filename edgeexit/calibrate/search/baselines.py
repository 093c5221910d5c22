"""Baselines of a sweep: the best single exit, which is a family too, and random exits.

The best single exit within the budget counts as a network of its own. Random exits, at the rates of the default score,
are the control that shows what the score is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.search.family import Choice, Chooser, PolicyFamily, SweepCurve
from edgeexit.calibrate.search.pareto import pareto
from edgeexit.errors import Infeasible
from edgeexit.policy.policies import fixed_exit
from edgeexit.records.base import Rows, outcome, replay


def _single_exit(design: Rows, held_out: Rows, seed: int) -> Chooser:
    right = design.correct.mean(1, dtype=np.float64)
    costs = design.relative_static_cost

    def choose(budget: float) -> Choice:
        within = [k for k in range(design.exits) if costs[k] <= budget + 1e-12]
        if not within:
            raise Infeasible(f"no single exit costs at most {budget:g}")
        k = max(within, key=lambda k: (right[k], -costs[k]))
        alone = replace(outcome(np.full(held_out.n, k), held_out), cost=float(costs[k]))
        return Choice(float(costs[k]), float(right[k]), alone, fixed_exit(k, design.exits))

    return choose


def _random_exits(design: Rows, held_out: Rows, seed: int) -> Chooser:
    """Random exits at the design rates of the best thresholds on the default score."""
    front = pareto(design, design.default_score)

    def choose(budget: float) -> Choice:
        rates = outcome(replay(front.for_budget(budget).policy, design), design).exit_rates
        rng = np.random.default_rng(seed)  # the same order at every budget, so that the line is smooth
        there = outcome(_deal(rates, design.n, rng), design)
        return Choice(there.cost, there.accuracy, outcome(_deal(rates, held_out.n, rng), held_out))

    return choose


def _deal(rates: Sequence[float], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Random exits at these rates, as exactly as n rows allow."""
    place = rng.permutation((np.arange(n) + 0.5) / n)
    return np.minimum(np.searchsorted(np.cumsum(rates), place), len(rates) - 1)


FIXED = PolicyFamily(
    "fixed",
    "fixed exits",
    "one exit always",
    candidates=lambda rows, asked: [fixed_exit(k, rows.exits, asked.score) for k in range(rows.exits - 1)],
    example=lambda exits, score: fixed_exit(exits - 1, exits, score),
    compares_scores=False,
    least_exits=1,
    curves=lambda scores, default: [SweepCurve("fixed", None, role="single exits")],
    baseline=_single_exit,
)
RANDOM = PolicyFamily(
    "random",
    "random exits",
    "random exits at the rates of the default score",
    compares_scores=False,
    curves=lambda scores, default: [SweepCurve("random", None, colour="#8A8A8A", dashed=True, role="control")],
    baseline=_random_exits,
)
