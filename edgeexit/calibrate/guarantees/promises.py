"""Promises of a sweep: guarantees certified on some rows, and their loss and cost measured on others.

Three parts without a common row: the design rows are split into those that order the policies from safe to bold and
those that certify; the held-out rows measure. Every promise stands alone: all of them share their certifying rows,
so that delta bounds the failure of each and not of any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.guarantees.losses import loss_of
from edgeexit.calibrate.guarantees.ordered import OrderedCandidates, by_level
from edgeexit.calibrate.guarantees.risk import Guarantee, Method, certify, rows_needed
from edgeexit.calibrate.metrics.intervals import paired, wilson
from edgeexit.calibrate.rows import check_pair
from edgeexit.errors import Infeasible
from edgeexit.policy.policies import Threshold
from edgeexit.records.base import Rows, outcome, replay

ALPHAS = (0.005, 0.01, 0.02, 0.05, 0.1)
DELTA = 0.1
GUARANTEES: tuple[tuple[str, Method], ...] = (
    ("disagreement", "ltt"),
    ("accuracy_gap", "ltt"),
    ("accuracy_gap", "crc"),
    ("accumulated_accuracy_gap", "ltt"),
    ("brier_gap", "ucb"),
    ("wer_gap", "ltt"),
    ("wer_gap", "crc"),
    ("cer_gap", "ltt"),
    ("cer_gap", "crc"),
)
"""Losses of `guarantees.losses` with the method that certifies each; all but the first need labels."""
ORDERING_SHARE = 0.5
"""Of the design rows; the others certify."""


@dataclass(frozen=True)
class Promise:
    """One guarantee at one alpha. What was certified and measured is None where it was refused."""

    what: str
    """The loss; with `accumulated_` before it, bounded at every exit over the rows that left by it."""
    method: str
    """ltt, ucb or crc, as in `edgeexit.calibrate.guarantees.risk.Guarantee`."""
    alpha: float
    """What the expected loss is promised not to exceed."""
    delta: float | None
    """Share of certifying sets for which the promise may be broken; None = crc, which bounds their mean."""
    ordered_on: int
    """Design rows that ordered the policies."""
    certified_on: int
    """Design rows that certified."""
    needed: int
    """Rows to certify on below which this alpha is refused, even without a single loss."""
    n: int
    """Held-out rows."""
    refusal: str | None = None
    """Why nothing was certified; None = something was."""
    score: str | None = None
    """What the thresholds compare."""
    thresholds: tuple[float, ...] | None = None
    """For every exit but the last."""
    certified_loss: float | None = None
    """On the rows that certified."""
    loss: float | None = None
    """On the held-out rows, as everything below; of an accumulated loss, at the exit where it is worst."""
    loss_low: float | None = None
    """95 % interval, as `loss_high`; an accumulated one is that exit's own and knows nothing of the others."""
    loss_high: float | None = None
    loss_n: int | None = None
    """Rows behind `loss`: all, or those that left by the worst exit."""
    cost: float | None = None
    """Mean, as a fraction of the last exit's."""
    accuracy: float | None = None
    """Or agreement with the last exit, where there are no labels."""
    exit_rates: tuple[float, ...] | None = None

    @property
    def label(self) -> str:
        """Loss and method in words."""
        return f"{self.what.replace('_', ' ')}, {self.method}"

    @property
    def kept(self) -> bool | None:
        """Whether the held-out loss is at most alpha; None = refused."""
        return None if self.loss is None else self.loss <= self.alpha


def promises(
    design: Rows,
    held_out: Rows,
    alphas: Sequence[float] = ALPHAS,
    delta: float = DELTA,
    *,
    score: str | None = None,
    seed: int = 0,
) -> tuple[Promise, ...]:
    """Certify every guarantee of `GUARANTEES` that the rows allow at every alpha, and measure it.

    Left out are losses that the rows cannot tell (needing labels where there are none, edits where there are classes),
    and accumulated ones where the losses are shares.

    Args:
        design: rows to order and to certify on; at least 2.
        held_out: other rows of the same artifact, to measure on.
        alphas: losses to promise, each in (0, 1).
        delta: probability over certifying sets that a promise is broken, in (0, 1).
        score: what the per-exit thresholds compare; None = the rows' default.
        seed: of the split of the design rows.

    Returns:
        Guarantee by guarantee, alphas growing.

    Raises:
        PolicyError: alpha or delta outside (0, 1), or an unknown score.
        DataError: the two sets of rows cannot be compared, or the design rows cannot be split.
    """
    check_pair(design, held_out)
    score = score or design.default_score
    ordering, certifying = design.split(ORDERING_SHARE, seed)
    ordered = by_level(ordering, score)
    rows = []
    for what, method in GUARANTEES:
        name = what.removeprefix("accumulated_")
        loss, accumulated = loss_of(name), name != what
        if not loss.fits(design) or (accumulated and not loss.binary(design)):
            continue
        table = loss.table(held_out)
        for alpha in sorted({float(a) for a in alphas}):
            asked = Guarantee(name, alpha, delta, method, accumulated)
            row = Promise(
                what,
                method,
                alpha,
                None if method == "crc" else delta,
                ordering.n,
                certifying.n,
                rows_needed(asked),
                held_out.n,
            )
            rows.append(_kept(row, asked, ordered, certifying, held_out, table))
    return tuple(rows)


def _kept(
    row: Promise,
    asked: Guarantee,
    ordered: OrderedCandidates,
    certifying: Rows,
    held_out: Rows,
    table: NDArray[np.float64],
) -> Promise:
    try:
        certificate = certify(ordered, certifying, asked)
    except Infeasible as e:
        return replace(row, refusal=str(e))
    policy = cast(Threshold, certificate.policy)  # the candidates are thresholds
    taken = replay(policy, held_out)
    lost = table[taken, np.arange(held_out.n)]
    if asked.accumulated:
        left = [lost[taken <= k] for k in range(held_out.exits)]
        lost = max((part for part in left if part.size), key=lambda part: (part.mean(), part.size))
    loss, low, high = _interval(lost, loss_of(asked.loss).signed)
    there = outcome(taken, held_out)
    return replace(
        row,
        score=policy.score,
        thresholds=policy.thresholds,
        certified_loss=certificate.measured,
        loss=loss,
        loss_low=low,
        loss_high=high,
        loss_n=len(lost),
        cost=there.cost,
        accuracy=there.accuracy,
        exit_rates=there.exit_rates,
    )


def _interval(lost: NDArray[np.float64], signed: bool) -> tuple[float, float, float]:
    """Mean of `(n,)` losses and its 95 % interval."""
    if signed:
        mean, half = paired(lost, np.zeros(len(lost)))
        return mean, mean - half, mean + half
    mean = min(float(lost.mean()), 1.0)
    return mean, *wilson(mean, len(lost))
