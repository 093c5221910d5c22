"""Window family: spend the later exits on the inputs whose acceptance they can still change.

Xia and Bouganis, "Window-Based Early-Exit Cascades for Uncertainty Estimation", ICCV 2023: around the confidence at
which the application accepts, a window of ``pass_rate / 2`` of the rows to either side goes on; the surest *and the
least sure* rows stop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.rejection.selective import (
    answered,
    check_share,
    meets,
    need_labels,
    parse_target,
    risk_coverage,
)
from edgeexit.calibrate.search.family import CandidateFamily, PolicyFamily, option
from edgeexit.calibrate.search.thresholds import place_cuts
from edgeexit.errors import Infeasible, PolicyError
from edgeexit.policy.policies import Window
from edgeexit.records.base import Rows

_NEVER, _ALWAYS = (-math.inf, math.inf), (-math.inf, -math.inf)


def window_policy(
    design: Rows,
    target: str = "cov@0.02",
    pass_rate: float = 0.2,
    first: int = 1,
    second: int = -1,
    *,
    between: Sequence[int] = (),
    score: str | None = None,
    temperatures: tuple[float, ...] | None = None,
) -> Window:
    """A window at exit `first`, around the confidence that meets the target there; the rest answers at `second`.

    Exits not named never answer. `tau` of the result meets the target for the policy as a whole; it differs from
    the window's own middle, because the later exit's scores stand on another scale.

    Args:
        design: rows with labels. Their numbers are estimates: nothing is promised for other rows.
        target: "cov@R", the most rows accepted at a risk of at most R; or "risk@C", the least risk where at least
            the share C is accepted. Both in (0, 1).
        pass_rate: share of the rows that may go on from a window, in (0, 1). Ties at its ends stop, and a target
            near an end of the scores leaves half a window: fewer then go on, never more.
        first: the first exit with a window; negative counts from the end.
        second: the exit that answers what the windows let through.
        between: exits with windows of their own, on the scores and the rank that meets the target there. They are
            placed over all rows, so at most `pass_rate` of all rows go on from each.
        score: what is compared; None = the rows' default.
        temperatures: `(exits,)` divisors of the logits; None = the artifact's own.

    Raises:
        Infeasible: the target is out of reach, met by accepting everybody, or ties leave no window.
        PolicyError: target, pass rate or exits that make no sense, an unknown score.
        DataError: no labels, or NaN scores.
    """
    need_labels(design)
    kind, share = parse_target(target)
    check_share("pass rate", pass_rate)
    stages = _stages(first, between, second, design.exits)
    score = score or design.default_score
    scores = design.scores(score, temperatures)
    ends = [_NEVER] * (design.exits - 1)
    if stages[-1] < design.exits - 1:
        ends[stages[-1]] = _ALWAYS
    for k in stages[:-1]:
        where = f"{design.name}, exit {k}"
        curve = risk_coverage(scores[k], design.right[k])
        met = meets(curve, kind, share, where)
        if met == len(curve.risk) - 1:
            raise Infeasible(
                f"{where}: {target} accepts every row, so there is nothing for a window to decide; "
                f"let exit {k} answer everything, or ask for more"
            )
        ends[k] = _around(scores[k], float(curve.threshold[met]), pass_rate, where)
    low, high = zip(*ends, strict=True)
    unset = Window(low, high, math.inf, score, temperatures)  # where rows stop does not depend on tau
    curve = risk_coverage(*answered(unset, design))
    tau = curve.threshold[meets(curve, kind, share, f"{design.name}, the whole policy")]
    return Window(low, high, float(tau), score, temperatures)


def _stages(first: int, between: Sequence[int], second: int, exits: int) -> list[int]:
    given = [first, *between, second]
    stages = [k + exits if k < 0 else k for k in given]
    if not all(0 <= k < exits for k in stages) or (np.diff(stages) <= 0).any():
        raise PolicyError(f"a window needs exits 0 to {exits - 1} in growing order, found {given}")
    return stages


def _around(scores: NDArray[np.float32], tau: float, pass_rate: float, where: str) -> tuple[float, float]:
    """The ends of the widest window from rank - h to rank + h of `tau`, h half the pass rate."""
    n = len(scores)
    cuts = place_cuts(scores, n)
    below = np.searchsorted(np.sort(scores), cuts)  # rows under each cut; whole blocks of ties, hence exact
    rank, h = np.count_nonzero(scores < np.float32(tau)), n * pass_rate / 2
    low = int(np.searchsorted(below, max(rank - h, 0) - 1e-9))
    high = int(np.searchsorted(below, min(rank + h, n) + 1e-9, side="right")) - 1
    if low >= high:
        raise Infeasible(
            f"{where}: no window of at most {pass_rate:.2%} of the rows lies around {tau:.6g}; its {n} scores have "
            f"{len(cuts) - 1} distinct values. Use a larger pass rate, more rows or another score"
        )
    return float(cuts[low]), float(cuts[high])


@dataclass(frozen=True)
class WindowOptions:
    """Options of families that reject; see `window_policy`."""

    pass_rate: float | None = field(
        default=None, metadata=option("share of the rows that may go on. [default: 0.2]", float)
    )
    first: int | None = field(
        default=None, metadata=option("exit that has the window. [default: 1; qute: the last but one]", int)
    )


def _select(design: Rows, target: str, asked: CandidateFamily) -> Window:
    o = asked.read(WindowOptions)
    return window_policy(
        design,
        target,
        0.2 if o.pass_rate is None else o.pass_rate,
        1 if o.first is None else o.first,
        score=asked.score,
        temperatures=asked.temperatures,
    )


def window_example(exits: int, score: str) -> Window:
    """Any window policy."""
    return Window((0.0,) * (exits - 1), (1.0,) * (exits - 1), 0.5, score)


WINDOW = PolicyFamily(
    "window",
    "{score} windows",
    "a window for applications that reject",
    select=_select,
    example=window_example,
    options=WindowOptions,
)
