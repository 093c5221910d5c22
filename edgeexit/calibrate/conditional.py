"""Ringel's two stages: the gap among the inputs that left at any exit or before is bounded, at every exit.

Ringel, Cohen, Freedman and Romano, "Early Time Classification with Accumulated Accuracy Gap Control", ICML 2024,
with exits in the place of time steps. A marginal bound lets the early leavers be bad and hides it behind the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.bounds import binomial_p
from edgeexit.calibrate.cuts import place_cuts
from edgeexit.calibrate.losses import loss_of
from edgeexit.calibrate.risk import CONDITION, Certificate, Guarantee, promise_of, too_few
from edgeexit.errors import DataError, Infeasible
from edgeexit.policy import Threshold
from edgeexit.rows import Rows, exits_taken

_CUTS = 50


def conditional_thresholds(
    design: Rows,
    calibration: Rows,
    asked: Guarantee,
    score: str = "maxprob",
    *,
    temperatures: tuple[float, ...] | None = None,
) -> Certificate:
    """Thresholds with the loss at most alpha among those that left at exit t or before, for every t at once.

    Args:
        design: rows that the candidate thresholds are screened on.
        calibration: other rows, that they are tested on, from the last exit forward.
        asked: an `accumulated` guarantee.
        score: what thresholds compare.
        temperatures: `(exits,)` divisors of the logits; None = the artifact's own.

    Raises:
        Infeasible: nothing passes; the message has the rows needed.
        DataError: labels are missing, or the loss is a share (sequences) instead of 0 or 1.
    """
    loss = loss_of(asked.loss)
    tables = [loss.table(r) for r in (design, calibration)]
    if not all(loss.binary(r) for r in (design, calibration)):
        raise DataError("accumulated gaps are tested on losses of 0 and 1; sequences have shares in between")
    s, c = (r.scores(score, temperatures)[:-1] for r in (design, calibration))
    chosen = _tested(c, tables[1], _screened(s, tables[0], asked.alpha), asked)
    if all(t == math.inf for t in chosen):
        raise Infeasible(f"{too_few(asked, calibration.n)}; the same loss without accumulated_ asks less")
    text = (
        f"among the inputs that left at an exit or before it, {loss.text} is at most {asked.alpha:g}, at every exit "
        f"at once, with probability {1 - asked.delta:g} over calibration sets, {CONDITION}"
    )
    measured = max(float(losses.mean()) for losses in _accumulated(c, tables[1], chosen) if losses.size)
    policy = Threshold(tuple(chosen), score, temperatures)
    return Certificate(policy, promise_of(asked, calibration, "binomial", measured, text))


def _accumulated(
    s: NDArray[np.float32], table: NDArray[np.float64], thresholds: list[float]
) -> Iterator[NDArray[np.float64]]:
    """For every exit, the losses of the rows that left there or before."""
    taken = exits_taken(Threshold(tuple(thresholds)), np.concatenate([s, s[-1:]]), s)
    lost = table[taken, np.arange(s.shape[1])]
    return (lost[taken <= k] for k in range(len(table)))


def _screened(s: NDArray[np.float32], table: NDArray[np.float64], alpha: float) -> list[float]:
    """Stage 1: exit by exit, the most eager threshold whose accumulated loss is at most alpha on the design rows."""
    left = np.zeros(s.shape[1], bool)
    lost, found = 0.0, []
    for k, row in enumerate(s):
        found.append(math.inf)
        for cut in place_cuts(row, _CUTS):
            here = ~left & (row >= cut)
            total = int(left.sum() + here.sum())
            if total and lost + table[k][here].sum() <= alpha * total:
                found[k] = float(cut)
                left, lost = left | here, lost + float(table[k][here].sum())
                break
    return found


def _tested(s: NDArray[np.float32], table: NDArray[np.float64], screened: list[float], asked: Guarantee) -> list[float]:
    """Stage 2: a fixed sequence from the last exit forward. An exit that screening closed adds nothing to test."""
    passed = [math.inf] * len(s)
    for t in reversed(range(len(s))):
        if screened[t] == math.inf:
            continue
        trial = [*passed[:t], screened[t], *passed[t + 1 :]]
        for losses in list(_accumulated(s, table, trial))[t:]:
            if not losses.size or binomial_p(len(losses), asked.alpha, round(losses.sum())) > asked.delta:
                return passed
        passed = trial
    return passed
