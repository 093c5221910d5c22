"""Verdict: do adaptive exits pay on these records, against every single exit?

A policy is chosen on the design rows; what it does, and what every exit does as a network of its own, is read on the
held-out rows. It pays when it costs less than the cheapest single exit that is as accurate, and every single exit
that costs no more is clearly less accurate. That is asked of all exits at once, so their intervals are wider the more
exits there are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgeexit.calibrate.metrics.intervals import paired
from edgeexit.calibrate.search.front import ParetoFront, Point
from edgeexit.common.formatting import percent
from edgeexit.common.measures import article, is_error, shown
from edgeexit.records.base import Rows, outcome, replay

DROP = 0.01
"""Accuracy that the verdict's second comparison may lose: what people ask for when equal accuracy saves little."""
_OPEN = 0.01
"""An interval that reaches further than one point to either side is too wide to say "equal"."""


@dataclass(frozen=True)
class Comparison:
    """One adaptive policy against every single exit, on the held-out rows."""

    policy: str
    budget: float
    """Its cost on the design rows, under which the sweep's table has it."""
    cost: float
    accuracy: float
    equal_exit: int
    """Cheapest single exit that is as accurate within one standard error; the most accurate one where none is."""
    equal_cost: float
    equal_accuracy: float
    saving: float
    """``1 - cost / equal_cost``."""
    difference: float
    """Accuracy above the equal exit's over the same rows, with its 95 % interval."""
    difference_low: float
    difference_high: float
    rival_exit: int | None
    """Most accurate single exit that costs no more; None = every one costs more."""
    rival_cost: float | None = None
    rival_accuracy: float | None = None
    gain: float | None = None
    """Accuracy above the rival's; the 95 % intervals hold for all exits at once."""
    gain_low: float | None = None
    gain_high: float | None = None

    @property
    def beaten(self) -> bool:
        """Whether a single exit costs no more and is at least as accurate."""
        return self.gain is not None and self.gain <= 0

    @property
    def clear(self) -> bool:
        """Whether every single exit that costs no more is clearly less accurate."""
        return self.gain_low is None or self.gain_low > 0


@dataclass(frozen=True)
class Verdict:
    """The report's first line and its numbers; what compares is None where no policy could be compared."""

    text: str
    pays: bool | None
    """None: no adaptive policy was given, or the rows are too few to tell."""
    static_exit: int
    """Cheapest exit within one standard error of the most accurate one, on the design rows."""
    static_cost: float
    """Of a network with this exit alone, as a fraction of the adaptive network's last exit."""
    static_accuracy: float
    """On the held-out rows."""
    n: int
    """Held-out rows."""
    equal: Comparison | None = None
    """The cheapest policy as accurate as the static exit on the design rows."""
    at_drop: Comparison | None = None
    """The cheapest policy that loses at most `DROP` there; None = none is cheaper."""

    @property
    def policy(self) -> str | None:
        """The family that was compared."""
        return None if self.equal is None else self.equal.policy

    @property
    def cost(self) -> float | None:
        return None if self.equal is None else self.equal.cost

    @property
    def saving(self) -> float | None:
        return None if self.equal is None else self.equal.saving


def judge(design: Rows, held_out: Rows, fronts: Mapping[str, ParetoFront]) -> Verdict:
    """Compare the cheapest policy at the accuracy of the best single exit, and one that may lose a point.

    The cheapest of many points that look equal is one that was lucky on the design rows. A point therefore counts as
    equal when it is ahead there by one standard error of the paired difference (the rule of Breiman et al., 1984), or
    by nothing if it answers alike; and of exits that are within one standard error of the most accurate one, the
    cheapest is the one to be equalled.

    Args:
        design: rows the fronts were searched on.
        held_out: other rows.
        fronts: adaptive policies by name.
    """
    right = design.correct.mean(1, dtype=np.float64)
    k = _static_exit(design)
    static_cost = float(design.relative_static_cost[k])
    static = k, static_cost, float(held_out.correct[k].mean(dtype=np.float64)), held_out.n
    points = [(name, p) for name, front in fronts.items() for p in front.points]
    reaching = [named for named in points if named[1].accuracy >= right[k] - 1e-12]
    if not reaching:
        text = f"Whether adaptive exits pay is open: no adaptive policy was compared with exit {k} alone."
        if fronts:
            text = (
                f"Adaptive exits do not pay here: no policy compared reaches the {held_out.measure} of "
                f"exit {k} alone on the design rows ({percent(shown(held_out.measure, right[k]))})."
            )
        return Verdict(text, False if fronts else None, *static)
    # Where every row was timed, what looks at the answers must not take longer than it saves.
    quick = [named for named in reaching if _in_time(named[1], design, k)]
    # One that never leaves early is surely equal and saves nothing.
    saving = [named for named in quick or reaching if named[1].cost < static_cost - 1e-12]
    name, point = _cheapest(saving or quick or reaching, design, k, 0.0)
    equal = _compare(name, point, held_out)
    pays, text = _sentence(held_out, k, equal)
    if not quick:
        pays = False
        text = f"Adaptive exits do not pay in time here: every policy takes longer than exit {k} alone. In work: {text}"
    at_drop = None
    below = min(point.cost, static_cost) - 1e-12
    losing = [named for named in points if right[k] - DROP <= named[1].accuracy and named[1].cost < below]
    if losing and _ahead(_cheapest(losing, design, k, DROP)[1], design, k, DROP):
        at_drop = _compare(*_cheapest(losing, design, k, DROP), held_out)
        text += " " + _drop_sentence(held_out, equal.equal_exit, at_drop)
    return Verdict(text, pays, *static, equal, at_drop)


