"""Features and targets for fitting: checked, read in pieces, standardised on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError

ROWS_PER_CLASS = 5
"""Fewer rows than this times the classes, and a head learns its rows by heart."""
_CHUNK_NUMBERS = 1 << 20
_CHUNK_ROWS = 8192


def chunks(rows: int, width: int) -> Iterator[slice]:
    """Pieces of at most 8192 rows and about a million numbers: 4 MiB in float32, which a cache holds."""
    step = min(max(_CHUNK_NUMBERS // max(width, 1), 64), _CHUNK_ROWS)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """Features `(n, width)` and what a head should answer, on disk or in memory; never copied whole."""

    features: NDArray[Any]
    targets: NDArray[Any]
    """Class numbers `(n,)`, or probabilities `(n, classes)`."""
    classes: int
    mean: NDArray[np.float32]
    """`(width,)`"""
    scale: NDArray[np.float32]
    """`(width,)`: one over the standard deviation; 0 for a feature that does not vary."""

    @property
    def soft(self) -> bool:
        return self.targets.ndim == 2

    def take(self, which: slice | NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Standardised features `(rows, width)` and probabilities `(rows, classes)` of some rows, as copies."""
        x = np.array(self.features[which], np.float32)
        x -= self.mean
        x *= self.scale
        if self.soft:
            return x, np.asarray(self.targets[which], np.float32)
        return x, np.eye(self.classes, dtype=np.float32)[self.targets[which]]

    def priors(self) -> NDArray[np.float64]:
        """How often every class is the answer, `(classes,)`; none is 0."""
        if self.soft:
            share = sum(self.targets[c].sum(0, dtype=np.float64) for c in chunks(len(self.targets), self.classes))
        else:
            share = np.bincount(self.targets, minlength=self.classes)
        share = np.asarray(share, np.float64) + 0.5
        return np.asarray(share / share.sum())


def make_rows(features: NDArray[Any], targets: NDArray[Any], classes: int | None = None) -> FeatureRows:
    """Check what a head is to be fitted on, and measure each feature's mean and spread (three passes).

    Args:
        features: `(n, width)`, floating point; a memory map is read in pieces.
        targets: class numbers `(n,)`, or probabilities `(n, classes)`.
        classes: how many there are; None = one more than the largest class number, or the targets' columns.

    Raises:
        DataError: shapes or types that do not fit, too few rows, NaN or infinity, a class number out of range, a
            class without a row, or probabilities that are none.
    """
    if features.ndim != 2 or features.dtype.kind != "f":
        raise DataError(f"features: expected (rows, width) numbers, found {features.dtype}{list(features.shape)}")
    if targets.ndim not in (1, 2) or len(targets) != len(features):
        raise DataError(f"targets {list(targets.shape)} do not fit features {list(features.shape)}: one row for each")
    if len(features) == 0 or features.shape[1] == 0:
        raise DataError(f"features {list(features.shape)}: nothing to fit a head on")
    count = _soft(targets, classes) if targets.ndim == 2 else _hard(targets, classes)
    if len(features) < ROWS_PER_CLASS * count:
        raise DataError(
            f"{len(features)} rows for {count} classes: a head needs at least {ROWS_PER_CLASS} rows per class, "
            f"{ROWS_PER_CLASS * count} in all"
        )
    kept = targets if targets.ndim == 2 else np.asarray(targets, np.int64)
    return FeatureRows(features, kept, count, *_moments(features))


