"""How well a doubt tells errors, strange inputs and worsening streams from the rest, and the doubt of an ensemble.

Calibration error, Brier score and likelihood are in `edgeexit.calibrate.metrics.reliability`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError

_TINY = 1e-12

Stream = tuple[NDArray[Any], NDArray[Any]]
"""Confidence and correctness (0 or 1), both `(n,)`, in the order of arrival."""


def auroc(score: NDArray[Any], positive: NDArray[Any]) -> float:
    """Probability that a positive row has a higher score than a negative one; a tie counts one half.

    Right against wrong: confidence and `correct`. In against out of distribution: confidence and "is inside".

    Args:
        score: `(n,)`.
        positive: `(n,)` 0 or 1.

    Raises:
        DataError: shapes that differ, NaN, or rows of one kind only.
    """
    above, below = _blocks(score, positive)
    if not below.sum():
        raise DataError("AUROC needs rows of both kinds, found positive ones only")
    lower = np.cumsum(below) - below / 2
    return float((above * lower).sum() / (above.sum() * below.sum()))


def average_precision(score: NDArray[Any], positive: NDArray[Any]) -> float:
    """Area under the precision-recall curve (AUPRC) as steps, ``sum (recall_j - recall_(j-1)) precision_j``.

    Tied scores are one step. Unlike `auroc`, guessing scores the share of positives, not one half.

    Args: as `auroc`; what is to be found is positive and scores high.

    Raises:
        DataError: shapes that differ, NaN, or no positive rows.
    """
    above, below = _blocks(score, positive)
    above, below = above[::-1], below[::-1]
    found = np.cumsum(above)
    return float((above / above.sum() * (found / (found + np.cumsum(below)))).sum())


@dataclass(frozen=True, eq=False)
class Ensemble:
    """What several members say together; entropies in nats."""

    mean: NDArray[np.float64]
    """`(n, classes)` mean probabilities: the answer."""
    entropy: NDArray[np.float64]
    """`(n,)` of the mean: all doubt, the members' own and their dissent."""
    information: NDArray[np.float64]
    """`(n,)` dissent alone: `entropy` less the members' mean entropy (mutual information of answer and member)."""
    variance: NDArray[np.float64]
    """`(n,)` over the members, of their probability of the mean's most likely class."""
    uncertainty: NDArray[np.float64]
    """`(n,)` mean total-variation distance of the members from the mean, in [0, 1): dissent, as exits give
    it."""

    @property
    def confidence(self) -> NDArray[np.float64]:
        """`(n,)` probability of the most likely class."""
        return np.asarray(self.mean.max(1))


def ensemble(members: NDArray[Any]) -> Ensemble:
    """Mean and spread of members that count alike.

    Args:
        members: `(n, members, classes)` probabilities.

    Raises:
        DataError: another shape, or values that are no probabilities.
    """
    p = np.asarray(members, np.float64)
    if p.ndim != 3 or not p.size:
        raise DataError(f"an ensemble needs probabilities (n, members, classes), found {p.shape}")
    if not (p.min() >= -1e-6 and np.allclose(p.sum(2), 1, atol=1e-2)):  # NaN fails too
        raise DataError("probabilities must be >= 0 and sum to 1 over the last axis; are they logits, or NaN?")
    mean = p.mean(1)
    entropy = _entropy(mean)
    top = np.take_along_axis(p, mean.argmax(1)[:, None, None], 2)[:, :, 0]
    # rounding takes the information of equal members below 0
    spread = np.abs(p - mean[:, None]).sum(2).mean(1) / 2
    return Ensemble(mean, entropy, np.maximum(entropy - _entropy(p).mean(1), 0), top.var(1), spread)


class NothingDropped(DataError):
    """Accuracy fell in no stream, so there is nothing to detect."""


