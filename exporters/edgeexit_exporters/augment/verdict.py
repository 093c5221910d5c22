"""Verdict on an augmented network: against the untouched one, and against each exit alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.metrics.intervals import paired
from edgeexit.policy.policies import Policy
from edgeexit.records.classification import Records, outcome, replay

WORTH = 0.02
"""Less saving than this is none: it would be eaten by anything."""


class Ratio(NamedTuple):
    """Of times, over interleaved rounds."""

    median: float
    p10: float
    p90: float


@dataclass(frozen=True)
class SingleExit:
    """One exit for every input, as a network of its own."""

    exit: int
    cost: float
    """MACs as a fraction of the untouched model's."""
    accuracy: float


@dataclass(frozen=True)
class AugmentVerdict:
    """On rows that nothing was chosen on."""

    text: str
    worth: bool | None
    """None = undecided: too few rows to tell whether more was lost than allowed, or slower on this machine only."""
    n: int
    cost: float
    """Mean MACs as a fraction of the untouched model's, heads included."""
    accuracy: float
    """Or agreement with the untouched model."""
    untouched: float
    """Accuracy of the untouched model (agreement: 1)."""
    drop: float
    """``untouched - accuracy``, with its 95 % interval over the same rows."""
    drop_low: float
    drop_high: float
    exit_rates: tuple[float, ...]
    statics: tuple[SingleExit, ...]
    time: Ratio | None = None
    """Mean time per input over the untouched model's, measured interleaved; None = not measured."""


def judge(
    policy: Policy,
    rows: Records,
    total: float,
    drop: float | None,
    *,
    certified: bool = False,
    time_ratios: Sequence[Ratio] | None = None,
    untouched: NDArray[np.bool_] | None = None,
    measure: str | None = None,
) -> AugmentVerdict:
    """Judge a policy on rows of its own.

    Args:
        policy: chosen on other rows.
        rows: outputs of the augmented network; its last exit is the untouched model, unless `untouched` is given.
        total: multiply-accumulates of the untouched model.
        drop: the accuracy that was allowed to be lost; None = what was asked for is no loss of accuracy.
        certified: a bound of `drop` was proven on these rows, so their interval has nothing more to tell.
        time_ratios: `(exits,)` time to answer at each exit over the untouched model's; None = not measured.
        untouched: `(n,)` whether the untouched model was right; None = as the last exit.
        measure: what being right is called; None = as the rows say.
    """
    taken = replay(policy, rows)
    result = outcome(taken, rows)
    there = rows.correct[taken, np.arange(rows.n)]
    full = rows.correct[-1] if untouched is None else untouched
    mean, half = paired(full, there)
    alone = rows.cost if rows.static_cost is None else rows.static_cost
    right = rows.correct.mean(1, dtype=np.float64)
    statics = tuple(SingleExit(k, float(alone[k] / total), float(right[k])) for k in range(rows.exits - 1))
    cost = result.cost * float(rows.cost[-1]) / total
    rates = result.exit_rates
    time = None if time_ratios is None else Ratio(*(float(r) for r in np.array(rates) @ np.array(time_ratios)))
    before = float(full.mean(dtype=np.float64))
    text, worth = _words(
        measure or rows.measure, cost, mean, half, drop, certified, time, statics, result.accuracy, before, rows.n
    )
    return AugmentVerdict(
        text, worth, rows.n, cost, result.accuracy, before, mean, mean - half, mean + half, rates, statics, time
    )


def _words(
    measure: str, cost: float, lost: float, half: float, drop: float | None, certified: bool, time: Ratio | None,
    statics: Sequence[SingleExit], accuracy: float, untouched: float, n: int,
) -> tuple[str, bool | None]:  # fmt: skip
    saving = 1 - cost
    allowed = "" if drop is None else f", {100 * drop:g} allowed"
    numbers = (
        f"{100 * saving:.0f} % fewer MACs, {measure} {100 * accuracy:.2f} % against {100 * untouched:.2f} % "
        f"({-100 * lost:+.2f} ± {100 * half:.2f} points{allowed})"
    )
    if time is not None:
        less = 100 * (1 - time.median)
        numbers += f", {abs(less):.0f} % {'less' if less > 0 else 'more'} time"
        numbers += f" ({time.median:.2f} of the untouched network's, p10-p90 {time.p10:.2f}..{time.p90:.2f})"
    beaten = [s for s in statics if s.cost <= cost and s.accuracy >= accuracy]
    if saving < WORTH:
        return f"Not worth it: hardly anything is saved: {numbers}.", False
    if beaten:
        best = max(beaten, key=lambda s: s.accuracy)
        return (
            f"Not worth it: exit {best.exit} alone is as good for less ({100 * best.accuracy:.2f} % at "
            f"{100 * best.cost:.0f} % of the MACs); adaptive: {numbers}."
        ), False
    if drop is not None and lost - half > drop:
        return f"Not worth it: more is lost on new rows than was allowed: {numbers}.", False
    if drop is not None and lost + half > drop and not certified:
        return f"Undecided: {_too_few(lost, half, drop, n)}: {numbers}.", None
    if time is not None and time.median >= 1:
        return (
            f"Undecided: worth it by its MACs, but on this machine the call overhead of the exits eats what they save: "
            f"{numbers}. A slower device or a larger network may tell otherwise; measure there (edgeexit bench)."
        ), None
    return f"Worth it: {numbers}.", True


def _too_few(lost: float, half: float, drop: float, n: int) -> str:
    """Why the interval of the loss, which reaches from within what was allowed to beyond it, decides nothing."""
    side = "more was lost than allowed" if lost > drop else "no more was lost than allowed"
    distance = abs(drop - lost)
    needed = n * (half / distance) ** 2 if distance > 0 else np.inf
    about = f"about {round(needed, -int(math.log10(needed)) + 1):,.0f}" if needed < 1e7 else "far more"
    return f"{side} on {n:,} rows, which are too few to tell ({about} such rows would)"