def soft_targets(outputs: NDArray[Any], kind: str, temperature: float = 1.0) -> NDArray[np.float32]:
    """A network's own answers as targets: probabilities, softened by a temperature.

    Args:
        outputs: `(n, classes)`.
        kind: "logits" or "probs".
        temperature: divides the logits; above 1, it shows how the wrong classes compare.

    Raises:
        DataError: another shape, kind or temperature, NaN, or probabilities below 0.
    """
    if outputs.ndim != 2 or kind not in ("logits", "probs") or not 0 < temperature < np.inf:
        raise DataError(
            f"expected outputs (rows, classes) of kind logits or probs and a positive temperature; found "
            f"{list(outputs.shape)}, {kind!r}, {temperature}"
        )
    targets = np.empty(outputs.shape, np.float32)
    for c in chunks(*outputs.shape):
        z = np.asarray(outputs[c], np.float64)
        if not np.isfinite(z).all() or (kind == "probs" and (z < 0).any()):
            wrong = int(np.flatnonzero(~(np.isfinite(z) & ((z >= 0) | (kind != "probs"))).all(1))[0]) + c.start
            raise DataError(f"outputs: row {wrong} holds NaN, infinity or a negative probability")
        if kind == "probs":
            z = np.log(np.maximum(z, 1e-30))
        z = (z - z.max(1, keepdims=True)) / temperature
        e = np.exp(z)
        targets[c] = e / e.sum(1, keepdims=True)
    return targets


def _hard(targets: NDArray[Any], classes: int | None) -> int:
    if targets.dtype.kind not in "iu":
        raise DataError(f"targets: class numbers are integers, found {targets.dtype}; probabilities have two axes")
    low, high = int(targets.min()), int(targets.max())
    count = high + 1 if classes is None else classes
    if low < 0 or high >= count:
        raise DataError(f"targets: class numbers from {low} to {high}; expected 0 to {count - 1}")
    if count < 2:
        raise DataError("targets: every row is of class 0; a head needs at least 2 classes")
    absent = np.flatnonzero(np.bincount(targets, minlength=count) == 0)
    if absent.size:
        raise DataError(f"targets: no row of {_listed('class', absent)} (of {count} classes); give rows of each")
    return count


def _soft(targets: NDArray[Any], classes: int | None) -> int:
    count = int(targets.shape[1])
    if classes is not None and classes != count:
        raise DataError(f"targets: probabilities of {count} classes; expected {classes}")
    if count < 2 or targets.dtype.kind != "f":
        raise DataError(
            f"targets: expected probabilities (rows, classes), found {targets.dtype}{list(targets.shape)}; class "
            "numbers have one axis"
        )
    for c in chunks(len(targets), count):
        p = np.asarray(targets[c], np.float64)
        wrong = np.flatnonzero(~((p >= 0).all(1) & (np.abs(p.sum(1) - 1) < 1e-3)))
        if wrong.size:
            raise DataError(
                f"targets: {_listed('row', wrong + c.start)} not probabilities that sum to 1; see soft_targets"
            )
    return count


def _moments(features: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and one over the standard deviation of every feature, summed in float64."""
    n, width = features.shape
    total = np.zeros(width)
    for c in chunks(n, width):
        finite = np.isfinite(features[c]).all(1)
        if not finite.all():
            wrong = np.flatnonzero(~finite) + c.start
            raise DataError(f"features: NaN or infinity in {_listed('row', wrong)}; does the network overflow there?")
        total += features[c].sum(0, dtype=np.float64)
    mean = (total / n).astype(np.float32)
    squares = np.zeros(width)
    for c in chunks(n, width):
        x = np.array(features[c], np.float32)
        x -= mean
        squares += np.einsum("ij,ij->j", x, x, dtype=np.float64)
    spread = np.sqrt(squares / n)
    varies = spread > 1e-6 * np.maximum(np.abs(mean), 1e-12)  # below that, it is rounding
    scale = np.zeros(width, np.float32)
    scale[varies] = 1 / spread[varies]
    return mean, scale


def _listed(what: str, which: NDArray[Any]) -> str:
    plural = what if len(which) == 1 else f"{what}es" if what.endswith("s") else f"{what}s"
    more = f" and {len(which) - 5} more" if len(which) > 5 else ""
    return f"{plural} {', '.join(str(i) for i in which[:5])}{more}"
