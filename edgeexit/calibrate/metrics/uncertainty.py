"""Uncertainty metrics: ranking of errors and strange inputs (AUROC), detection of falling accuracy in streams.

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
