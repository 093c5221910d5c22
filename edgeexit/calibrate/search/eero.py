"""EERO family: thresholds that follow from exit rates, which are solved under an average-cost budget.

Valade, Hebiri and Gay, "EERO: Early Exit with Reject Option for Efficient Classification with limited budget",
UAI 2025.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.search.exit_rates import BETA, ExitRates, Prior, Spend, exit_rates
from edgeexit.calibrate.search.family import CandidateFamily, PolicyFamily, Solution, SweepCurve, option
from edgeexit.calibrate.search.front import check_budget
from edgeexit.calibrate.search.thresholds import cut_at
from edgeexit.errors import DataError, PolicyError
from edgeexit.policy.policies import Threshold
from edgeexit.records.base import Rows, exits_taken

Mode = Literal["paper", "survivors"]

MODES: tuple[Mode, ...] = ("paper", "survivors")
EERO_SCORE = "margin"
"""The paper's."""
BETAS = (0.01, 0.02, 0.04, 0.06, 0.1)
"""Tried on the design rows where no beta is given."""
_BUDGETS = 60
"""Along the front."""


def thresholds_for(scores: NDArray[Any], rates: NDArray[Any], mode: Mode = "paper") -> tuple[float, ...]:
    """Thresholds that let the exits answer at these rates. Needs no labels.

    Args:
        scores: `(exits, n)` or `(exits - 1, n)` calibration scores, larger = surer.
        rates: `(exits,)`.
        mode: "paper": every exit's threshold is a quantile over all rows, at the rate of all exits up to it
            and a little more (1 / sqrt(n)), so that the mean cost does not exceed the budget in expectation.
            "survivors": a quantile over the rows that reach the exit, which uses the budget fully and may
            exceed it by sampling error.

    Returns:
        One threshold for every exit but the last. Tied scores are never separated: in paper mode a tie that does not
        fit stops whole, which costs less than allowed; with survivors, whichever is nearer to the rate.

    Raises:
        DataError: no rows, NaN scores, or shapes that do not fit.
        PolicyError: unknown mode.
    """
    rates = np.asarray(rates, np.float64)
    if mode not in MODES:
        raise PolicyError(f"unknown mode {mode!r}; known: {', '.join(MODES)}")
    if scores.ndim != 2 or len(scores) not in (len(rates), len(rates) - 1):
        raise DataError(f"scores must be (exits, n) for {len(rates)} exits, found shape {scores.shape}")
    n = scores.shape[1]
    if n == 0:
        raise DataError("thresholds need calibration scores; found n = 0")
    if np.isnan(scores).any():
        raise DataError("calibration scores hold NaN: which rows stop is not known")
    thresholds: list[float] = []
    alive = np.ones(n, bool)
    upto = np.cumsum(rates)
    for k in range(len(rates) - 1):
        if mode == "paper":
            count = math.floor(n * min(1.0, upto[k] * (1 + 1 / math.sqrt(n))) + 1e-9)
            thresholds.append(cut_at(scores[k], count, ties_in=True))
        else:
            row = scores[k][alive]
            thresholds.append(cut_at(row, min(math.floor(n * rates[k] + 1e-9), len(row)), ties_in=False))
            alive &= ~(scores[k].astype(np.float32) >= np.float32(thresholds[-1]))
    return tuple(thresholds)


def eero(
    scores: NDArray[Any],
    correct: NDArray[Any],
    cost: NDArray[Any],
    budget: float,
    *,
    mode: Mode = "paper",
    beta: float | None = None,
    prior: Prior = "cost",
    spend: Spend = "needed",
) -> tuple[tuple[float, ...], ExitRates]:
    """Thresholds for a budget, from recorded scores: milliseconds, so a device can do it when its budget changes.

    Args:
        scores: `(exits, n)`.
        correct: `(exits, n)` what answers are worth, at most 1: right or wrong, or agreement with the last exit
            where there are no labels. The rows must not have been trained on.
        cost: `(exits,)` cumulative, any unit.
        budget: mean cost allowed, in the same unit.
        mode: see `thresholds_for`.
        beta: see `exit_rates`; None = the most accurate of `BETAS` on these rows.
        prior: see `exit_rates`.
        spend: see `exit_rates`.

    Returns:
        Thresholds `(exits - 1,)` and the rates behind them.

    Raises:
        Infeasible, PolicyError, DataError: as `exit_rates` and `thresholds_for`.
    """
    if correct.shape != scores.shape or correct.size == 0:
        raise DataError(f"EERO needs scores and correct (exits, n), found {scores.shape} and {correct.shape}")
    error = np.clip(1 - correct.mean(1, dtype=np.float64), 0, 1)  # more edits than words are an error of 1
    solved = []
    for b in BETAS if beta is None else (beta,):
        rates = exit_rates(error, cost, budget, beta=b, prior=prior, spend=spend)
        thresholds = thresholds_for(scores, rates.rates, mode)
        solved.append((_accuracy(thresholds, scores, correct) if beta is None else 0.0, thresholds, rates))
    # Of equals the one nearest to the paper's, whatever their order.
    _, thresholds, rates = max(solved, key=lambda f: (f[0], -abs(math.log(f[2].beta / BETA))))
    return thresholds, rates