@dataclass(frozen=True, eq=False)
class DropDetection:
    """How well falling confidence announces falling accuracy."""

    rho: NDArray[np.float64]
    """`(thresholds,)` growing; an alarm is a window of mean confidence below rho."""
    precision: NDArray[np.float64]
    """`(thresholds,)` share of alarms in windows of low accuracy; 1 where nothing alarms."""
    recall: NDArray[np.float64]
    """`(thresholds,)` share of windows of low accuracy that alarm."""
    auprc: float
    """Area under the two, as steps."""
    bound: float
    """Window accuracy of `mu - 3 sigma` and less counts as low."""
    undropped: int
    """Streams without a window of low accuracy: recall has no meaning there, and they are left out."""


def accuracy_drop(
    clean: Stream, corrupted: Sequence[Stream], window: int = 100, sigmas: float = 3.0, thresholds: int = 11
) -> DropDetection:
    """The accuracy-drop protocol of QUTE (Ghanathe & Wilton, ICML 2025).

    A window slides over the clean stream, which gives mean and deviation of its accuracy; then over the clean stream
    followed by each corrupted one. Every position counts once; precision and recall are averaged over the streams.

    Args:
        clean: the usual inputs.
        corrupted: one stream per corruption.
        window: inputs per window.
        sigmas: deviations below the mean from which accuracy is low.
        thresholds: how many rho, evenly from 0 to 1.

    Raises:
        DataError: shapes that differ, or a clean stream shorter than the window; `NothingDropped` where accuracy falls
            in no stream.
    """
    _, usual = _windows([clean], window)
    bound = float(usual.mean() - sigmas * usual.std())
    rho = np.linspace(0, 1, thresholds)
    curves = []
    for stream in corrupted:
        confidence, accuracy = _windows([clean, stream], window)
        low = accuracy <= bound
        if low.any():
            alarm = confidence < rho[:, None]
            hits, alarms = (alarm & low).sum(1), alarm.sum(1)
            curves.append((np.where(alarms, hits / np.maximum(alarms, 1), 1.0), hits / low.sum()))
    if not curves:
        raise NothingDropped(
            f"no window's accuracy fell to {bound:.3f} in {len(corrupted)} corrupted streams: nothing to detect"
        )
    precision, recall = np.mean(curves, 0)
    area = float((np.diff(recall, prepend=0) * precision).sum())
    return DropDetection(rho, precision, recall, area, bound, len(corrupted) - len(curves))


def _windows(streams: Sequence[Stream], window: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sliding means of confidence and correctness, both `(positions,)`, over streams in a row."""
    pairs = [(np.asarray(c, np.float64), np.asarray(k, np.float64)) for c, k in streams]
    for confidence, correct in pairs:
        if confidence.ndim != 1 or confidence.shape != correct.shape:
            raise DataError(f"a stream is confidence and correct (n,), found {confidence.shape} and {correct.shape}")
    rows = np.stack([np.concatenate(column) for column in zip(*pairs, strict=True)])
    if not 1 <= window <= rows.shape[1]:
        raise DataError(f"a window of {window} does not fit a stream of {rows.shape[1]}")
    if not np.isfinite(rows).all():
        raise DataError("a stream holds NaN or infinity")
    confidence, correct = np.lib.stride_tricks.sliding_window_view(rows, window, 1).mean(2)
    return confidence, correct


def _entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(-(p * np.log(np.maximum(p, _TINY))).sum(-1))


def _blocks(score: NDArray[Any], positive: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positive and negative rows in every block of tied scores, the lowest first."""
    score, kind = np.asarray(score), np.asarray(positive)
    if score.ndim != 1 or score.shape != kind.shape:
        raise DataError(f"need score and positive, both (n,); found {score.shape} and {kind.shape}")
    if np.isnan(score).any():
        raise DataError("scores hold NaN: their rank among the others is not known")
    if not np.isin(kind, (0, 1)).all():
        raise DataError("positive must be 0 or 1 in every row")
    if not kind.any():
        raise DataError("need positive rows, found none")
    block = np.unique(score, return_inverse=True)[1].ravel()
    above = np.asarray(np.bincount(block, kind), np.float64)
    return above, np.asarray(np.bincount(block) - above, np.float64)
