"""Comparison of rules that reject: a window, the best threshold at no more cost, and the last exit alone.

For applications that answer what is sure enough and reject the rest. Policies and the confidence `tau` to accept at
are chosen on the design rows for the most coverage at a risk; the held-out rows show what they give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgeexit.calibrate.metrics.intervals import wilson
from edgeexit.calibrate.rejection.selective import answered, need_labels, risk_coverage, selected
from edgeexit.calibrate.rejection.window import window_policy
from edgeexit.calibrate.rows import check_pair
from edgeexit.calibrate.search.front import ParetoFront
from edgeexit.calibrate.search.pareto import pareto
from edgeexit.calibrate.search.thresholds import cut_at
from edgeexit.errors import Infeasible
from edgeexit.policy.policies import Policy, Threshold, Window, fixed_exit
from edgeexit.records.base import Rows, outcome, replay

RISKS = (0.01, 0.02, 0.05)
RULES = ("window", "threshold", "last exit alone")
PASS_RATE = 0.2


@dataclass(frozen=True)
class Rejection:
    """One rule at one target risk. All numbers are None where the target is out of reach."""

    rule: str
    """"window"; "threshold", the best of the same design cost or less; or "last exit alone"."""
    target: float
    """Risk allowed on the design rows: share of errors among the accepted."""
    n: int
    """Held-out rows."""
    refusal: str | None = None
    """Why there is no such rule; None = there is."""
    tau: float | None = None
    """Answers of at least this score are accepted."""
    coverage: float | None = None
    """Share of rows accepted; on the held-out rows, as everything below."""
    risk: float | None = None
    """None too where nobody is accepted."""
    risk_low: float | None = None
    """95 % Wilson interval, as `risk_high`."""
    risk_high: float | None = None
    accuracy: float | None = None
    """Over all rows, the rejected too."""
    cost: float | None = None
    """Mean, as a fraction of the last exit's; of the last exit alone, as a network of its own."""
    exit_rates: tuple[float, ...] | None = None


def rejections(
    design: Rows, held_out: Rows, risks: Sequence[float] = RISKS, *, score: str | None = None
) -> tuple[Rejection, ...]:
    """Every rule of `RULES` at every target risk.

    The window stands at exit 1 (exit 0 where there are two exits only) and lets a fifth of the rows pass to the last
    exit; where accepting every row at that exit meets the target, that is the rule. The threshold is the one with the
    most coverage on the design rows among those that spend at most what the window spends there: per exit, shared, and
    at the window's own exit.

    Args:
        design: rows with labels to choose on.
        held_out: other rows of the same artifact.
        risks: targets in (0, 1).
        score: what is compared; None = the rows' default.

    Returns:
        Risk by risk, growing; rules in the order of `RULES`.

    Raises:
        DataError: no labels, NaN scores, or rows that cannot be compared.
        PolicyError: a risk outside (0, 1), or an unknown score.
    """
    check_pair(design, held_out)
    need_labels(design)
    score = score or design.default_score
    fronts = [pareto(design, score, shared=shared) for shared in (False, True)]
    last = design.exits - 1
    measured_rules = []
    for risk in sorted({float(r) for r in risks}):
        refusal, window = "", None
        k = min(1, last - 1)
        if risk_coverage(design.scores(score)[k], design.right[k]).risk[-1] <= risk:
            window = _every_row_at(k, last, score)
        else:
            try:
                window = window_policy(design, f"cov@{risk!r}", PASS_RATE, k, score=score)
            except Infeasible as e:
                refusal = str(e)
        if window is None:
            measured_rules += [
                Rejection(RULES[0], risk, held_out.n, refusal),
                Rejection(RULES[1], risk, held_out.n, "there is no window to compare a threshold with"),
            ]
        else:
            measured_rules += [
                _measured(RULES[0], risk, window, window.tau, held_out),
                _best(RULES[1], risk, _thresholds(window, fronts, design), design, held_out),
            ]
        alone = _best(RULES[2], risk, [fixed_exit(last, design.exits, score)], design, held_out)
        cost = None if alone.cost is None else float(design.relative_static_cost[last])
        measured_rules.append(replace(alone, cost=cost))
    return tuple(measured_rules)


def _every_row_at(k: int, last: int, score: str) -> Window:
    """Exit `k` answers everything and everything is accepted: what a window comes to where that meets the target."""
    never, always = math.inf, -math.inf
    return Window((always,) * last, tuple(always if j == k else never for j in range(last)), always, score)


def _thresholds(window: Window, fronts: Sequence[ParetoFront], design: Rows) -> list[Policy]:
    taken = replay(window, design)
    cost = outcome(taken, design).cost
    k = min(1, design.exits - 2)
    stopped = int((taken == k).sum())
    at = [math.inf] * (design.exits - 1)
    at[k] = cut_at(design.scores(window.score, window.temperatures)[k], stopped, ties_in=True)
    return [
        *(front.for_budget(cost).policy for front in fronts),
        Threshold(tuple(at), window.score, window.temperatures),
    ]


def _best(rule: str, risk: float, policies: Sequence[Policy], design: Rows, held_out: Rows) -> Rejection:
    """The policy that accepts most design rows at the risk, measured on the held-out rows."""
    best: tuple[float, float, Policy] | None = None
    for policy in policies:
        curve = risk_coverage(*answered(policy, design))
        met = curve.for_risk(risk)
        if met is not None and (best is None or curve.coverage[met] > best[0]):
            best = float(curve.coverage[met]), float(curve.threshold[met]), policy
    if best is None:
        return Rejection(rule, risk, held_out.n, f"no threshold reaches a risk of {risk:g} on the design rows")
    return _measured(rule, risk, best[2], best[1], held_out)


def _measured(rule: str, risk: float, policy: Policy, tau: float, held_out: Rows) -> Rejection:
    seen = selected(policy, held_out, tau)
    low = high = None
    if seen.risk is not None:
        low, high = wilson(seen.risk, round(seen.coverage * held_out.n))
    return Rejection(
        rule,
        risk,
        held_out.n,
        tau=tau,
        coverage=seen.coverage,
        risk=seen.risk,
        risk_low=low,
        risk_high=high,
        accuracy=seen.accuracy,
        cost=seen.cost,
        exit_rates=seen.exit_rates,
    )
