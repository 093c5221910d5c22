"""QUTE family: accept, continue or abstain on the uncertainty of heads that answer together.

QUTE (Ghanathe & Wilton, ICML 2025) does not stop early: its heads say how sure the network is, and the application
accepts an answer or does not. With exits before such an ensemble, a window around the point where acceptance is decided
lets only those inputs go on whose fate is still open.
"""

from __future__ import annotations

import math

from edgeexit.calibrate.rejection.selective import answered, aurc, meets, need_labels, parse_target, risk_coverage
from edgeexit.calibrate.rejection.window import WindowOptions, window_example, window_policy
from edgeexit.calibrate.search.family import CandidateFamily, PolicyFamily
from edgeexit.errors import PolicyError
from edgeexit.policy.policies import Window
from edgeexit.records.base import Rows


def qute_policy(
    design: Rows,
    target: str = "cov@0.02",
    *,
    score: str | None = None,
    temperatures: tuple[float, ...] | None = None,
    pass_rate: float | None = None,
    first: int | None = None,
) -> Window:
    """A policy that accepts answers of at least `tau`, abstains below, and between two exits may continue.

    Args:
        design: rows with labels.
        target: "cov@R" or "risk@C", as `window.window_policy` reads it.
        score: what decides; None = the score that ranks the last exit's errors best on the design rows (least area
            under the risk-coverage curve), "ensemble" and "learned" among the candidates where the exits give them.
        temperatures: `(exits,)` divisors of the logits; None = the artifact's own.
        pass_rate: share of the rows that may continue; None = 0.2.
        first: the exit that has the window; None = the last but one.

    Raises:
        Infeasible, PolicyError, DataError: as `window.window_policy`.
    """
    need_labels(design)
    score = score or best_score(design, temperatures)
    if design.exits > 1:
        first = design.exits - 2 if first is None else first
        return window_policy(
            design, target, 0.2 if pass_rate is None else pass_rate, first, score=score, temperatures=temperatures
        )
    if pass_rate is not None or first is not None:
        raise PolicyError(f"{design.name} has one exit, so nothing continues: leave pass rate and first exit out")
    kind, share = parse_target(target)
    curve = risk_coverage(*answered(Window((), (), math.inf, score, temperatures), design))
    tau = curve.threshold[meets(curve, kind, share, design.name)]
    return Window((), (), float(tau), score, temperatures)


def best_score(design: Rows, temperatures: tuple[float, ...] | None = None) -> str:
    """The score that ranks the last exit's right answers above its wrong ones best; the first of equals.

    Raises:
        DataError: no labels, or NaN scores.
    """
    need_labels(design)
    return min(design.score_names, key=lambda s: aurc(design.scores(s, temperatures)[-1], design.right[-1]))


def _select(design: Rows, target: str, asked: CandidateFamily) -> Window:
    o = asked.read(WindowOptions)
    return qute_policy(
        design,
        target,
        score=asked.score,
        temperatures=asked.temperatures,
        pass_rate=o.pass_rate,
        first=o.first,
    )


QUTE = PolicyFamily(
    "qute",
    "QUTE",
    "a window on an ensemble's uncertainty",
    select=_select,
    example=window_example,
    options=WindowOptions,
    least_exits=1,
    pick_score=best_score,
)
