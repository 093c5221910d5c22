"""Specs of a calibration: target, policies to choose from, and split of the rows; each validated once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, TypedDict

from edgeexit.calibrate.budget import Budget
from edgeexit.calibrate.families import DEFAULT_FAMILY, all_families, family_of
from edgeexit.calibrate.guarantees.risk import Guarantee
from edgeexit.calibrate.rejection.selective import parse_target
from edgeexit.calibrate.search.family import CandidateFamily, NoOptions, PolicyFamily
from edgeexit.calibrate.search.front import check_budget
from edgeexit.errors import PolicyError
from edgeexit.policy.sets import SetMode
from edgeexit.records.base import R, Rows

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class Target:
    """What a policy must meet; exactly one field is set.

    Raises:
        PolicyError: none or several are set, or one is outside its range.
    """

    budget: Budget | None = None
    """Mean cost allowed."""
    accuracy: float | None = None
    """Accuracy wanted (agreement with the last exit where there are no labels; 1 less the error rate of transcripts),
    in (0, 1]."""
    accuracy_drop: float | None = None
    """Accuracy that may be lost against the last exit, in [0, 1)."""
    selective: str | None = None
    """For policies that reject inputs: "cov@0.02" (most coverage at a risk), "risk@0.8" (least risk at a coverage)."""
    guarantee: Guarantee | None = None
    """A loss to be bounded."""

    def __post_init__(self) -> None:
        names = [f.name for f in fields(self)]
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise PolicyError(f"give exactly one target of {', '.join(names)}; found {', '.join(given) or 'none'}")
        if self.budget is not None and self.budget.unit == "fraction":
            check_budget(self.budget.value)
        if self.accuracy is not None and not 0 < self.accuracy <= 1:
            raise PolicyError(
                f"a target accuracy (of an error rate, such as 1 - WER) is a fraction in (0, 1], "
                f"found {self.accuracy!r}"
            )
        if self.accuracy_drop is not None and not 0 <= self.accuracy_drop < 1:
            raise PolicyError(
                f"a drop of accuracy is a fraction in [0, 1), found {self.accuracy_drop!r}; 0.01 is one point"
            )
        if self.selective is not None:
            parse_target(self.selective)

    @property
    def asked(self) -> dict[str, float]:
        """The target as an operating point stores it. A budget is a fraction of the last exit's cost there."""
        if self.budget is not None:
            return {"budget": self.budget.value}
        if self.accuracy is not None:
            return {"accuracy": self.accuracy}
        if self.accuracy_drop is not None:
            return {"accuracy_drop": self.accuracy_drop}
        if self.selective is not None:
            kind, share = parse_target(self.selective)
            return {"coverage_at_risk" if kind == "cov" else "risk_at_coverage": share}
        assert self.guarantee is not None
        return self.guarantee.asked

    @property
    def name(self) -> str:
        """Name for an operating point, such as "budget-0.3"."""
        if self.guarantee is not None:
            return self.guarantee.name
        ((what, value),) = self.asked.items()
        return f"{what.replace('accuracy_', '')}-{value:g}"


class CalibrationKeywords(TypedDict, total=False):
    """The fields of `Target` and `CalibrationSpec` as keywords of one call."""

    budget: Budget | float | str | None
    accuracy: float | None
    accuracy_drop: float | None
    selective: str | None
    guarantee: Guarantee | str | None
    policy: str | None
    score: str | None
    options: Mapping[str, object] | object | None
    sets: float | None
    set_mode: SetMode
    name: str | None


@dataclass(frozen=True)
class Split:
    """How rows are divided into design rows and held-out rows."""

    design: float = 0.5
    """Share of the rows that thresholds are chosen on; the others measure what to expect."""
    seed: int = 0

    def of(self, rows: R) -> tuple[R, R]:
        """Design and held-out rows.

        Raises:
            DataError: a part would be empty.
        """
        return rows.split(self.design, self.seed)


HALVES = Split()


