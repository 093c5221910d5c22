"""EERO: exit rates under an average-cost budget by exponential weights, and the thresholds that give them.

Valade, Hebiri and Gay, "EERO: Early Exit with Reject Option for Efficient Classification with limited budget",
UAI 2025. The rates minimise ``sum(rates * error) + beta * KL(rates, prior)`` under ``sum(rates * cost) <= budget``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.search.front import check_budget, least_feasible
from edgeexit.calibrate.search.thresholds import cut_at
from edgeexit.errors import DataError, Infeasible, PolicyError
from edgeexit.policy.policies import Threshold
from edgeexit.records.base import Rows, exits_taken

Mode = Literal["paper", "survivors"]
Prior = Literal["cost", "uniform"]
Spend = Literal["needed", "all"]

MODES: tuple[Mode, ...] = ("paper", "survivors")
EERO_SCORE = "margin"
"""The paper's."""
BETA = 0.04
"""The paper's, in all its experiments."""
BETAS = (0.01, 0.02, 0.04, 0.06, 0.1)
"""Tried on the design rows where no beta is given."""
_LEAST_BETA = 1e-4


@dataclass(frozen=True)
class ExitRates:
    """Which share of the inputs should answer where."""

    rates: NDArray[np.float64]
    """`(exits,)`, sum 1."""
    mu: float
    """Price of cost (relative to the last exit's); 0 = the budget does not bind."""
    beta: float
    allowed: float
    """The budget, as a fraction of the last exit's cost."""
    spent: float
    """``rates @ cost``, as a fraction of the last exit's cost."""


def exit_rates(
    error: NDArray[Any],
    cost: NDArray[Any],
    budget: float,
    *,
    beta: float = BETA,
    prior: Prior | NDArray[Any] = "cost",
    spend: Spend = "needed",
) -> ExitRates:
    """Solve for the rates (proposition 3.8).

    Args:
        error: `(exits,)` error of every exit on held-out rows, in [0, 1].
        cost: `(exits,)` cumulative cost, any unit, growing.
        budget: mean cost allowed, in the same unit.
        beta: weight of the prior; small follows the errors, large the prior.
        prior: "cost" is proportional to 1 / cost, "uniform" equal; or `(exits,)` positive weights.
        spend: "needed" may stay below the budget (the prior pulls to cheap exits); "all" lowers beta until the
            budget is used, if using it helps. Two exits then get the closed form, which uses exactly the budget.

    Raises:
        Infeasible: the budget is below the first exit's cost.
        PolicyError: numbers out of range.
    """
    error, cost = np.asarray(error, np.float64), np.asarray(cost, np.float64)
    _check(error, cost, budget, beta)
    weights = _prior(prior, cost)
    b, allowed = cost / cost[-1], min(float(budget / cost[-1]), 1.0)
    if allowed < b[0] - 1e-12:
        raise Infeasible(
            f"a budget of {allowed:g} of the last exit's cost is out of reach: the first exit alone costs "
            f"{b[0]:g}; the least feasible budget is {least_feasible(float(b[0]))}"
        )
    if len(b) == 2 and spend == "all":
        first = float((b[1] - allowed) / (b[1] - b[0]))
        rates, mu = np.array([first, 1 - first]), 0.0
    else:
        rates, mu = _solve(error, b, allowed, beta, weights)
        if spend == "all" and mu == 0:
            beta, (rates, mu) = _spend_all(error, b, allowed, beta, weights)
    return ExitRates(rates, mu, beta, allowed, float(rates @ b))


def _solve(
    error: NDArray[np.float64], b: NDArray[np.float64], allowed: float, beta: float, prior: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Rates and mu. The mean cost falls with mu (its slope is -Var(cost) / beta), so bisection finds the root."""

    def rates(mu: float) -> NDArray[np.float64]:
        z = np.log(prior) - (error + mu * b) / beta
        e = np.exp(z - z.max())
        return np.asarray(e / e.sum())

    if float(rates(0.0) @ b) <= allowed:
        return rates(0.0), 0.0
    high = 1.0
    while float(rates(high) @ b) > allowed and high < 1e12:
        high *= 2
    low = 0.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if float(rates(middle) @ b) > allowed else (low, middle)
    return rates(high), high  # the side that keeps the budget


def _spend_all(
    error: NDArray[np.float64], b: NDArray[np.float64], allowed: float, beta: float, prior: NDArray[np.float64]
) -> tuple[float, tuple[NDArray[np.float64], float]]:
    low, high = math.log(_LEAST_BETA), math.log(beta)
    for _ in range(50):
        middle = (low + high) / 2
        found, mu = _solve(error, b, allowed, math.exp(middle), prior)
        low, high = (middle, high) if mu > 0 or float(found @ b) >= allowed else (low, middle)
    return math.exp(low), _solve(error, b, allowed, math.exp(low), prior)


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
    found = []
    alive = np.ones(n, bool)
    upto = np.cumsum(rates)
    for k in range(len(rates) - 1):
        if mode == "paper":
            count = math.floor(n * min(1.0, upto[k] * (1 + 1 / math.sqrt(n))) + 1e-9)
            found.append(cut_at(scores[k], count, ties_in=True))
        else:
            row = scores[k][alive]
            found.append(cut_at(row, min(math.floor(n * rates[k] + 1e-9), len(row)), ties_in=False))
            alive &= ~(scores[k].astype(np.float32) >= np.float32(found[-1]))
    return tuple(found)


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
    found = []
    for b in BETAS if beta is None else (beta,):
        rates = exit_rates(error, cost, budget, beta=b, prior=prior, spend=spend)
        thresholds = thresholds_for(scores, rates.rates, mode)
        found.append((_accuracy(thresholds, scores, correct) if beta is None else 0.0, thresholds, rates))
    # Of equals the one nearest to the paper's, whatever their order.
    _, thresholds, rates = max(found, key=lambda f: (f[0], -abs(math.log(f[2].beta / BETA))))
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


def _check(error: NDArray[np.float64], cost: NDArray[np.float64], budget: float, beta: float) -> None:
    if error.ndim != 1 or error.shape != cost.shape or len(cost) < 2:
        raise PolicyError(f"error and cost must be (exits >= 2,), found {error.shape} and {cost.shape}")
    if not ((error >= 0) & (error <= 1)).all():  # NaN fails too
        raise PolicyError(f"an error is a share in [0, 1], found {error.tolist()}")
    if not (np.isfinite(cost).all() and cost[0] > 0 and (np.diff(cost) > 0).all()):
        raise PolicyError(f"costs must be positive and growing (cumulative), found {cost.tolist()}")
    if not 0 < budget < math.inf:
        raise PolicyError(f"a budget is a positive number in the unit of cost, found {budget!r}")
    if not 0 < beta < math.inf:
        raise PolicyError(f"beta must be a positive number, found {beta!r}")


def _prior(prior: Prior | NDArray[Any], cost: NDArray[np.float64]) -> NDArray[np.float64]:
    if isinstance(prior, str):
        if prior not in ("cost", "uniform"):
            raise PolicyError(f"unknown prior {prior!r}; known: cost, uniform")
        weights = 1 / cost if prior == "cost" else np.ones_like(cost)
    else:
        weights = np.asarray(prior, np.float64)
        if weights.shape != cost.shape or not (np.isfinite(weights).all() and (weights > 0).all()):
            raise PolicyError(f"a prior must be {len(cost)} positive numbers, found {weights.tolist()}")
    return np.asarray(weights / weights.sum())
