"""Calibration metrics per exit: expected calibration error, Brier score and likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError, PolicyError
from edgeexit.policy.scores import probabilities as softmax
from edgeexit.records.classification import Records

_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Reliability:
    """Figures of one exit, and the table of its reliability diagram."""

    n: int
    """Answers: rows, times positions for sequences."""
    accuracy: float
    """Of the most likely class; the first one wins a tie."""
    ece: float
    """Expected calibration error: mean of |accuracy - confidence| over the bins, weighted by their counts. It says
    nothing of accuracy, falls with fewer bins and, on few rows, is above 0 even for perfect probabilities."""
    brier: float
    """Squared error of the probabilities, summed over the classes (not halved) and averaged: 0 to 2."""
    nll: float
    """Mean of -ln p of the true class, in nats; p is clipped at 1e-12, so one sure mistake costs at most 27.6."""
    edges: NDArray[np.float64]
    """`(bins + 1,)` of equal width from 0 to 1. A bin holds its upper edge, not its lower one; the first holds 0."""
    confidence: NDArray[np.float64]
    """`(bins,)` mean probability of the most likely class; NaN = empty bin."""
    bin_accuracy: NDArray[np.float64]
    """`(bins,)`; NaN = empty bin."""
    count: NDArray[np.int64]
    """`(bins,)` answers."""


def reliability(probabilities: NDArray[Any], labels: NDArray[Any], bins: int = 15) -> Reliability:
    """Measure one exit (binned as in Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).

    Args:
        probabilities: `(n, classes)`, or `(n, ..., classes)`: every position then counts as an answer.
        labels: `(n,)` or `(n, ...)` true classes.
        bins: at least 1.

    Raises:
        DataError: no rows, shapes that differ, labels that are no classes, or values that are no probabilities.
        PolicyError: fewer than one bin.
    """
    p, y = np.asarray(probabilities), np.asarray(labels)
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise PolicyError(f"a reliability table needs a whole number of bins, at least 1; found {bins!r}")
    if p.ndim < 2 or y.shape != p.shape[:-1] or not p.size:
        raise DataError(
            f"reliability needs probabilities (n, ..., classes) and labels (n, ...), found {p.shape} and {y.shape}"
        )
    if p.dtype.kind not in "fiu" or not (p.min() >= -1e-6 and np.allclose(p.sum(-1), 1, atol=1e-2)):  # NaN fails too
        raise DataError("probabilities must be >= 0 and sum to 1 over the last axis; are they logits, or NaN?")
    if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= p.shape[-1]:
        raise DataError(f"labels must be classes 0 to {p.shape[-1] - 1}, found {y.dtype} {y.min()} to {y.max()}")
    p, y = p.reshape(-1, p.shape[-1]).astype(np.float64), y.ravel()
    rows = np.arange(len(y))
    top = p.max(-1)
    right = p.argmax(-1) == y
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.clip(np.searchsorted(edges, top) - 1, 0, bins - 1)
    count = np.bincount(bin_of, minlength=bins)
    sure, good = np.bincount(bin_of, top, bins), np.bincount(bin_of, right, bins)
    own = p[rows, y]
    filled = np.where(count > 0, count, np.nan)
    return Reliability(
        n=len(y),
        accuracy=float(right.mean()),
        ece=float(np.abs(good - sure).sum() / len(y)),
        brier=float(((p**2).sum(-1) - own**2 + (1 - own) ** 2).mean()),
        nll=float(-np.log(np.maximum(own, _TINY)).mean()),
        edges=edges,
        confidence=sure / filled,
        bin_accuracy=good / filled,
        count=count,
    )


def reliability_per_exit(
    records: Records, temperatures: tuple[float, ...] | None = None, bins: int = 15
) -> tuple[Reliability, ...]:
    """`(exits,)` of `reliability`.

    Args:
        temperatures: `(exits,)` divisors of the logits; None = the artifact's own.

    Raises:
        DataError: the records have no labels.
        PolicyError: not one temperature per exit.
    """
    if records.labels is None:
        raise DataError(f"{records.name}: reliability is measured against true classes; these records have no labels")
    wanted = temperatures or records.temperatures or (1.0,) * records.exits
    if len(wanted) != records.exits:
        raise PolicyError(f"{len(wanted)} temperatures for {records.exits} exits")
    labels = records.labels
    return tuple(
        reliability(softmax(records.valid(k, o), records.kind, t), records.valid(k, labels), bins)
        for k, (o, t) in enumerate(zip(records.outputs, wanted, strict=True))
    )
