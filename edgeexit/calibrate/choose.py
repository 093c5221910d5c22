"""From a wish (a budget, an accuracy, an allowed drop) to an operating point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeexit.calibrate.conditional import conditional_thresholds
from edgeexit.calibrate.conformal import conformal_sets, measure_sets
from edgeexit.calibrate.eero import eero_policy
from edgeexit.calibrate.path import Path
from edgeexit.calibrate.qute import qute_policy
from edgeexit.calibrate.regime import regime_of
from edgeexit.calibrate.risk import Certificate, Guarantee, certify
from edgeexit.calibrate.rows import check_pair, need_exits, need_tellable
from edgeexit.calibrate.search import eero_path, fixed_path, pareto, patience_path, qexit_path
from edgeexit.calibrate.selective import parse_target, selected
from edgeexit.calibrate.window import window_policy
from edgeexit.errors import DataError, PolicyError
from edgeexit.measures import inside, shown
from edgeexit.operating_point import OperatingPoint
from edgeexit.policy import Policy, fixed_exit
from edgeexit.records import class_outputs
from edgeexit.rows import Rows, outcome, replay
from edgeexit.sets import SetMode

FAMILIES = ("threshold", "shared", "eero", "window", "qute", "qexit", "patience", "fixed")
REJECTING = ("window", "qute")
"""Families whose answers the application may reject."""


def calibrate(
    design: Rows,
    *,
    policy: str = "threshold",
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
        policy: "threshold" (one per exit), "shared" (one for all), "eero" (exit rates under a budget),
            "window" (for applications that reject), "qute" (the same on an ensemble's uncertainty, one exit is enough),
            "qexit", "patience" or "fixed".
        score: what thresholds compare; of `edgeexit.scores.NAMES`. None = maxprob, of transcripts
            ctc_sequence_logprob; for "qute", what ranks errors best.
        budget: mean cost allowed, as a fraction of the last exit's, in (0, 1].
        accuracy: accuracy wanted (agreement with the last exit where there are no labels; 1 less the error rate of
            transcripts), in (0, 1].
        accuracy_drop: accuracy that may be lost against the last exit, in [0, 1).
        guarantee: a loss to be bounded: the design rows order the policies, the held-out rows certify.
        selective: for policies "window" and "qute": "cov@0.02" or "risk@0.8", see `window.window_policy`.
        options: of the policy: `mode`, `beta`, `prior`, `spend` of `eero.eero`; `pass_rate`, `first` of
            `window.window_policy` and `qute.qute_policy`.
        held_out: other rows, for `expected`; None = the design rows, whose estimates are optimistic.
        sets: share of prediction sets that may miss the true class, in (0, 1); calibrated on the held-out rows.
        set_mode: see `edgeexit.sets.ConformalSets`.
        temperatures: `(exits,)` divisors of the logits; None = the artifact's own.
        name: of the operating point; None = made of the target, such as "budget-0.3".
        artifact: the artifact the outputs were recorded on; None = unknown.

    Raises:
        Infeasible: no setting meets the target, or none can be certified; the message says what would.
        PolicyError: not exactly one target, one outside its range, or an unknown policy or score.
        DataError: `held_out` has other exits or costs, or is the design rows again, or is missing for a guarantee.
    """
    targets = {
        "budget": budget,
        "accuracy": accuracy,
        "accuracy_drop": accuracy_drop,
        "selective": selective,
        "guarantee": guarantee,
    }
    need_exits(design, policy)
    need_tellable(design, policy, score)
    given = [key for key, value in targets.items() if value is not None]
    if len(given) != 1:
        found = ", ".join(given) or "none"
        raise PolicyError(f"give exactly one target of {', '.join(targets)}; found {found}")
    if (policy in REJECTING) != (selective is not None):
        raise PolicyError("a selective target (cov@0.02, risk@0.8) and policy window or qute go together")
    if held_out is not None:
        check_pair(design, held_out)
    rows = design if held_out is None else held_out
    families = _Families(design, policy, score or design.default_score, temperatures, options or {})
    asked: dict[str, float]
    promise, extra = None, {}
    if guarantee is not None:
        certificate = families.certified(held_out, guarantee)
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
    elif policy == "eero" and budget is not None:
        chosen, rates = eero_policy(design, budget, families.score, temperatures=temperatures, **(options or {}))
        extra = {"allowed": rates.allowed, "planned": rates.spent, "beta": rates.beta, "mu": rates.mu}
        asked = {"budget": budget}
    else:
        path = families.path()
        (what,) = given
        asked = {what: float(targets[what])}  # type: ignore[arg-type]
        if budget is not None:
            chosen = path.for_budget(budget).policy
        else:
            chosen = path.for_accuracy(asked[what] if accuracy is not None else _after_drop(design, asked[what])).policy
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
        name = name if policy == "threshold" else f"{policy}-{name}"
    data: dict[str, Any] = {"design": design.name, "design_rows": design.n}
    if held_out is not None:
        data |= {"held_out": held_out.name, "held_out_rows": held_out.n}
    measured = outcome(replay(chosen, rows), rows)
    return OperatingPoint(
        name=name,
        policy=chosen,
        artifact=artifact,
        asked=asked,
        expected={
            "exit_rates": list(measured.exit_rates),
            "cost": measured.cost,
            rows.measure: shown(rows.measure, measured.accuracy),
            "n": rows.n,
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


@dataclass(frozen=True)
class _Families:
    """Policies of one family, chosen on the design rows."""

    design: Rows
    policy: str
    score: str
    temperatures: tuple[float, ...] | None
    options: Mapping[str, Any]

    def path(self) -> Path:
        """From cheap to dear."""
        if self.policy in ("threshold", "shared"):
            return pareto(self.design, self.score, shared=self.policy == "shared", temperatures=self.temperatures)
        if self.policy == "eero":
            return eero_path(self.design, self.score, temperatures=self.temperatures, **self.options)
        if self.policy == "qexit":
            return qexit_path(self.design, self.score, temperatures=self.temperatures)
        if self.policy == "patience":
            return patience_path(self.design)
        if self.policy == "fixed":
            return fixed_path(self.design, self.score)
        raise PolicyError(f"unknown policy {self.policy!r}; known: {', '.join(FAMILIES)}")

    def certified(self, rows: Rows | None, asked: Guarantee) -> Certificate:
        """The boldest policy that passes on rows of its own."""
        if rows is None:
            raise DataError(f"a guarantee is certified on rows of its own; {self.design.name} has only the design rows")
        if asked.accumulated:
            if self.policy != "threshold":
                raise PolicyError(f"an accumulated guarantee sets a threshold per exit; found policy {self.policy!r}")
            return conditional_thresholds(self.design, rows, asked, self.score, temperatures=self.temperatures)
        # The last exit loses nothing, so it stands first.
        sequence: list[Policy] = [fixed_exit(self.design.exits - 1, self.design.exits, self.score)]
        return certify([*sequence, *(p.policy for p in reversed(self.path().points))], rows, asked)


def _after_drop(design: Rows, drop: float) -> float:
    full, what = float(design.correct[-1].mean(dtype=float)), inside(design.measure)
    if not 0 <= drop < 1:
        raise PolicyError(f"a drop of {what} is a fraction in [0, 1), found {drop!r}; 0.01 is one point")
    if drop >= full:
        raise PolicyError(f"a drop of {drop:g} from the last exit's {what} of {full:.4g} leaves nothing")
    return full - drop
