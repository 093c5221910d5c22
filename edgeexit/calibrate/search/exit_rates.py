"""Exit rates under an average-cost budget by exponential weights: the first half of EERO.

Valade, Hebiri and Gay, "EERO: Early Exit with Reject Option for Efficient Classification with limited budget",
UAI 2025. The rates minimise ``sum(rates * error) + beta * KL(rates, prior)`` under ``sum(rates * cost) <= budget``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.search.front import least_feasible
from edgeexit.errors import Infeasible, PolicyError

Prior = Literal["cost", "uniform"]
Spend = Literal["needed", "all"]

BETA = 0.04
"""The paper's, in all its experiments."""
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
        rates, mu = _solve(error, b, allowed, math.exp(middle), prior)
        low, high = (middle, high) if mu > 0 or float(rates @ b) >= allowed else (low, middle)
    return math.exp(low), _solve(error, b, allowed, math.exp(low), prior)


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
