"""Calibration: from a target (a budget, an accuracy, an allowed drop, a guarantee) to an operating point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeexit.calibrate.guarantees.conformal import conformal_sets, measure_sets
from edgeexit.calibrate.guarantees.ordered import ordered_candidates
from edgeexit.calibrate.guarantees.regime import regime_of
from edgeexit.calibrate.guarantees.risk import certify
from edgeexit.calibrate.metrics.intervals import paired, wilson
from edgeexit.calibrate.rejection.selective import selected
from edgeexit.calibrate.rows import check_pair, need_classes, need_exits, need_rows, need_tellable
from edgeexit.calibrate.search.cross_fit import for_accuracy, for_drop
from edgeexit.calibrate.spec import CalibrationKeywords, CalibrationSpec
from edgeexit.common.measures import shown, shown_range
from edgeexit.errors import DataError
from edgeexit.policy.operating_point import OperatingPoint
from edgeexit.policy.policies import Policy
from edgeexit.policy.sets import ConformalSets
from edgeexit.records.base import Rows, outcome, replay
from edgeexit.records.classification import class_outputs

if TYPE_CHECKING:
    from typing_extensions import Unpack


def calibrate(
    design: Rows,
    spec: CalibrationSpec | None = None,
    *,
    held_out: Rows | None = None,
    temperatures: tuple[float, ...] | None = None,
    artifact: str | None = None,
    **keywords: Unpack[CalibrationKeywords],
) -> OperatingPoint:
    """Choose a policy on the design rows and measure it. Exactly one target must be given.

    ``calibrate(rows, budget=0.3)``, ``calibrate(rows, policy="threshold", accuracy_drop=0.01, held_out=others)``

    Args:
        design: the rows the numbers are chosen on.
        spec: target, policy family, prediction sets and name; None = made of the keywords.
        held_out: other rows, for `expected`, prediction sets and guarantees; None = the design rows, whose estimates
            are optimistic.
        temperatures: `(exits,)` divisors of the logits; None = the artifact's own.
        artifact: the artifact the outputs were recorded on; None = unknown.
        keywords: the fields of `spec.Target` and `spec.CalibrationSpec`: the target `budget` (a fraction of the last
            exit's cost in (0, 1], or "4MMACs"), `accuracy`, `accuracy_drop`, `selective` or `guarantee` (certified on
            the held-out rows, in the order that the design rows gave); and `policy`, `score`, `options`, `sets`,
            `set_mode`, `name`. Not with a `spec`.

    Raises:
        Infeasible: no setting meets the target, or none can be certified; the message says what would.
        PolicyError: not exactly one target, one outside its range, or an unknown policy, option or score.
        DataError: too few rows, `held_out` has other exits or costs, or is the design rows again, or is missing for a
            guarantee.
        TypeError: a spec and keywords, or an unknown keyword.
    """
    asked = CalibrationSpec.of(spec, **keywords)
    family, target = asked.family, asked.target
    if family.least_exits > 1:
        need_exits(design)
    need_classes(design)
    if family.compares_scores:
        need_tellable(design, asked.score)
    if held_out is not None:
        check_pair(design, held_out)
    need_rows(design, held_out)
    if held_out is not None:
        held_out, _ = asked.on(held_out)
    design, asked = asked.on(design)
    rows = design if held_out is None else held_out
    chosen = _choose(design, held_out, asked, temperatures)
    expected = {**_measured(chosen.policy, rows), **chosen.expected}
    sets = None
    if asked.sets is not None:
        sets, measured = _prediction_sets(design, held_out, asked, chosen.policy, temperatures)
        expected |= measured
    data: dict[str, Any] = {"design": design.name, "design_rows": design.n}
    if held_out is not None:
        data |= {"held_out": held_out.name, "held_out_rows": held_out.n}
        certified = ", which also certified it" if chosen.promise else ""
        expected["measured_on"] = f"{rows.n} held-out rows of {rows.name}{certified}"
    else:
        expected["measured_on"] = f"the {rows.n} design rows of {rows.name} themselves, which is optimistic"
    target = asked.target
    prefix = "" if asked.policy is None or target.guarantee is not None else f"{asked.policy}-"
    return OperatingPoint(
        name=asked.name or f"{prefix}{target.name}",
        policy=chosen.policy,
        artifact=artifact,
        asked=target.asked,
        expected=expected,
        promise=chosen.promise,
        data=data,
        sets=None if sets is None else sets.to_dict(),
        drift=None if held_out is None else regime_of(chosen.policy, held_out).to_dict(),
    )


@dataclass(frozen=True)
class _Chosen:
    """The policy that meets the target."""

    policy: Policy
    expected: Mapping[str, float | None] = field(default_factory=dict)
    """Numbers of the choice itself, beside those that are measured of every policy."""
    promise: Mapping[str, Any] | None = None


def _choose(
    design: Rows, held_out: Rows | None, asked: CalibrationSpec, temperatures: tuple[float, ...] | None
) -> _Chosen:
    target = asked.target
    candidates = asked.candidates(design, temperatures)
    if target.guarantee is not None:
        if held_out is None:
            raise DataError(f"a guarantee is certified on rows of its own; {design.name} has only the design rows")
        certificate = certify(ordered_candidates(design, asked.policy, candidates), held_out, target.guarantee)
        return _Chosen(certificate.policy, promise=certificate.promise)
    if target.selective is not None:
        assert candidates.family.select is not None
        window = candidates.family.select(design, target.selective, candidates)
        seen = selected(window, design if held_out is None else held_out, window.tau)
        expected = {"tau": window.tau, "coverage": seen.coverage, "risk": seen.risk}
        if seen.risk is not None:
            n = design.n if held_out is None else held_out.n
            expected["risk_low"], expected["risk_high"] = wilson(seen.risk, round(seen.coverage * n))
        return _Chosen(window, expected)
    if target.budget is not None:
        solution = candidates.under_budget(design, target.budget.value)
        return _Chosen(solution.policy, solution.expected)
    if target.accuracy is not None:
        return _Chosen(for_accuracy(design, candidates, target.accuracy).policy)
    assert target.accuracy_drop is not None
    return _Chosen(for_drop(design, candidates, target.accuracy_drop).policy)


def _prediction_sets(
    design: Rows,
    held_out: Rows | None,
    asked: CalibrationSpec,
    policy: Policy,
    temperatures: tuple[float, ...] | None,
) -> tuple[ConformalSets, dict[str, float]]:
    """Sets calibrated on the held-out rows, and what they did there."""
    assert asked.sets is not None
    if held_out is None:
        raise DataError(f"prediction sets are calibrated on rows of their own; {design.name} has only design rows")
    apart = class_outputs(design, "prediction sets"), class_outputs(held_out, "prediction sets")
    sets = conformal_sets(*apart, asked.sets, asked.set_mode, policy, temperatures=temperatures)
    quality = measure_sets(sets, apart[1], policy)
    return sets, {"set_coverage": quality.coverage, "set_size": quality.size}


def _measured(policy: Policy, rows: Rows) -> dict[str, Any]:
    """What a policy does on these rows, with 95 % intervals and the last exit's figure beside it."""
    taken = replay(policy, rows)
    result, measure = outcome(taken, rows), rows.measure
    low, high = shown_range(measure, *wilson(result.accuracy, rows.n, result.variance))
    lost, half = paired(rows.correct[-1], rows.correct[taken, np.arange(rows.n)])
    return {
        "exit_rates": list(result.exit_rates),
        "cost": result.cost,
        measure: shown(measure, result.accuracy),
        f"{measure}_low": low,
        f"{measure}_high": high,
        f"last_exit_{measure}": shown(measure, float(rows.correct[-1].mean(dtype=np.float64))),
        "drop": lost,
        "drop_low": lost - half,
        "drop_high": lost + half,
        "n": rows.n,
    }