def _accuracy(thresholds: tuple[float, ...], scores: NDArray[Any], correct: NDArray[Any]) -> float:
    taken = exits_taken(Threshold(thresholds), scores, scores)
    return float(correct[taken, np.arange(len(taken))].mean(dtype=np.float64))


def eero_policy(
    design: Rows,
    budget: float,
    score: str = EERO_SCORE,
    *,
    temperatures: tuple[float, ...] | None = None,
    mode: Mode = "paper",
    beta: float | None = None,
    prior: Prior = "cost",
    spend: Spend = "needed",
) -> tuple[Threshold, ExitRates]:
    """`eero` on design rows; the budget is a fraction of the last exit's cost. The paper's score is the margin.

    Raises:
        Infeasible, PolicyError, DataError: as `eero`.
    """
    check_budget(budget)
    s = design.scores(score, temperatures)
    thresholds, rates = eero(
        s, design.correct, design.relative_cost, budget, mode=mode, beta=beta, prior=prior, spend=spend
    )
    return Threshold(thresholds, score, temperatures), rates


@dataclass(frozen=True)
class EeroOptions:
    """Options of EERO; see `eero`."""

    mode: Mode | None = field(
        default=None, metadata=option("keep the budget, or use it fully. [default: paper]", MODES)
    )
    beta: float | None = field(
        default=None, metadata=option("weight of the prior. [default: chosen on the design rows]", float)
    )
    prior: Prior | None = field(
        default=None, metadata=option("cheap exits first, or all alike. [default: cost]", ("cost", "uniform"))
    )
    spend: Spend | None = field(
        default=None, metadata=option("what helps, or the whole budget. [default: needed]", ("needed", "all"))
    )


def _solve_budget(rows: Rows, budget: float, asked: CandidateFamily) -> Solution:
    o = asked.read(EeroOptions)
    policy, rates = eero_policy(
        rows, budget, asked.score, temperatures=asked.temperatures,
        mode=o.mode or "paper", beta=o.beta, prior=o.prior or "cost", spend=o.spend or "needed",
    )  # fmt: skip
    return Solution(policy, {"allowed": rates.allowed, "planned": rates.spent, "beta": rates.beta, "mu": rates.mu})


def _along_budgets(rows: Rows, asked: CandidateFamily) -> Sequence[Threshold]:
    """Policies at many budgets: these are used fully, and only the exits' error rates are fitted."""
    o = asked.read(EeroOptions)
    return [
        eero_policy(
            rows, float(budget), asked.score, temperatures=asked.temperatures, mode=o.mode or "survivors",
            beta=BETA if o.beta is None else o.beta, prior=o.prior or "uniform", spend=o.spend or "needed",
        )[0]
        for budget in np.geomspace(rows.relative_cost[0], 1.0, _BUDGETS)
    ]  # fmt: skip


def _curves(scores: Sequence[str], default: str) -> list[SweepCurve]:
    score = EERO_SCORE if EERO_SCORE in scores else default
    return [
        SweepCurve("eero", score, EeroOptions(mode="paper"), colour="#E69F00"),
        SweepCurve("eero-survivors", score, EeroOptions(mode="survivors"), colour="#E69F00", dashed=True),
    ]


EERO = PolicyFamily(
    "eero",
    "EERO on {score}",
    "thresholds that follow from exit rates (EERO)",
    candidates=_along_budgets,
    solve=_solve_budget,
    options=EeroOptions,
    own_score=EERO_SCORE,
    curves=_curves,
)