def _static_exit(design: Rows) -> int:
    """The cheapest exit that is within one standard error of the most accurate one."""
    correct, costs = design.correct.astype(np.float64), design.relative_static_cost
    best = max(range(design.exits), key=lambda k: (correct[k].mean(), -costs[k]))
    behind = correct[best] - correct
    within = behind.mean(1) <= behind.std(1) / math.sqrt(design.n) + 1e-12
    return int(min(np.flatnonzero(within), key=lambda k: costs[k]))


def _cheapest(points: list[tuple[str, Point]], design: Rows, k: int, drop: float) -> tuple[str, Point]:
    """The cheapest that is surely ahead; the most accurate where none is."""
    ordered = sorted(points, key=lambda named: (named[1].cost, -named[1].accuracy))
    surely = (named for named in ordered if _ahead(named[1], design, k, drop))
    return next(surely, max(ordered, key=lambda named: named[1].accuracy))


def _ahead(point: Point, design: Rows, k: int, drop: float) -> bool:
    difference = design.correct[replay(point.policy, design), np.arange(design.n)] - design.correct[k]
    error = float(difference.std(dtype=np.float64)) / math.sqrt(design.n)
    return float(difference.mean(dtype=np.float64)) + drop >= error - 1e-12


def _in_time(point: Point, design: Rows, k: int) -> bool:
    """Whether it takes less time than exit `k` alone, its scores included; True where rows were not timed."""
    if design.seconds is None:
        return True
    taken = replay(point.policy, design)
    scoring = design.scoring_seconds(point.policy.score)
    spent = design.seconds[taken, np.arange(design.n)].mean() + (0 if scoring is None else scoring[taken].mean())
    return bool(spent < design.seconds[k].mean())


def _compare(name: str, point: Point, rows: Rows) -> Comparison:
    taken = replay(point.policy, rows)
    result, worth = outcome(taken, rows), rows.correct[taken, np.arange(rows.n)]
    alone, costs = rows.correct.mean(1, dtype=np.float64), rows.relative_static_cost
    behind = worth.astype(np.float64) - rows.correct
    within = np.flatnonzero(behind.mean(1) <= behind.std(1) / math.sqrt(rows.n) + 1e-12)
    equal = int(min(within, key=lambda k: costs[k]) if len(within) else np.argmax(alone))
    mean, half = paired(worth, rows.correct[equal])
    compared = Comparison(
        name, point.cost, result.cost, result.accuracy, equal, float(costs[equal]), float(alone[equal]),
        1 - result.cost / float(costs[equal]), mean, mean - half, mean + half, None,
    )  # fmt: skip
    no_dearer = [k for k in range(rows.exits) if costs[k] <= result.cost + 1e-12]
    if not no_dearer:
        return compared
    rival = max(no_dearer, key=lambda k: (alone[k], -costs[k]))
    gain, wide = paired(worth, rows.correct[rival], comparisons=rows.exits)
    return replace(
        compared,
        rival_exit=rival,
        rival_cost=float(costs[rival]),
        rival_accuracy=float(alone[rival]),
        gain=gain,
        gain_low=gain - wide,
        gain_high=gain + wide,
    )


