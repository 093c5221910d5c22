"""Resizing of 8-bit pictures in numpy with Pillow's antialiased filters and rounding.

A device without Pillow thus gets the same pixels as a training pipeline with Pillow. Columns are resized first and
rounded, as in Pillow up to version 12; later versions start with the rows where that is less work, which changes a
pixel by one level (bilinear, box; bicubic and lanczos by more at hard edges). Only the requested window is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""`(height, width, channels)`"""
_BITS = 22
"""Pillow's fixed point: weights are whole numbers of 2**-22, sums fit 32 bits."""
_ROWS = 32
"""Rows per step, so that the sums stay in the processor's cache."""


def _box(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _lanczos(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(x) < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0)


_FILTERS: dict[str, tuple[float, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = {
    "box": (0.5, _box),
    "bilinear": (1.0, _triangle),
    "bicubic": (2.0, _cubic),
    "lanczos": (3.0, _lanczos),
}
INTERPOLATIONS = ("nearest", *_FILTERS)


def resize(
    pixels: Pixels, size: tuple[int, int], interpolation: str, window: tuple[int, int, int, int] | None = None
) -> Pixels:
    """A picture of another size.

    Args:
        pixels: `(height, width, channels)`.
        size: height and width of the whole result.
        interpolation: one of `INTERPOLATIONS`.
        window: top, left, height and width of the part of the result that is returned; None = all of it.
    """
    top, left, height, width = window or (0, 0, *size)
    rows, columns = slice(top, top + height), slice(left, left + width)
    if interpolation == "nearest":
        y, x = (_nearest(n, out) for n, out in zip(pixels.shape[:2], size, strict=True))
        return pixels[y[rows]][:, x[columns]]
    down = _weights(pixels.shape[0], size[0], interpolation, rows)
    across = _weights(pixels.shape[1], size[1], interpolation, columns)
    if down is not None:  # rows that the window does not need are not looked at
        first, last = int(down[0].min()), int(down[0].max()) + 1
        pixels, down = pixels[first:last], (down[0] - first, down[1])
    else:
        pixels = pixels[rows]
    if across is not None:  # across first, rounded to whole pixels in between, as Pillow does
        pixels = np.concatenate([_across(pixels[i : i + _ROWS], *across) for i in range(0, len(pixels), _ROWS)])
    else:
        pixels = pixels[:, columns]
    if down is None:
        return pixels
    places, weights = down
    return np.concatenate(
        [_down(pixels, places[i : i + _ROWS], weights[i : i + _ROWS]) for i in range(0, len(places), _ROWS)]
    )


def _nearest(before: int, after: int) -> NDArray[np.int64]:
    """Summed up step by step, so that where a pixel's middle lies on a border it falls as in Pillow."""
    step = before / after
    steps = np.full(after, step)
    steps[0] /= 2
    return np.minimum(np.cumsum(steps).astype(np.int64), before - 1)


def _weights(
    before: int, after: int, interpolation: str, part: slice
) -> tuple[NDArray[np.int64], NDArray[np.int32]] | None:
    """Which pixels of a line become each pixel of the new one, and how much: `(after, taps)` each; None = the same."""
    if before == after:
        return None
    support, shape = _FILTERS[interpolation]
    scale = before / after
    stretch = max(scale, 1.0)
    support *= stretch
    center = (np.arange(part.start, part.stop) + 0.5) * scale
    low = np.maximum(np.trunc(center - support + 0.5), 0).astype(np.int64)
    high = np.minimum(np.trunc(center + support + 0.5), before).astype(np.int64)
    places = low[:, None] + np.arange(math.ceil(support) * 2 + 1)
    weights = shape((places - center[:, None] + 0.5) * (1.0 / stretch))
    weights[places >= high[:, None]] = 0.0
    weights /= weights.sum(1, keepdims=True)
    weights *= 1 << _BITS
    return np.minimum(places, before - 1), np.trunc(weights + np.copysign(0.5, weights)).astype(np.int32)


def _across(pixels: Pixels, places: NDArray[np.int64], weights: NDArray[np.int32]) -> Pixels:
    total = np.full((len(pixels), len(places), pixels.shape[2]), 1 << (_BITS - 1), np.int32)
    for tap in range(places.shape[1]):
        total += pixels[:, places[:, tap]] * weights[:, tap, None]
    return _rounded(total)


def _down(pixels: Pixels, places: NDArray[np.int64], weights: NDArray[np.int32]) -> Pixels:
    total = np.full((len(places), *pixels.shape[1:]), 1 << (_BITS - 1), np.int32)
    for tap in range(places.shape[1]):
        total += pixels[places[:, tap]] * weights[:, tap, None, None]
    return _rounded(total)


def _rounded(total: NDArray[np.int32]) -> Pixels:
    return np.asarray(np.clip(total >> _BITS, 0, 255), np.uint8)
