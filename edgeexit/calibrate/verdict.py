"""Do adaptive exits pay on these records? Asked at equal accuracy, against the best exit taken alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeexit.calibrate.intervals import paired
from edgeexit.calibrate.path import Path, Point
from edgeexit.measures import article, is_error, shown
from edgeexit.rows import Rows, outcome, replay

_OPEN = 0.01
"""An interval that reaches further than one point to either side is too wide to say "equal"."""


@dataclass(frozen=True)
class Verdict:
    """One sentence and its numbers, all but `static_*` None where no policy could be compared."""

    text: str
    pays: bool | None
    """None: no adaptive policy was given."""
    static_exit: int
    """Most accurate exit on the design rows, the cheapest among equals."""
    static_cost: float
    """Of a network with this exit alone, as a fraction of the adaptive network's last exit."""
    static_accuracy: float
    """On the held-out rows, as everything below."""
    n: int
    policy: str | None = None
    """Cheapest that is as accurate on the design rows."""
    cost: float | None = None
    accuracy: float | None = None
    saving: float | None = None
    """``1 - cost / static_cost``."""
    difference: float | None = None
    """Adaptive minus static accuracy, over the same rows; of an error rate, 1 less it is the accuracy."""
    difference_low: float | None = None
    """95 % interval, as `difference_high`."""
    difference_high: float | None = None


def judge(design: Rows, held_out: Rows, paths: Mapping[str, Path]) -> Verdict:
    """Compare the cheapest policy that equals the best single exit; choose on design rows, then compare.

    The cheapest of many points that look equal is one that was lucky on the design rows. A point therefore
    counts as equal when it is ahead there by one standard error of the paired difference (the rule of
    Breiman et al., 1984), or by nothing if it answers alike. Adaptive exits pay when they then cost less and
    their accuracy is not clearly lower.

    Args:
        design: rows the paths were made on.
        held_out: other rows.
        paths: adaptive policies by name.
    """
    right = design.correct.mean(1, dtype=np.float64)
    costs = design.relative_static_cost
    k = max(range(design.exits), key=lambda k: (right[k], -costs[k]))
    static_cost, static_right = float(costs[k]), float(held_out.correct[k].mean(dtype=np.float64))
    points = [(name, p) for name, path in paths.items() for p in path.points if p.accuracy >= right[k] - 1e-12]
    if not points:
        text = f"Whether adaptive exits pay is open: no adaptive policy was compared with exit {k} alone."
        if paths:
            text = (
                f"Adaptive exits do not pay here: no policy compared reaches the {held_out.measure} of "
                f"exit {k} alone on the design rows ({_percent(shown(held_out.measure, right[k]))})."
            )
        return Verdict(text, False if paths else None, k, static_cost, static_right, held_out.n)
    # Where every row was timed, what looks at the answers must not take longer than it saves.
    quick = [named for named in points if _in_time(named[1], design, k)]
    points = quick or points
    points.sort(key=lambda named: (named[1].cost, -named[1].accuracy))
    surely = (named for named in points if _ahead(named[1], design, k))
    name, point = next(surely, max(points, key=lambda named: named[1].accuracy))
    taken = replay(point.policy, held_out)
    found = outcome(taken, held_out)
    mean, half = paired(held_out.correct[taken, np.arange(held_out.n)], held_out.correct[k])
    saving = 1 - found.cost / static_cost
    pays = bool(quick) and round(saving, 2) > 0 and mean + half >= 0
    text = _sentence(held_out, name, k, saving, (found.accuracy, static_right), mean, half)
    if not quick:
        text = f"Adaptive exits do not pay in time here: every policy takes longer than exit {k} alone. In work: {text}"
    return Verdict(
        text=text,
        pays=pays,
        static_exit=k,
        static_cost=static_cost,
        static_accuracy=static_right,
        n=held_out.n,
        policy=name,
        cost=found.cost,
        accuracy=found.accuracy,
        saving=saving,
        difference=mean,
        difference_low=mean - half,
        difference_high=mean + half,
    )


def _in_time(point: Point, design: Rows, k: int) -> bool:
    """Whether it takes less time than exit `k` alone, its scores included; True where rows were not timed."""
    if design.seconds is None:
        return True
    taken = replay(point.policy, design)
    scoring = design.scoring_seconds(point.policy.score)
    spent = design.seconds[taken, np.arange(design.n)].mean() + (0 if scoring is None else scoring[taken].mean())
    return bool(spent < design.seconds[k].mean())


def _ahead(point: Point, design: Rows, k: int) -> bool:
    difference = design.correct[replay(point.policy, design), np.arange(design.n)] - design.correct[k]
    error = float(difference.std(dtype=np.float64)) / math.sqrt(design.n)
    return float(difference.mean(dtype=np.float64)) >= error - 1e-12


def _sentence(
    rows: Rows, name: str, k: int, saving: float, shares: tuple[float, float], mean: float, half: float
) -> str:
    what, error = rows.measure, is_error(rows.measure)
    against = " against ".join(_percent(shown(what, s)) for s in shares)
    digits = 1 if half > 0.005 else 2
    difference = f"difference {-100 * mean if error else 100 * mean:+.{digits}f} ± {100 * half:.{digits}f} points"
    numbers = f"({against}, {difference}, n = {rows.n:,}, policy {name})"
    less = f"{round(100 * saving)} % less"
    if round(saving, 2) <= 0:
        more = f"{round(-100 * saving)} % more than" if round(saving, 2) < 0 else "as much as"
        return (
            f"Adaptive exits do not pay here: the cheapest policy at the {what} of the best static exit "
            f"costs {more} exit {k} alone {numbers}."
        )
    if mean + half < 0:
        return (
            f"Adaptive exits do not pay at equal {what} here: they cost {less} than the best static exit, "
            f"exit {k} alone, but {'raise the' if error else 'lose'} {what} {numbers}."
        )
    if half > _OPEN:
        return (
            f"Adaptive exits seem to pay, but {rows.n:,} rows are few: {less} cost than exit {k} alone at "
            f"{article(what)} that may be equal {numbers}."
        )
    better = "lower" if error else "higher"
    level = better if mean - half > 0 else "equal"
    return f"Adaptive exits pay: {less} cost than exit {k} alone at {level} {what} {numbers}."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
