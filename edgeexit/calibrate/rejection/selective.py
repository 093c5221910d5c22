"""Selective classification: accept answers above a confidence, reject the rest; risk is the error of the accepted.

Tied scores are one block: no threshold parts them, so they are accepted together or not at all, and the result
does not depend on the order of the rows. `aurc` alone looks inside a block: it takes the mean over all orders.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.search.thresholds import place_cuts
from edgeexit.errors import DataError, Infeasible, PolicyError
from edgeexit.policy.policies import Policy
from edgeexit.records.base import Rows, outcome, replay

_SLACK = 1e-12


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """What every possible threshold accepts, from the surest block of rows to all of them."""

    threshold: NDArray[np.float32]
    """`(blocks,)` falling; ``score >= threshold[j]`` accepts the first j + 1 blocks. The last is -inf."""
    coverage: NDArray[np.float64]
    """`(blocks,)` growing share of rows accepted; the last is 1."""
    risk: NDArray[np.float64]
    """`(blocks,)` share of errors among the accepted."""

    def for_risk(self, risk: float) -> int | None:
        """The block up to which most rows are accepted at a risk of at most `risk`; None = not even the first."""
        within = np.flatnonzero(self.risk <= check_share("risk", risk) + _SLACK)
        return int(within[-1]) if len(within) else None

    def for_coverage(self, coverage: float) -> int:
        """The first block up to which at least `coverage` of the rows are accepted."""
        return int(np.searchsorted(self.coverage, check_share("coverage", coverage) - _SLACK))


def risk_coverage(score: NDArray[Any], correct: NDArray[Any]) -> RiskCoverage:
    """The risk-coverage curve.

    Args:
        score: `(n,)`, larger = surer. Compared as float32, as on the device: a score that saturates there is a
            tie here.
        correct: `(n,)` in [0, 1].

    Raises:
        DataError: no rows, shapes that differ, NaN, or `correct` outside [0, 1].
    """
    score, errors, rows = _blocks(score, correct)
    accepted = np.cumsum(rows)
    thresholds = place_cuts(score, len(score))[-2::-1]  # without the last cut, inf, which accepts nobody
    return RiskCoverage(thresholds, accepted / len(score), np.cumsum(errors) / accepted)


def aurc(score: NDArray[Any], correct: NDArray[Any]) -> float:
    """Area under the risk-coverage curve, ``(1 / n) sum_k risk_k`` over the k surest rows; lower is better.

    Within a block of ties the errors are spread evenly: the mean over all orders of its rows.

    Raises:
        DataError: as `risk_coverage`.
    """
    _, errors, rows = _blocks(score, correct)
    spread = np.repeat(errors / rows, rows)
    return float((np.cumsum(spread) / np.arange(1, len(spread) + 1)).mean())


@dataclass(frozen=True)
class Selected:
    """What an accepting application sees of a policy."""

    coverage: float
    """Share of rows accepted."""
    risk: float | None
    """Share of errors among the accepted; None = nobody is accepted."""
    accuracy: float
    """Over all rows, the rejected too."""
    cost: float
    """Mean cost as a fraction of the last exit's."""
    exit_rates: tuple[float, ...]
    """Share of rows answered by each exit."""


def answered(policy: Policy, records: Rows) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Score and `right`, both `(n,)`, of every row at the exit the policy takes.

    Raises:
        PolicyError: the policy compares no score, or is made for another number of exits.
    """
    if policy.score is None:
        raise PolicyError(f"policy {policy.kind!r} compares no score, so there is nothing to accept answers by")
    at = replay(policy, records), np.arange(records.n)
    return records.scores(policy.score, policy.temperatures)[at], records.right[at]


def selected(policy: Policy, records: Rows, tau: float) -> Selected:
    """Coverage, risk and cost where answers of a score of at least `tau` are accepted.

    Raises:
        PolicyError: as `answered`.
        DataError: the records have no labels.
    """
    need_labels(records)
    score, correct = answered(policy, records)
    accepted = score >= np.float32(tau)
    result = outcome(replay(policy, records), records)
    risk = 1 - float(correct[accepted].mean(dtype=np.float64)) if accepted.any() else None
    return Selected(float(accepted.mean()), risk, result.accuracy, result.cost, result.exit_rates)


def need_labels(records: Rows) -> None:
    """Refuse records without labels: agreement with the last exit says nothing of the last exit's own errors.

    Raises:
        DataError: no labels.
    """
    if not records.labelled:
        raise DataError(f"{records.name}: risk and coverage need labels; the records have none")


def check_share(what: str, value: float) -> float:
    """`value`, if it is a share strictly between 0 and 1.

    Raises:
        PolicyError: it is not.
    """
    if isinstance(value, bool) or not 0 < value < 1:
        raise PolicyError(f"a {what} is a fraction in (0, 1), found {value!r}")
    return value


def parse_target(target: str) -> tuple[str, float]:
    """("cov", R) or ("risk", C) of "cov@R" or "risk@C".

    Raises:
        PolicyError: neither, or the number is not in (0, 1).
    """
    kind, _, number = target.partition("@")
    try:
        share = float(number)
    except ValueError:
        share = math.nan
    if kind not in ("cov", "risk") or not 0 < share < 1:
        raise PolicyError(
            f"unknown target {target!r:.60}; write cov@0.02 (coverage at a risk of 0.02) or risk@0.8 "
            "(risk at a coverage of 0.8), with a number in (0, 1)"
        )
    return kind, share


def meets(curve: RiskCoverage, kind: str, share: float, where: str) -> int:
    """The block of the curve up to which a target of `parse_target` is met.

    Raises:
        Infeasible: no threshold reaches the risk; `where` names the rows.
    """
    if kind == "risk":
        return curve.for_coverage(share)
    block = curve.for_risk(share)
    if block is None:
        raise Infeasible(
            f"{where}: no threshold reaches a risk of {share:g}; the least reachable is {curve.risk.min():.4g}, "
            f"at a coverage of {curve.coverage[curve.risk.argmin()]:.4g}"
        )
    return block


def _blocks(
    score: NDArray[Any], correct: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int64]]:
    """The scores as float32, and the errors and rows of every block of ties, the surest first."""
    score, correct = np.asarray(score), np.asarray(correct, np.float64)
    if score.ndim != 1 or score.shape != correct.shape or not len(score):
        raise DataError(f"risk and coverage need score and correct (n >= 1,), found {score.shape} and {correct.shape}")
    score = score.astype(np.float32)
    if not np.isfinite(score).all():
        raise DataError("scores hold NaN or infinity: their rank among the others is not known")
    if not ((correct >= 0) & (correct <= 1)).all():  # NaN fails too
        raise DataError(f"correct must lie in [0, 1], found {correct.min()} to {correct.max()}")
    _, block, rows = np.unique(score, return_inverse=True, return_counts=True)
    errors = np.asarray(np.bincount(block.ravel(), 1 - correct), np.float64)
    return np.asarray(score, np.float32), errors[::-1], np.asarray(rows[::-1], np.int64)