@dataclass(frozen=True)
class CalibrationSpec:
    """Target, policy family and prediction sets of one calibration.

    Raises:
        PolicyError: an unknown family or option, a family that does not go with the target, or prediction sets that
            would share the rows of a guarantee.
    """

    target: Target
    policy: str | None = None
    """Family, of `families.family_names`; None = eero, and under a guarantee a threshold per exit."""
    score: str | None = None
    """What thresholds compare, of `edgeexit.policy.scores.NAMES`; None = the rows' default, or the family's choice."""
    options: object = NoOptions()
    """Of the family: its options by name, or its dataclass of them."""
    sets: float | None = None
    """Share of prediction sets that may miss the true class, in (0, 1); None = no sets."""
    set_mode: SetMode = "nested"
    """See `edgeexit.policy.sets.ConformalSets`."""
    name: str | None = None
    """Of the operating point; None = made of the target, such as "budget-0.3"."""

    def __post_init__(self) -> None:
        family, target = self.family, self.target
        if isinstance(self.options, Mapping):
            object.__setattr__(self, "options", family.read_options(self.options))
        elif not is_dataclass(self.options):
            raise PolicyError(f"options of a policy are a mapping or its dataclass, found {self.options!r:.80}")
        if (target.selective is None) == (family.candidates is None and family.front is None):
            rejecting = " or ".join(f.name for f in all_families() if f.select is not None)
            raise PolicyError(f"a selective target (cov@0.02, risk@0.8) and policy {rejecting} go together")
        if self.sets is not None and target.guarantee is not None and self.set_mode != "nested":
            # These sets belong to a policy that the certificate chose on the very same rows.
            raise PolicyError(
                f"--guarantee and {self.set_mode} prediction sets would share their rows: use nested sets"
            )

    @classmethod
    def of(cls, spec: CalibrationSpec | None = None, /, **keywords: Unpack[CalibrationKeywords]) -> CalibrationSpec:
        """The spec, or one of the keywords of `calibrate`: budgets and guarantees may be texts, options a mapping.

        Raises:
            PolicyError: as `Target` and `CalibrationSpec`.
            TypeError: a spec and keywords, or an unknown keyword.
        """
        if unknown := [name for name in keywords if name not in CalibrationKeywords.__annotations__]:
            raise TypeError(
                f"unknown keyword {', '.join(unknown)}; known: {', '.join(CalibrationKeywords.__annotations__)}"
            )
        if spec is not None:
            if keywords:
                raise TypeError(f"give a spec or keywords; found a spec and {', '.join(keywords)}")
            return spec
        budget, guarantee = keywords.get("budget"), keywords.get("guarantee")
        if isinstance(budget, str):
            budget = Budget.parse(budget)
        elif budget is not None and not isinstance(budget, Budget):
            budget = Budget(budget)
        target = Target(
            budget=budget,
            accuracy=keywords.get("accuracy"),
            accuracy_drop=keywords.get("accuracy_drop"),
            selective=keywords.get("selective"),
            guarantee=Guarantee.parse(guarantee) if isinstance(guarantee, str) else guarantee,
        )
        rest = {k: v for k, v in keywords.items() if k not in [f.name for f in fields(Target)]}
        if rest.get("options") is None:
            rest.pop("options", None)
        return cls(target, **rest)  # type: ignore[arg-type]

    @property
    def family(self) -> PolicyFamily:
        return family_of(self.policy or DEFAULT_FAMILY)

    def candidates(self, rows: Rows, temperatures: tuple[float, ...] | None = None) -> CandidateFamily:
        """The family with its score on these rows and its options."""
        family, score = self.family, self.score
        if score is None:
            picked = None if family.pick_score is None else family.pick_score(rows, temperatures)
            score = picked or rows.default_score
        return CandidateFamily(family, score, temperatures, self.options)

    def on(self, rows: R, seconds: Sequence[float] | None = None) -> tuple[R, CalibrationSpec]:
        """The rows at the costs that the target counts, and the spec with its budget as a fraction of the last exit's.

        Args:
            rows: design or held-out rows.
            seconds: `(exits,)` measured seconds to answer at each exit of this device; None = not measured.

        Raises:
            Infeasible, DataError: as `Budget.on`.
            PolicyError: costs that the family cannot use, or a budget in another unit.
        """
        family, budget = self.family, self.target.budget
        if family.price is not None:
            rows = family.price(rows, self.options)
        if budget is None or budget.unit == "fraction":
            return rows, self
        rows, fraction = budget.on(rows, seconds, family.unit)
        return rows, replace(self, target=Target(budget=Budget(fraction)))
