"""Policy family: one row that says how policies of a kind are built, chosen, swept and drawn.

A new family is one module with a `PolicyFamily`, and its row in `edgeexit.calibrate.families` or an entry point in the
group ``edgeexit.policy_families`` of another distribution. Calibration, sweeps, the command line and the reports read
the row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from edgeexit.calibrate.search.front import ParetoFront, Point, measured
from edgeexit.errors import PolicyError
from edgeexit.policy.policies import Policy, Threshold, Window, fixed_exit
from edgeexit.records.base import Outcome, R, Rows

O = TypeVar("O")  # noqa: E741


def option(text: str, kind: Callable[[str], object] | tuple[str, ...]) -> dict[str, object]:
    """Metadata of a field of a family's options; the field's default is None = not set.

    Args:
        text: help of the command line's option.
        kind: from text to value, such as `float`; or the texts that are allowed.
    """
    return {"help": text, "kind": kind}


@dataclass(frozen=True)
class NoOptions:
    """Options of a family that has none."""


@dataclass(frozen=True)
class Solution:
    """A policy solved for a budget."""

    policy: Policy
    expected: Mapping[str, float] = field(default_factory=dict)
    """Numbers of the solution that an operating point stores under `expected`."""


@dataclass(frozen=True)
class Choice:
    """What was chosen under a budget on the design rows, and what it does on held-out rows."""

    design_cost: float
    design_accuracy: float
    measured: Outcome
    policy: Policy | None = None
    """None = no policy, such as random exits."""


Chooser = Callable[[float], Choice]
"""Budget -> what was chosen under it; raises Infeasible."""


@dataclass(frozen=True)
class SweepCurve:
    """One line of a sweep: a family on one score, with options."""

    name: str
    score: str | None
    """What its policies compare; None for patience and the baselines."""
    options: object = NoOptions()
    colour: str | None = None
    """``#rrggbb``; None = the score's."""
    dashed: bool = False
    role: Literal["policy", "control", "single exits"] = "policy"
    """A control keeps no budget of its own; single exits are drawn as points instead."""


@dataclass(frozen=True)
class PolicyFamily:
    """A kind of policy. Candidates, a front or a selection must be given, or else it appears in sweeps only."""

    name: str
    label: str
    """For messages; ``{score}`` stands for the score."""
    summary: str
    """What its policies are, for help texts."""
    candidates: Callable[[Rows, CandidateFamily], Sequence[Policy]] | None = None
    """Policies to choose from; None = those on `front`."""
    front: Callable[[Rows, CandidateFamily], ParetoFront] | None = None
    """Its policies by increasing cost; None = the candidates that no cheaper one equals."""
    solve: Callable[[Rows, float, CandidateFamily], Solution] | None = None
    """Choose under a budget directly; None = the best point on the front."""
    select: Callable[[Rows, str, CandidateFamily], Window] | None = None
    """For applications that reject inputs: choose for a selective target ("cov@0.02", "risk@0.8")."""
    example: Callable[[int, str], Policy] = lambda exits, score: Threshold((1.0,) * (exits - 1), score)
    """Exits, score -> any of its policies: an engine is asked whether it can run that."""
    options: type = NoOptions
    """Dataclass of `option` fields, each of them an option of the command line too."""
    compares_scores: bool = True
    least_exits: int = 2
    own_score: str | None = None
    """Score of its paper, taken where rows have it and no score is named; None = the rows' default."""
    pick_score: Callable[[Rows, tuple[float, ...] | None], str] | None = None
    """Design rows, temperatures -> the score where none is named; None = the rows' default."""
    price: Callable[[R, Any], R] | None = None
    """Rows, options -> the rows at the family's own costs; None = the recorded ones, or a device's seconds."""
    unit: str = "macs"
    """Unit of the costs, of `edgeexit.calibrate.budget`."""
    curves: Callable[[Sequence[str], str], Sequence[SweepCurve]] = lambda scores, default: ()
    """Scores of the rows, their default -> lines in a sweep."""
    baseline: Callable[[Rows, Rows, int], Chooser] | None = None
    """Design rows, held-out rows, seed -> what a sweep reports instead of a chosen policy; None = a policy."""

    @property
    def calibrates(self) -> bool:
        """Whether a policy of the family can be chosen for a target."""
        return any((self.candidates, self.front, self.select))

    def read_options(self, values: Mapping[str, object]) -> object:
        """The options by name as the family's dataclass.

        Raises:
            PolicyError: an option that the family does not have.
        """
        known = [f.name for f in fields(self.options)]
        if unknown := [name for name in values if name not in known]:
            options = ", ".join(known) or "none"
            raise PolicyError(f"policy {self.name!r} has no option {', '.join(unknown)}; its options: {options}")
        return self.options(**values)


@dataclass(frozen=True)
class CandidateFamily:
    """A family with its score and options; builds its candidates on any rows."""

    family: PolicyFamily
    score: str = "maxprob"
    temperatures: tuple[float, ...] | None = None
    """`(exits,)` divisors of the logits; None = the artifact's own."""
    options: object = NoOptions()
    """Of the family's `options`."""

    @property
    def name(self) -> str:
        """For messages."""
        return self.family.label.format(score=self.score)

    def read(self, kind: type[O]) -> O:
        """The options as their dataclass; all unset where they are of another family."""
        return self.options if isinstance(self.options, kind) else kind()

    def candidates(self, rows: Rows) -> tuple[Point, ...]:
        """Policies with their cost and accuracy on these rows, by increasing cost; the last exit alone is the last.

        Raises:
            PolicyError: the family rejects inputs, or an unknown score or option.
        """
        if self.family.candidates is not None:
            policies = self.family.candidates(rows, self)
        elif self.family.front is not None:
            policies = [point.policy for point in self.family.front(rows, self).points]
        else:
            raise PolicyError(f"policy {self.family.name!r} is not chosen from candidates")
        last = fixed_exit(rows.exits - 1, rows.exits, self.score)
        return tuple(sorted(measured([*dict.fromkeys(policies), last], rows), key=lambda p: p.cost))

    def front(self, rows: Rows) -> ParetoFront:
        """The candidates, the last exit among them, that no cheaper one equals in accuracy on these rows."""
        return ParetoFront.of(self.name, rows.measure, self.candidates(rows))

    def under_budget(self, rows: Rows, budget: float) -> Solution:
        """The policy for a mean cost of at most `budget`, a fraction of the last exit's, on these rows.

        Raises:
            Infeasible: the cheapest policy costs more.
            PolicyError: a budget outside (0, 1].
        """
        if self.family.solve is not None:
            return self.family.solve(rows, budget, self)
        return Solution(self.front(rows).for_budget(budget).policy)
