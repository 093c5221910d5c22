"""Calibration: from a target (a budget, an accuracy, an allowed drop, a guarantee) to an operating point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeexit.calibrate.guarantees.conformal import conformal_sets, measure_sets
from edgeexit.calibrate.guarantees.ordered import ordered_candidates
from edgeexit.calibrate.guarantees.regime import regime_of
from edgeexit.calibrate.guarantees.risk import Certificate, Guarantee, certify
from edgeexit.calibrate.metrics.intervals import paired, wilson
from edgeexit.calibrate.rejection.qute import qute_policy
from edgeexit.calibrate.rejection.selective import parse_target, selected
from edgeexit.calibrate.rejection.window import window_policy
from edgeexit.calibrate.rows import check_pair, need_exits, need_rows, need_tellable
from edgeexit.calibrate.search.candidates import DEFAULT_FAMILY, CandidateFamily
from edgeexit.calibrate.search.cross_fit import for_accuracy, for_drop
from edgeexit.calibrate.search.eero import eero_policy
from edgeexit.common.measures import shown, shown_range
from edgeexit.errors import DataError, PolicyError
from edgeexit.policy.operating_point import OperatingPoint
from edgeexit.policy.policies import Policy
from edgeexit.policy.sets import SetMode
from edgeexit.records.base import Rows, outcome, replay
from edgeexit.records.classification import class_outputs

REJECTING = ("window", "qute")
"""Families whose answers the application may reject."""


def calibrate(
    design: Rows,
    *,
    policy: str | None = None,
    score: str | None = None,
    budget: float | None = None,
    accuracy: float | None = None,
    accuracy_drop: float | None = None,
    guarantee: Guarantee | None = None,
    selective: str | None = None,
    options: Mapping[str, Any] | None = None,
    held_out: Rows | None = None,
    sets: float | None = None,
    set_mode: SetMode = "nested",
    temperatures: tuple[float, ...] | None = None,
    name: str | None = None,
    artifact: str | None = None,
) -> OperatingPoint:
    """Choose a policy on the design rows and say what to expect of it. Exactly one target must be given.

    Args:
        design: the rows the numbers are chosen on.
        policy: the family, of `candidates.FAMILIES`: "eero" (thresholds that follow from exit rates), "threshold" (one
            per exit, searched), "shared" (one for all), "window" (for applications that reject), "qute" (the same on an
            ensemble's uncertainty, one exit is enough), "qexit", "patience" or "fixed". None = eero, and under a
            guarantee a threshold per exit, see `ordered`.
        score: what thresholds compare; of `edgeexit.policy.scores.NAMES`. None = maxprob, of transcripts
            ctc_sequence_logprob; for "qute", what ranks errors best.
        budget: mean cost allowed, as a fraction of the last exit's, in (0, 1].
        accuracy: accuracy wanted (agreement with the last exit where there are no labels; 1 less the error rate of
            transcripts), in (0, 1]. Chosen by cross-fitting, as a drop is; see `cross_fit`.
        accuracy_drop: accuracy that may be lost against the last exit, in [0, 1).
        guarantee: a loss to be bounded: the design rows order the policies, the held-out rows certify.
        selective: for policies "window" and "qute": "cov@0.02" or "risk@0.8", see `window.window_policy`.
        options: of the policy: `mode`, `beta`, `prior`, `spend` of `eero.eero`; `pass_rate`, `first` of
            `window.window_policy` and `qute.qute_policy`.
        held_out: other rows, for `expected`; None = the design rows, whose estimates are optimistic.
        sets: share of prediction sets that may miss the true class, in (0, 1); calibrated on the held-out rows.
        set_mode: see `edgeexit.policy.sets.ConformalSets`.
        temperatures: `(exits,)` divisors of the logits; None = the artifact's own.
        name: of the operating point; None = made of the target, such as "budget-0.3".
        artifact: the artifact the outputs were recorded on; None = unknown.

    Raises:
        Infeasible: no setting meets the target, or none can be certified; the message says what would.
        PolicyError: not exactly one target, one outside its range, or an unknown policy or score.
        DataError: too few rows, `held_out` has other exits or costs, or is the design rows again, or is missing for a
            guarantee.
    """
    targets = {
        "budget": budget,
        "accuracy": accuracy,
        "accuracy_drop": accuracy_drop,
        "selective": selective,
        "guarantee": guarantee,
    }
    family = policy or DEFAULT_FAMILY
    need_exits(design, family)
    need_tellable(design, family, score)
    given = [key for key, value in targets.items() if value is not None]
    if len(given) != 1:
        found = ", ".join(given) or "none"
        raise PolicyError(f"give exactly one target of {', '.join(targets)}; found {found}")
    if (family in REJECTING) != (selective is not None):
        raise PolicyError("a selective target (cov@0.02, risk@0.8) and policy window or qute go together")
    if held_out is not None:
        check_pair(design, held_out)
    need_rows(design, held_out)
    rows = design if held_out is None else held_out
    candidates = CandidateFamily(family, score or design.default_score, temperatures, options or {})
    asked: dict[str, float]
    promise, extra = None, {}
    if guarantee is not None:
        certificate = _certified(design, held_out, guarantee, policy, candidates)
        chosen, promise = certificate.policy, certificate.promise
        asked = {"alpha": guarantee.alpha}
        if guarantee.method != "crc":  # which has no confidence
            asked["confidence"] = 1 - guarantee.delta
        surely = "crc" if guarantee.method == "crc" else f"{1 - guarantee.delta:g}-{guarantee.method}"
        name = name or f"{promise['what']}-{guarantee.alpha:g}-{surely}"
    elif selective is not None:
        make = qute_policy if policy == "qute" else window_policy
        rest: dict[str, Any] = {**(options or {}), **({} if score is None else {"score": score})}
        window = make(design, selective, temperatures=temperatures, **rest)
        kind, share = parse_target(selective)
        chosen, asked = window, {"coverage_at_risk" if kind == "cov" else "risk_at_coverage": share}
        seen = selected(window, rows, window.tau)
        extra = {"tau": window.tau, "coverage": seen.coverage, "risk": seen.risk}
        if seen.risk is not None:
            extra["risk_low"], extra["risk_high"] = wilson(seen.risk, round(seen.coverage * rows.n))
    elif budget is not None:
        asked = {"budget": budget}
        if family == "eero":
            chosen, rates = eero_policy(
                design, budget, candidates.score, temperatures=temperatures, **candidates.options
            )
            extra = {"allowed": rates.allowed, "planned": rates.spent, "beta": rates.beta, "mu": rates.mu}
        else:
            chosen = candidates.front(design).for_budget(budget).policy
    elif accuracy is not None:
        asked = {"accuracy": accuracy}
        chosen = for_accuracy(design, candidates, accuracy).policy
    else:
        assert accuracy_drop is not None
        asked = {"accuracy_drop": accuracy_drop}
        chosen = for_drop(design, candidates, accuracy_drop).policy
    found_sets = None
    if sets is not None:
        if held_out is None:
            raise DataError(f"prediction sets are calibrated on rows of their own; {design.name} has only design rows")
        if guarantee is not None and set_mode != "nested":
            # These sets belong to a policy that the certificate chose on the very same rows.
            raise PolicyError(f"--guarantee and {set_mode} prediction sets would share their rows: use nested sets")
        apart = class_outputs(design, "prediction sets"), class_outputs(held_out, "prediction sets")
        found_sets = conformal_sets(*apart, sets, set_mode, chosen, temperatures=temperatures)
        quality = measure_sets(found_sets, apart[1], chosen)
        extra |= {"set_coverage": quality.coverage, "set_size": quality.size}
    if name is None:
        (what, value), *_ = asked.items()
        name = f"{what.replace('accuracy_', '')}-{value:g}"
        name = name if policy is None else f"{policy}-{name}"
    data: dict[str, Any] = {"design": design.name, "design_rows": design.n}
    if held_out is not None:
        data |= {"held_out": held_out.name, "held_out_rows": held_out.n}
    return OperatingPoint(
        name=name,
        policy=chosen,
        artifact=artifact,
        asked=asked,
        expected={
            **_measured(chosen, rows),
            **extra,
            "measured_on": f"{rows.n} held-out rows of {rows.name}" + (", which also certified it" if promise else "")
            if held_out is not None
            else f"the {rows.n} design rows of {rows.name} themselves, which is optimistic",
        },
        promise=promise,
        data=data,
        sets=None if found_sets is None else found_sets.to_dict(),
        drift=None if held_out is None else regime_of(chosen, held_out).to_dict(),
    )


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


def _certified(
    design: Rows, rows: Rows | None, asked: Guarantee, policy: str | None, candidates: CandidateFamily
) -> Certificate:
    """The cheapest policy that passes on rows of its own."""
    if rows is None:
        raise DataError(f"a guarantee is certified on rows of its own; {design.name} has only the design rows")
    return certify(ordered_candidates(design, policy, candidates), rows, asked)