def _sentence(rows: Rows, k: int, c: Comparison) -> tuple[bool | None, str]:
    what, n = rows.measure, f"n = {rows.n:,}, policy {c.policy}"
    against = _against(what, c.accuracy, c.equal_accuracy)
    numbers = f"({against}, difference {_points(what, c.difference, c.difference_high - c.difference)}, {n})"
    saved = round(c.saving, 2)
    if c.beaten:
        assert c.rival_cost is not None and c.rival_accuracy is not None
        level = "better" if c.rival_accuracy > c.accuracy else "as good"
        less = round(1 - c.rival_cost / c.cost, 2)
        return False, (
            f"Adaptive exits do not pay here: exit {c.rival_exit} alone costs {_less(less) if less else 'as little'} "
            f"{'than' if less else 'as'} the cheapest policy and is {level} "
            f"({what} {_against(what, c.rival_accuracy, c.accuracy)}, {n})."
        )
    if c.difference_high < 0 and saved > 0:
        return False, (
            f"Adaptive exits do not pay at equal {what} here: they cost {_less(saved)} than exit {c.equal_exit} alone, "
            f"but {'raise the' if is_error(what) else 'lose'} {what} {numbers}."
        )
    if saved <= 0:
        more = f"{round(-100 * saved)} % more than" if saved < 0 else "as much as"
        return False, (
            f"Adaptive exits do not pay here: the cheapest policy at the {what} of the best single exit costs {more} "
            f"exit {c.equal_exit} alone, the cheapest that is as good {numbers}."
        )
    half = c.difference_high - c.difference
    if not c.clear:
        assert c.gain is not None and c.gain_high is not None
        wide = c.gain_high - c.gain
        close = f"exit {c.rival_exit} alone costs no more and is not clearly worse"
        if wide > _OPEN:
            return None, (
                f"Whether adaptive exits pay is open, {rows.n:,} rows are few: {close} "
                f"(difference {_points(what, c.gain, wide)}, {n})."
            )
        return False, f"Adaptive exits do not pay here: {close} (difference {_points(what, c.gain, wide)}, {n})."
    beyond = ""
    if c.rival_exit is not None and c.gain is not None and c.gain_high is not None:
        beyond = f" Exit {c.rival_exit} alone, the best that costs no more, is {_worse(c.gain, c.gain_high)}."
    share, last = "", float(rows.relative_static_cost[-1])
    if c.equal_exit != rows.exits - 1 and c.cost < last:
        share = (
            f" Of the {round(100 * (1 - c.cost / last))} % saved against the last exit, exit {c.equal_exit} alone "
            f"gives {round(100 * (1 - c.equal_cost / last))} %."
        )
    if half > _OPEN:
        return True, (
            f"Adaptive exits seem to pay, but {rows.n:,} rows are few: {_less(saved)} cost than exit {c.equal_exit} "
            f"alone at {article(what)} that may be equal {numbers}.{beyond}{share}"
        )
    better = "lower" if is_error(what) else "higher"
    level = better if c.difference_low > 0 else "equal"
    return True, (
        f"Adaptive exits pay: {_less(saved)} cost than exit {c.equal_exit} alone at {level} {what} "
        f"{numbers}.{beyond}{share}"
    )


def _drop_sentence(rows: Rows, k: int, c: Comparison) -> str:
    what, less = rows.measure, round(1 - c.cost / float(rows.relative_static_cost[k]), 2)
    lost = _signed(what, c.accuracy - float(rows.correct[k].mean(dtype=np.float64)))
    text = f"With {100 * DROP:g} point of {what} allowed"
    if less <= 0:
        return f"{text}, too, no policy costs less than exit {k} alone."
    text += f": {_less(less)} cost than exit {k} alone at {lost} points"
    if c.beaten:
        return f"{text}, but exit {c.rival_exit} alone costs no more and is as good."
    if c.rival_exit is not None and c.gain is not None and c.gain_high is not None:
        text += f"; exit {c.rival_exit} alone is {_worse(c.gain, c.gain_high)}"
        text += "" if c.clear else ", which is not clear"
    return f"{text}."


def _less(saving: float) -> str:
    return f"{round(100 * saving)} % less"


def _against(measure: str, *accuracies: float) -> str:
    return " against ".join(percent(shown(measure, a)) for a in accuracies)


def _points(measure: str, mean: float, half: float) -> str:
    digits = 1 if half > 0.005 else 2
    return f"{_signed(measure, mean, digits)} ± {100 * half:.{digits}f} points"


def _worse(gain: float, high: float) -> str:
    """How far a single exit is behind, with the interval that holds for all exits."""
    half = high - gain
    digits = 1 if half > 0.005 else 2
    return f"{100 * gain:.{digits}f} ± {100 * half:.{digits}f} points worse"


def _signed(measure: str, mean: float, digits: int = 1) -> str:
    return f"{-100 * mean if is_error(measure) else 100 * mean:+.{digits}f}"
