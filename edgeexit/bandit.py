"""Which of many candidates deserves the next exit? An upper-confidence bandit under one budget.

For N crops, windows, beams or detections of which one is wanted: all are looked at cheaply, and the layers that the
budget leaves go where value plus doubt is largest. Zouhar et al., "Early-Exit and Instant Confidence Translation
Quality Estimation", EACL 2026.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError, Infeasible, PolicyError

Step = Callable[[int, int], tuple[float, float]]
"""(candidate, exit) -> value there and its sigma: the standard deviation of the last exit's value around it.
Called once for every step taken, exit after exit of a candidate."""

SIGMA_PER_MEAN_ERROR = math.sqrt(math.pi / 2)
"""A Gaussian's standard deviation over its mean absolute error, which is what error heads predict."""


@dataclass(frozen=True)
class Chosen:
    """The candidate with the largest value when the budget was spent."""

    candidate: int
    value: float
    """Its value at the exit it has reached: an estimate, and as the largest of many a flattering one, unless that
    is the last exit."""
    reached: tuple[int, ...]
    """`(candidates,)` exit each of them has reached."""
    cost: float
    """Spent, in the unit of `step_cost`; never more than the budget."""


def best_candidate(
    step: Step,
    candidates: int,
    step_cost: Sequence[float] | NDArray[Any],
    budget: float,
    *,
    gamma: float = 1.0,
    start: int = 0,
) -> Chosen:
    """Take steps while one fits the budget, each where ``value + gamma * sigma`` is largest.

    A candidate whose next step no longer fits leaves the race, cheaper steps of the others go on: the last exit is
    often most of the cost, and giving up at the first that is too dear leaves much of a small budget unspent. Of
    equals the candidate with the lower number.

    Args:
        step: computes one more exit of one candidate; `recorded` makes one of arrays.
        candidates: how many.
        step_cost: `(exits,)` cost of getting to each exit from the one before: ``np.diff(records.cost, prepend=0)``.
        budget: fraction of what all candidates cost through all exits, in (0, 1].
        gamma: weight of the doubt; 0 = greedy.
        start: the exit all candidates are taken to first.

    Raises:
        Infeasible: the budget does not take all candidates to `start`; the message has the least one.
        PolicyError: a number outside its range.
        DataError: a step gave NaN or infinity, or a negative sigma.
    """
    cost = _check(candidates, step_cost, budget, gamma, start)
    total = budget * candidates * cost.sum() * (1 + 1e-12)  # a budget of exactly a sum of steps must allow them
    spent = float(candidates * cost[: start + 1].sum())
    if spent > total:
        least = float(cost[: start + 1].sum() / cost.sum())
        raise Infeasible(
            f"a budget of {budget:g} does not take {candidates} candidates to exit {start}; "
            f"the least feasible budget is {math.ceil(least * 1e4) / 1e4:g}"
        )
    values, index = np.empty(candidates), np.empty(candidates)
    reached = np.full(candidates, start)

    def take(i: int, k: int) -> None:
        value, sigma = (float(x) for x in step(i, k))
        if not (math.isfinite(value) and 0 <= sigma < math.inf):
            raise DataError(f"candidate {i}, exit {k}: value {value}, sigma {sigma}; both must be finite, sigma >= 0")
        values[i], index[i] = value, value + gamma * sigma

    for i in range(candidates):
        for k in range(start + 1):
            take(i, k)
    following = np.append(cost[1:], np.inf)  # nothing follows the last exit
    while (fits := spent + following[reached] <= total).any():
        i = int(np.where(fits, index, -np.inf).argmax())
        reached[i] += 1
        spent += float(cost[reached[i]])
        take(i, int(reached[i]))
    best = int(values.argmax())
    return Chosen(best, float(values[best]), tuple(int(k) for k in reached), spent)


def recorded(values: NDArray[Any], sigmas: NDArray[Any]) -> Step:
    """Steps through recorded values and sigmas, both `(exits, candidates)`.

    Raises:
        DataError: shapes that differ.
    """
    if values.ndim != 2 or values.shape != sigmas.shape:
        raise DataError(f"values and sigmas must both be (exits, candidates), found {values.shape} and {sigmas.shape}")
    return lambda i, k: (values[k, i], sigmas[k, i])


@dataclass(frozen=True, eq=False)
class SigmaTable:
    """Sigma by exit and value, for networks without an error head: learned from recorded values, no labels needed."""

    edges: NDArray[np.float64]
    """`(exits, bins - 1)` growing."""
    sigma: NDArray[np.float64]
    """`(exits, bins)`; all 0 at the last exit."""

    def __call__(self, value: Any, k: int) -> Any:
        """Sigma of a value (a number or an array) at exit `k`."""
        return self.sigma[k][np.searchsorted(self.edges[k], value, side="right")]

    @classmethod
    def learn(cls, values: NDArray[Any], bins: int = 10) -> SigmaTable:
        """From the mean distance to the last exit's value, in bins of equal width.

        Args:
            values: `(exits, n)` recorded on rows like those to come.
            bins: how many; one that holds no rows takes the sigma of the whole exit.

        Raises:
            DataError: not such an array, or NaN in it.
            PolicyError: less than one bin.
        """
        values = np.asarray(values, np.float64)
        if values.ndim != 2 or values.size == 0 or not np.isfinite(values).all():
            raise DataError(f"values must be finite and (exits, n >= 1), found shape {values.shape}")
        if bins < 1:
            raise PolicyError(f"a table of sigmas needs at least 1 bin, found {bins}")
        edges = np.linspace(values.min(1), values.max(1), bins + 1, axis=1)[:, 1:-1]
        sigma = np.empty((len(values), bins))
        for k, (v, error) in enumerate(zip(values, np.abs(values - values[-1]), strict=True)):
            at = np.searchsorted(edges[k], v, side="right")
            rows = np.bincount(at, minlength=bins)
            sums = np.bincount(at, error, bins)
            sigma[k] = SIGMA_PER_MEAN_ERROR * np.where(rows > 0, sums / np.maximum(rows, 1), error.mean())
        return cls(edges, sigma)


def _check(
    candidates: int, step_cost: Sequence[float] | NDArray[Any], budget: float, gamma: float, start: int
) -> NDArray[np.float64]:
    cost = np.asarray(step_cost, np.float64)
    if candidates < 1:
        raise PolicyError(f"a choice needs at least 1 candidate, found {candidates}")
    if cost.ndim != 1 or not len(cost) or not (np.isfinite(cost) & (cost > 0)).all():
        raise PolicyError(f"step costs must be positive numbers, one per exit, found {cost.tolist()}")
    if not 0 < budget <= 1:
        raise PolicyError(f"a budget is a fraction of all candidates through all exits in (0, 1], found {budget!r}")
    if not 0 <= gamma < math.inf:
        raise PolicyError(f"gamma must be a number of at least 0, found {gamma!r}")
    if not 0 <= start < len(cost):
        raise PolicyError(f"there is no exit {start} to start at; the costs are for exits 0 to {len(cost) - 1}")
    return cost
