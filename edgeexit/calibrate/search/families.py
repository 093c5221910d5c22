"""Families of policies by name, each as one question: what is chosen under this budget?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.search.eero import EERO_SCORE, Mode, eero_policy
from edgeexit.calibrate.search.front import ParetoFront, Point
from edgeexit.calibrate.search.pareto import pareto, patience_path, qexit_path
from edgeexit.errors import Infeasible, PolicyError
from edgeexit.policy.policies import Policy, fixed_exit
from edgeexit.policy.scores import ANSWER_SCORES, NAMES
from edgeexit.records.base import Outcome, Rows, outcome, replay

RULES = ("eero", "eero-survivors", "qexit", "patience")
"""Policies that are more than thresholds on the score they are named by."""
ADAPTIVE = (*ANSWER_SCORES, *(f"shared-{s}" for s in ANSWER_SCORES), *RULES)
"""Policies that look at the outputs; `shared-` is one threshold for all exits, a plain score one for each;
`eero` is EERO on the margin, its paper's score, and `eero-survivors` spends the budget fully instead of keeping it
in expectation; `qexit` is Q-exit on max posterior; both on the default score where rows hold transcripts. Where rows
hold scores of their own, `families` adds them."""
BASELINES = ("fixed", "random")
"""The best single exit within the budget, as a network of its own; and random exits at the rates of
the default score (`maxprob`), the control that shows what the score is worth."""


@dataclass(frozen=True)
class Choice:
    """What was chosen on the design rows, and what it does on held-out rows."""

    design_cost: float
    design_accuracy: float
    found: Outcome
    thresholds: tuple[float, ...] | None = None
    patience: int | None = None
    q: float | None = None


Chooser = Callable[[float], Choice]
"""Budget -> what was chosen under it; raises Infeasible."""


def families(records: Rows) -> tuple[str, ...]:
    """The adaptive families that these rows allow: those of `ADAPTIVE`, and thresholds on the rows' own scores."""
    known = records.score_names
    own = [name for name in known if name not in ANSWER_SCORES]
    rules = [name for name in ADAPTIVE if name in RULES or name.removeprefix("shared-") in known]
    return (*rules, *own, *(f"shared-{name}" for name in own))


def score_of(name: str, records: Rows) -> str | None:
    """What a family's policies compare on these rows; None for patience and the baselines."""
    if name.startswith("eero"):
        return EERO_SCORE if EERO_SCORE in records.score_names else records.default_score
    score = records.default_score if name == "qexit" else name.removeprefix("shared-")
    return score if score in NAMES else None


def path_of(name: str, design: Rows) -> ParetoFront:
    """The path of an adaptive family; EERO has none, it is solved for each budget (`eero`).

    Raises:
        PolicyError: not one of `families`.
    """
    if name not in families(design):
        raise PolicyError(f"unknown policy {name!r}; known: {', '.join(families(design))}")
    if name == "patience":
        return patience_path(design)
    if name == "qexit":
        return qexit_path(design, design.default_score)
    return pareto(design, name.removeprefix("shared-"), shared=name.startswith("shared-"))


def adaptive(path: ParetoFront, held_out: Rows) -> Chooser:
    """The best point of a path within the budget."""
    measured: dict[Policy, Outcome] = {}  # neighbouring budgets often share a point

    def choose(budget: float) -> Choice:
        point = path.for_budget(budget)
        policy = point.policy
        if policy not in measured:
            measured[policy] = outcome(replay(policy, held_out), held_out)
        return Choice(
            point.cost,
            point.accuracy,
            measured[policy],
            getattr(policy, "thresholds", None),
            getattr(policy, "patience", None),
            getattr(policy, "q", None),
        )

    return choose


def eero(design: Rows, held_out: Rows, mode: Mode, points: list[Point]) -> Chooser:
    """EERO solved for every budget; what it chose is added to `points`."""

    def choose(budget: float) -> Choice:
        policy, _ = eero_policy(design, budget, score_of("eero", design) or "", mode=mode)
        there = outcome(replay(policy, design), design)
        points.append(Point(policy, there.cost, there.accuracy))
        found = outcome(replay(policy, held_out), held_out)
        return Choice(there.cost, there.accuracy, found, policy.thresholds)

    return choose


def fixed(design: Rows, held_out: Rows) -> Chooser:
    """The best exit that fits the budget as a network of its own."""
    right = design.correct.mean(1, dtype=np.float64)
    costs = design.relative_static_cost

    def choose(budget: float) -> Choice:
        within = [k for k in range(design.exits) if costs[k] <= budget + 1e-12]
        if not within:
            raise Infeasible(f"no single exit costs at most {budget:g}")
        k = max(within, key=lambda k: (right[k], -costs[k]))
        found = replace(outcome(np.full(held_out.n, k), held_out), cost=float(costs[k]))
        return Choice(float(costs[k]), float(right[k]), found, fixed_exit(k, design.exits).thresholds)

    return choose


def random(path: ParetoFront, design: Rows, held_out: Rows, seed: int) -> Chooser:
    """Random exits at the design rates of the path's point."""

    def choose(budget: float) -> Choice:
        rates = outcome(replay(path.for_budget(budget).policy, design), design).exit_rates
        rng = np.random.default_rng(seed)  # the same order at every budget, so that the line is smooth
        there = outcome(_deal(rates, design.n, rng), design)
        return Choice(there.cost, there.accuracy, outcome(_deal(rates, held_out.n, rng), held_out))

    return choose


def _deal(rates: Sequence[float], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Random exits at these rates, as exactly as n rows allow."""
    place = rng.permutation((np.arange(n) + 0.5) / n)
    return np.minimum(np.searchsorted(np.cumsum(rates), place), len(rates) - 1)
