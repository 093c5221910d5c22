"""Places of thresholds: between two neighbouring scores, never on one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def place_cuts(scores: NDArray[np.float32], limit: int) -> NDArray[np.float32]:
    """Thresholds that tell the `scores` apart, from all rows to none.

    Engines differ in the last bit of a score. A threshold half-way between two neighbouring scores decides
    the same on all of them; one that equals a score does not.

    Args:
        scores: any shape; tied scores are never separated, NaN and infinite ones never looked at.
        limit: at most this many thresholds between scores, at evenly spaced ranks.

    Returns:
        `(cuts,)` float32, growing; the first is -inf (everybody stops), the last inf (nobody does).
    """
    ordered = np.sort(scores[np.isfinite(scores)].astype(np.float32, copy=False).ravel())
    distinct = np.unique(ordered)
    upper = np.arange(1, len(distinct))
    if len(upper) > limit:
        ranks = np.linspace(0, len(ordered) - 1, limit + 2)[1:-1].round().astype(np.int64)
        upper = np.unique(np.searchsorted(distinct, ordered[ranks]))
        upper = upper[upper > 0]
    low, high = distinct[upper - 1], distinct[upper]
    middle = low + (high - low) * np.float32(0.5)
    # No float32 lies between two adjacent ones: `score >= high` is then the only way to part them.
    middle = np.where(middle > low, middle, high)
    return np.concatenate([[-np.inf], middle, [np.inf]]).astype(np.float32)


def cut_at(scores: NDArray[Any], count: int, *, ties_in: bool) -> float:
    """The threshold that the `count` largest scores reach; a tie across it stays whole.

    Args:
        scores: `(n,)` without NaN.
        count: 0 to n; n = everybody, also scores lower than any seen.
        ties_in: whether such a tie reaches it, so that at least `count` do; else whichever is nearer to `count`.

    Returns:
        Half-way between two neighbouring scores; inf = nobody, -inf = everybody.
    """
    if count >= len(scores):
        return -math.inf
    if count <= 0:
        return math.inf
    s = scores.astype(np.float32, copy=False)
    high = np.partition(s, len(s) - count)[len(s) - count]  # the count-th largest
    within, above = int(np.count_nonzero(s >= high)), int(np.count_nonzero(s > high))
    if not ties_in and count - above < within - count:
        if not above:
            return math.inf
        high = s[s > high].min()
    elif within == len(s):
        return -math.inf
    low = s[s < high].max()
    middle = low + (high - low) * np.float32(0.5)
    return float(middle if middle > low and np.isfinite(middle) else high)


def reached(scores: NDArray[np.float32], cuts: NDArray[np.float32]) -> NDArray[np.int64]:
    """How many of the `cuts` every score reaches: ``score >= cuts[j]`` exactly where the result is > j.

    The scores' ranks, that is, on the scale of the cuts; a NaN score reaches none, so it never stops.
    """
    count = np.searchsorted(cuts, scores, side="right")
    return np.where(np.isnan(scores), 0, count)
