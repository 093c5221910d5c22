"""Line of a sweep: one curve of a family, chosen on design rows at any budget and measured on held-out rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.search.family import CandidateFamily, Choice, PolicyFamily, SweepCurve
from edgeexit.calibrate.search.front import ParetoFront, Point, measured
from edgeexit.policy.policies import Policy
from edgeexit.records.base import Outcome, Rows, outcome, replay


class Line:
    """Chooses under one budget after the other.

    Args:
        curve: of the family.
        family: its row in the table.
        design: rows to choose on.
        held_out: rows to measure on.
        seed: of random baselines.

    Raises:
        PolicyError: the family cannot be searched on these rows.
    """

    def __init__(self, curve: SweepCurve, family: PolicyFamily, design: Rows, held_out: Rows, seed: int) -> None:
        self.curve, self._family, self._design, self._held_out = curve, family, design, held_out
        self._asked = CandidateFamily(family, curve.score or design.default_score, options=curve.options)
        self._measured: dict[Policy, Outcome] = {}  # neighbouring budgets often share a policy
        self._solved: list[Point] = []
        self._front: ParetoFront | None = None
        self._baseline = None if family.baseline is None else family.baseline(design, held_out, seed)
        if family.baseline is None and family.solve is None:
            self._front = (family.front or (lambda rows, asked: asked.front(rows)))(design, self._asked)

    def choose(self, budget: float) -> Choice:
        """The choice under a budget, a fraction of the last exit's cost.

        Raises:
            Infeasible: no policy costs so little.
        """
        if self._baseline is not None:
            return self._baseline(budget)
        if self._front is not None:
            return self._on_held_out(self._front.for_budget(budget))
        (point,) = measured([self._asked.under_budget(self._design, budget).policy], self._design)
        self._solved.append(point)
        return self._on_held_out(point)

    def choose_again(self, budget: float) -> Choice:
        """The choice on `front` under a budget.

        Raises:
            Infeasible: no policy costs so little.
        """
        front = self.front
        return self.choose(budget) if front is None else self._on_held_out(front.for_budget(budget))

    @property
    def front(self) -> ParetoFront | None:
        """Policies that a verdict compares; of families that solve budgets those chosen so far. None = a baseline."""
        if self._baseline is not None or self._front is not None:
            return self._front
        return ParetoFront.of(self._asked.name, self._design.measure, self._solved)

    @property
    def scoring(self) -> NDArray[np.float64] | None:
        """`(exits,)` mean seconds that its scores took on the held-out rows; None = none, or not measured."""
        return None if self._baseline is not None else self._held_out.scoring_seconds(self.curve.score)

    def _on_held_out(self, point: Point) -> Choice:
        policy = point.policy
        if policy not in self._measured:
            self._measured[policy] = outcome(replay(policy, self._held_out), self._held_out)
        return Choice(point.cost, point.accuracy, self._measured[policy], policy)
