"""Ladder of policies by increasing cost, solved once, so that a governor only looks them up."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from edgeexit.bundle.bundle import Bundle
from edgeexit.calibrate.budget import Budget
from edgeexit.calibrate.on_device import exit_seconds, solve_budget
from edgeexit.engine.decider import check_artifact
from edgeexit.engine.engine import Engine
from edgeexit.errors import Infeasible, PolicyError
from edgeexit.policy.operating_point import OperatingPoint
from edgeexit.policy.policies import Policy, fixed_exit

STEPS = 24


@dataclass(frozen=True)
class PolicyStep:
    """One policy of a ladder."""

    cost: float
    """Mean cost as a fraction of the last exit's."""
    policy: Policy
    point: OperatingPoint | None = None
    """Its operating point, with its promise; None = solved for a budget, without a promise."""


@dataclass(frozen=True)
class Ladder:
    """Policies in order of cost."""

    steps: tuple[PolicyStep, ...]
    certified: bool
    """Every step carries a promise: the governor moves among proven points only."""
    timed: bool = False
    """Costs are times measured on this device; otherwise MACs."""

    def __post_init__(self) -> None:
        if not self.steps:
            raise PolicyError("a governor needs at least one policy to choose")

    def at(self, budget: float) -> int:
        """Index of the most expensive step within the budget; 0, the cheapest, if none is within it."""
        return max(bisect_right([r.cost for r in self.steps], budget + 1e-9) - 1, 0)

    def check(self, engine: Engine) -> None:
        """Raise PolicyError unless an engine as it is now can follow every step."""
        for step in self.steps:
            engine.driver.fits(step.policy)
            if engine.drift is not None and step.policy != engine.policy:
                raise PolicyError(
                    "the engine has a drift monitor, whose bounds are those of one policy: under the others that a "
                    "governor takes it would raise alarms without drift. Set `engine.drift = None`"
                )
            if step.point is not None:
                check_artifact(step.point, engine.artifact)
            elif engine.sets is not None:
                engine.sets.fits(step.policy, engine.exits)

    @classmethod
    def solved(cls, engine: Engine, count: int = STEPS) -> Ladder:
        """EERO's thresholds for evenly spaced budgets, from the scores in the bundle and this device's stage times.

        If the times do not grow from exit to exit, as on a machine that was busy while they were measured, MACs are
        used instead (`timed` is False then), as a governor is needed most on busy machines.

        Raises:
            PolicyError: the bundle carries no scores for this artifact.
            DataError: the times do not grow, and MACs are unknown.
        """
        seconds = exit_seconds(engine)
        if seconds is not None and any(b <= a for a, b in pairwise(seconds)):
            seconds = None
        cost = np.array(seconds) if seconds is not None else engine.costs()[0]
        first = float(cost[0] / cost[-1])
        steps = [PolicyStep(first, fixed_exit(0, engine.exits, engine.artifact.score or "maxprob"))]
        for share in np.linspace(first, 1.0, count + 1)[1:-1]:
            target = f"{share * seconds[-1]:.9f}s" if seconds is not None else f"{share:.6f}"
            try:
                steps.append(PolicyStep(float(share), solve_budget(engine, Budget.parse(target))))
            except Infeasible:
                continue
        last = engine.exits - 1
        steps.append(PolicyStep(1.0, fixed_exit(last, engine.exits, engine.artifact.score or "maxprob")))
        return cls(tuple(steps), False, seconds is not None)

    @classmethod
    def certified_points(cls, bundle: Bundle, artifact: str, like: OperatingPoint | None = None) -> Ladder:
        """Ladder of the operating points of an artifact that carry a promise.

        Args:
            bundle: of the points.
            artifact: its name.
            like: only points that promise at least as much: the same loss, no larger bound, no smaller confidence.

        Raises:
            PolicyError: there is none.
        """
        points = [bundle.operating_point(n) for n in bundle.manifest.policies]
        proven = [p for p in points if p.promise is not None and p.artifact == artifact and "cost" in p.expected]
        proven = [p for p in proven if like is None or _keeps(p, like)]
        if not proven:
            raise PolicyError(f"{bundle.path}: no operating point of {artifact} carries a promise; see --guarantee")
        steps = sorted((PolicyStep(float(p.expected["cost"]), p.policy, p) for p in proven), key=lambda r: r.cost)
        return cls(tuple(steps), True)


def _keeps(point: OperatingPoint, like: OperatingPoint) -> bool:
    mine, other = point.promise or {}, like.promise or {}

    def bound(promise: Mapping[str, Any], key: str) -> float:
        value = promise.get(key)  # no delta: on average only
        return float(value) if isinstance(value, int | float) else math.inf

    no_wider = all(bound(mine, k) <= bound(other, k) for k in ("alpha", "delta"))
    return mine.get("what") == other.get("what") and no_wider
