"""Value ranges of tensors for quantization: our own estimates.

ai-edge-quantizer's moving average forgets what it saw first and clips; measured errors are up to ten times larger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError

METHODS = ("minmax", "percentile", "mse")
"""True extremes; all but the outermost ten-thousandth of the values; the range of least mean squared error."""
_BINS = 2048
_OUTSIDE = 1e-4
"""Share of the values that `percentile` clips, half of it on either side."""
_STEPS = 48

Tensors = Iterable[tuple[str, NDArray[Any]]]


def estimate(passes: Callable[[], Tensors], method: str, levels: int) -> dict[str, tuple[float, float]]:
    """Per tensor, the range to quantize.

    Args:
        passes: gives, each time it is called, all the values of all tensors, in parts, in the same order.
        method: one of `METHODS`; the two that clip read the values twice.
        levels: of the quantized type: 256 or 65536.

    Raises:
        DataError: an unknown method, or values that are not finite.
    """
    if method not in METHODS:
        raise DataError(f"unknown range estimate {method!r}; known: {', '.join(METHODS)}")
    limits: dict[str, tuple[float, float]] = {}
    for name, array in passes():
        if not array.size:
            continue
        low, high = float(array.min()), float(array.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(f"tensor {name!r} holds values that are not finite; look at the model and the data")
        if name in limits:
            low, high = min(low, limits[name][0]), max(high, limits[name][1])
        limits[name] = (low, high)
    if method == "minmax":
        return limits
    counts = {name: np.zeros(_BINS, np.int64) for name in limits}
    for name, array in passes():
        low, high = limits[name]
        if high > low:
            counts[name] += np.histogram(array, _BINS, (low, high))[0]
    choose = _percentile if method == "percentile" else _least_error
    return {n: choose(counts[n], r, levels) if r[1] > r[0] else r for n, r in limits.items()}


def _percentile(counts: NDArray[np.int64], limits: tuple[float, float], levels: int) -> tuple[float, float]:
    edges = np.linspace(*limits, _BINS + 1)
    share = np.cumsum(counts) / counts.sum()
    first = int(np.searchsorted(share, _OUTSIDE / 2, side="right"))
    last = int(np.searchsorted(share, 1 - _OUTSIDE / 2))
    return float(edges[first]), float(edges[min(last, _BINS - 1) + 1])


def _least_error(counts: NDArray[np.int64], limits: tuple[float, float], levels: int) -> tuple[float, float]:
    """One end after the other is drawn towards zero; the other stays."""
    edges = np.linspace(*limits, _BINS + 1)
    centers = (edges[:-1] + edges[1:]) / 2
    low, high = limits
    if high > 0:
        high = min((high * s for s in _shrunk()), key=lambda h: _error(centers, counts, low, h, levels))
    if low < 0:
        low = min((low * s for s in _shrunk()), key=lambda v: _error(centers, counts, v, high, levels))
    return float(low), float(high)


def _shrunk() -> NDArray[np.float64]:
    return np.linspace(1.0, 0.2, _STEPS)  # the largest first: it wins a tie


def _error(x: NDArray[np.float64], counts: NDArray[np.int64], low: float, high: float, levels: int) -> float:
    low, high = min(low, 0.0), max(high, 0.0)  # zero is always representable
    step = (high - low) / (levels - 1)
    if step <= 0:
        return float("inf")
    rounded = np.clip(np.round((x - low) / step), 0, levels - 1) * step + low
    inside = (x >= low) & (x <= high)  # within a bin, rounding errs by a twelfth of a step squared, not by its center's
    return float((counts * np.where(inside, step**2 / 12, (x - rounded) ** 2)).sum())
