"""Pareto front of candidate policies by increasing cost."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edgeexit.errors import Infeasible, PolicyError
from edgeexit.policy.policies import Policy
from edgeexit.records.base import Rows, outcome, replay

_SLACK = 1e-12
"""Sums of rates times costs carry rounding errors; a budget of exactly an exit's cost must find that exit."""


@dataclass(frozen=True)
class Point:
    """One policy and what it did on the design rows."""

    policy: Policy
    cost: float
    """Mean cost as a fraction of the last exit's."""
    accuracy: float
    """Share answered right, or in agreement with the last exit where there are no labels; of an error rate, 1 less
    it."""


@dataclass(frozen=True)
class ParetoFront:
    """Policies none of which is beaten by another: both cost and accuracy grow strictly along the front."""

    name: str
    """What varies along it, for messages: "maxprob thresholds"."""
    measure: str
    """What `Point.accuracy` is, of `edgeexit.common.measures.MEASURES`."""
    points: tuple[Point, ...]

    @classmethod
    def of(cls, name: str, measure: str, candidates: Iterable[Point]) -> ParetoFront:
        """Keep the candidates that no cheaper one equals in accuracy."""
        points: list[Point] = []
        for point in sorted(candidates, key=lambda p: (p.cost, -p.accuracy)):
            if not points or (point.accuracy > points[-1].accuracy + _SLACK and point.cost > points[-1].cost):
                points.append(point)
        return cls(name, measure, tuple(points))

    def for_budget(self, budget: float) -> Point:
        """The most accurate point whose mean cost on the design rows is at most `budget`.

        Args:
            budget: fraction of the last exit's cost, in (0, 1].

        Raises:
            Infeasible: even the cheapest point costs more.
            PolicyError: not in (0, 1].
        """
        check_budget(budget)
        affordable = bisect_right(self.points, budget + _SLACK, key=lambda p: p.cost)
        if affordable == 0:
            raise Infeasible(
                f"{self.name}: a budget of {budget:g} of the last exit's cost is out of reach; the least "
                f"feasible budget is {least_feasible(self.points[0].cost)}"
            )
        return self.points[affordable - 1]


def measured(policies: Iterable[Policy], records: Rows) -> Iterator[Point]:
    """Every policy with its cost and accuracy on these rows."""
    for policy in policies:
        result = outcome(replay(policy, records), records)
        yield Point(policy, result.cost, result.accuracy)


def check_budget(budget: float) -> None:
    """Refuse what is no fraction of the last exit's cost.

    Raises:
        PolicyError: not in (0, 1].
    """
    if not 0 < budget <= 1:
        raise PolicyError(f"a budget is a fraction of the last exit's cost in (0, 1], found {budget!r}")


def least_feasible(value: float) -> str:
    """A budget in words: four digits, rounded so that asking for the printed number succeeds."""
    return text if float(text := f"{value:.4g}") >= value else f"{value * 1.001:.4g}"


def at_most(value: float) -> str:
    """An accuracy in words: four digits, rounded so that asking for the printed number succeeds."""
    return text if float(text := f"{value:.4g}") <= value else f"{value * 0.999:.4g}"
