from __future__ import annotations

import pytest

from edgeexit.calibrate import ParetoFront, Point
from edgeexit.errors import Infeasible, PolicyError
from edgeexit.policy.policies import Patience

POINTS = [(0.2, 0.6), (0.5, 0.8), (0.7, 0.75), (0.7, 0.81), (0.9, 0.81)]
PATH = ParetoFront.of("made", "accuracy", [Point(Patience(1), cost, share) for cost, share in reversed(POINTS)])


def test_points_that_another_beats_are_dropped() -> None:
    assert [(p.cost, p.accuracy) for p in PATH.points] == [(0.2, 0.6), (0.5, 0.8), (0.7, 0.81)]


@pytest.mark.parametrize(("budget", "cost"), [(0.2, 0.2), (0.49, 0.2), (0.5, 0.5), (1, 0.7)])
def test_a_budget_buys_the_best_that_it_covers(budget: float, cost: float) -> None:
    assert PATH.for_budget(budget).cost == cost


def test_an_infeasible_budget_names_the_least_feasible_one() -> None:
    path = ParetoFront.of("made", "accuracy", [Point(Patience(1), 0.123456, 0.5)])
    with pytest.raises(Infeasible, match=r"budget of 0\.1 .* least feasible budget is 0\.1235$"):
        path.for_budget(0.1)
    assert path.for_budget(0.1235).cost == 0.123456


@pytest.mark.parametrize("wish", [0.0, -1.0, 1.01, float("nan")])
def test_wishes_outside_their_range_are_refused(wish: float) -> None:
    with pytest.raises(PolicyError, match="in \\(0, 1\\]"):
        PATH.for_budget(wish)
