"""From a wish (a budget, an accuracy, an allowed drop) to an operating point."""

from __future__ import annotations

from typing import Any

from edgeexit.calibrate.path import Path
from edgeexit.calibrate.search import fixed_path, pareto, patience_path
from edgeexit.errors import DataError, PolicyError
from edgeexit.policy import OperatingPoint
from edgeexit.records import Records, outcome, replay

FAMILIES = ("threshold", "shared", "patience", "fixed")


def calibrate(
    design: Records,
    *,
    policy: str = "threshold",
    score: str = "maxprob",
    budget: float | None = None,
    accuracy: float | None = None,
    accuracy_drop: float | None = None,
    held_out: Records | None = None,
    temperatures: tuple[float, ...] | None = None,
    name: str | None = None,
    artifact: str | None = None,
) -> OperatingPoint:
    """Choose a policy on the design rows and say what to expect of it. Exactly one target must be given.

    Args:
        design: the rows the numbers are chosen on.
        policy: "threshold" (one per exit), "shared" (one for all), "patience" or "fixed".
        score: what thresholds compare; a key of `edgeexit.scores.SCORES`.
        budget: mean cost allowed, as a fraction of the last exit's, in (0, 1].
        accuracy: accuracy wanted (agreement with the last exit where there are no labels), in (0, 1].
        accuracy_drop: accuracy that may be lost against the last exit, in [0, 1).
        held_out: other rows, for `expected`; None = the design rows, whose estimates are optimistic.
        temperatures: `(exits,)` divisors of the logits; None = the artifact's own.
        name: of the operating point; None = made of the target, such as "budget-0.3".
        artifact: the artifact the outputs were recorded on; None = unknown.

    Raises:
        Infeasible: no setting meets the target; the message says what would.
        PolicyError: not exactly one target, one outside its range, or an unknown policy or score.
        DataError: `held_out` has other exits or costs, or is the design rows again.
    """
    targets = {"budget": budget, "accuracy": accuracy, "accuracy_drop": accuracy_drop}
    asked = {key: value for key, value in targets.items() if value is not None}
    if len(asked) != 1:
        found = ", ".join(asked) or "none"
        raise PolicyError(f"give exactly one target of budget, accuracy and accuracy_drop; found {found}")
    if held_out is not None:
        check_pair(design, held_out)
    path = _path(design, policy, score, temperatures)
    if budget is not None:
        point = path.for_budget(budget)
    elif accuracy is not None:
        point = path.for_accuracy(accuracy)
    else:
        point = path.for_accuracy(_after_drop(design, asked["accuracy_drop"]))
    (what, value), *_ = asked.items()
    data: dict[str, Any] = {"design": design.name, "design_rows": design.n}
    if held_out is not None:
        data |= {"held_out": held_out.name, "held_out_rows": held_out.n}
    rows = design if held_out is None else held_out
    measured = outcome(replay(point.policy, rows), rows)
    return OperatingPoint(
        name=name or f"{what.replace('accuracy_', '')}-{value:g}",
        policy=point.policy,
        artifact=artifact,
        asked=asked,
        expected={
            "exit_rates": list(measured.exit_rates),
            "cost": measured.cost,
            rows.measure: measured.accuracy,
            "n": rows.n,
            "measured_on": f"{rows.n} held-out rows of {rows.name}"
            if held_out is not None
            else f"the {rows.n} design rows of {rows.name} themselves, which is optimistic",
        },
        data=data,
    )


def check_pair(design: Records, held_out: Records) -> None:
    """Refuse held-out rows that cannot be compared with the design rows, or are the same.

    Raises:
        DataError: other exits, costs or measure, or the same array.
    """
    if held_out is design or held_out.outputs is design.outputs:
        raise DataError(
            f"{held_out.name}: held-out rows must not be the design rows; split them: records.split(0.5, seed=0)"
        )
    if held_out.exits != design.exits or not (held_out.relative_cost == design.relative_cost).all():
        raise DataError(
            f"{held_out.name} has costs {held_out.relative_cost.tolist()}, {design.name} has "
            f"{design.relative_cost.tolist()}; design and held-out rows must come from one artifact"
        )
    if held_out.measure != design.measure:
        raise DataError(
            f"{design.name} measures {design.measure}, {held_out.name} {held_out.measure}; "
            "give labels to both or to neither"
        )


def _path(design: Records, policy: str, score: str, temperatures: tuple[float, ...] | None) -> Path:
    if policy in ("threshold", "shared"):
        return pareto(design, score, shared=policy == "shared", temperatures=temperatures)
    if policy == "patience":
        return patience_path(design)
    if policy == "fixed":
        return fixed_path(design, score)
    raise PolicyError(f"unknown policy {policy!r}; known: {', '.join(FAMILIES)}")


def _after_drop(design: Records, drop: float) -> float:
    full = float(design.correct[-1].mean(dtype=float))
    if not 0 <= drop < 1:
        raise PolicyError(f"an {design.measure} drop is a fraction in [0, 1), found {drop!r}; 0.01 is one point")
    if drop >= full:
        raise PolicyError(f"a drop of {drop:g} from the last exit's {design.measure} of {full:.4g} leaves nothing")
    return full - drop
