"""Corrupted pictures: seven of CIFAR-10-C's corruptions (Hendrycks & Dietterich, ICLR 2019).

Severities 1 to 5 are those published for 32 x 32 pictures (`make_cifar_c.py`). Noise is drawn anew, so noisy pictures
resemble the published files without being them; the other four corruptions follow the same arithmetic. Not here:
those that need photographs of frost, a JPEG encoder or warping.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError

Pixels = NDArray[np.float64]
"""`(n, channels, height, width)` in [0, 1]."""
Corruption = Callable[[Pixels, float, np.random.Generator], Pixels]
"""(pictures, the severity's number, chance) -> pictures, not yet clipped."""

SEVERITIES = (1, 2, 3, 4, 5)
_CHUNK = 500
"""Pictures at once, so that memory does not grow with their number."""


def gaussian_noise(x: Pixels, deviation: float, rng: np.random.Generator) -> Pixels:
    """Normal noise on every value; its deviation where white is 1."""
    return x + rng.normal(scale=deviation, size=x.shape)


def shot_noise(x: Pixels, photons: float, rng: np.random.Generator) -> Pixels:
    """Poisson noise: white is that many photons."""
    return rng.poisson(x * photons) / photons


def impulse_noise(x: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    """Salt and pepper: that share of the values (not pixels) becomes 0 or 1."""
    hit, salt = rng.random(x.shape) <= share, rng.random(x.shape) <= 0.5
    return np.where(hit, salt.astype(np.float64), x)


def brightness(x: Pixels, amount: float, rng: np.random.Generator) -> Pixels:
    """Adds to the value of hue, saturation, value: all channels grow by one factor; black turns grey."""
    value = x.max(1, keepdims=True)
    factor = np.minimum(value + amount, 1) / np.where(value > 0, value, 1)
    return np.where(value > 0, x * factor, amount)


def contrast(x: Pixels, factor: float, rng: np.random.Generator) -> Pixels:
    """Shrinks the distance to every picture's and channel's mean to that factor."""
    mean: Pixels = x.mean((2, 3), keepdims=True)
    return (x - mean) * factor + mean


def gaussian_blur(x: Pixels, deviation: float, rng: np.random.Generator) -> Pixels:
    """Normal kernel cut at four deviations (pixels); the border's values go on outside."""
    radius = int(4 * deviation + 0.5)
    at = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (at / deviation) ** 2)
    kernel /= kernel.sum()
    for axis in (2, 3):
        pad = [(radius, radius) if a == axis else (0, 0) for a in range(4)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, pad, mode="edge"), len(kernel), axis)
        x = windows @ kernel
    return x


def pixelate(x: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    """Scales both sides to that share and back with Pillow's box filter, in its whole grey levels."""
    grey = x * 255
    height, width = x.shape[2:]
    small = max(int(height * share), 1), max(int(width * share), 1)
    for target in (small, (height, width)):
        grey = np.floor(grey @ _box(grey.shape[3], target[1]).T + 0.5)  # Pillow: along rows first, rounded after each
        grey = np.floor(_box(grey.shape[2], target[0]) @ grey + 0.5)
    return np.asarray(grey / 255)


def _box(old: int, new: int) -> Pixels:
    """`(new, old)`: every new position is the mean of the old ones whose centres it covers.

    Not the exact overlaps: Pillow counts an old position whole or not at all.
    """
    scale = old / new
    width = max(scale, 1.0)
    distance = (np.arange(old) + 0.5 - (np.arange(new)[:, None] + 0.5) * scale) / width
    covered = (distance > -0.5) & (distance <= 0.5)
    return np.asarray(covered / covered.sum(1, keepdims=True))


CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, float, float, float, float]]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "gaussian_blur": (gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "pixelate": (pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
}
"""name -> (function, its number at severities 1 to 5)."""


def corrupt(x: NDArray[Any], name: str, severity: int, seed: int = 0) -> NDArray[np.uint8]:
    """All pictures with one corruption at one severity; the same arguments give the same pictures.

    Args:
        x: `(n, channels, height, width)` uint8; any size, though the severities are meant for 32 x 32.
        name: a key of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: of the noise; noise differs between severities. Corruptions without chance ignore it.

    Returns:
        A new array of the same shape and type. As in the published files fractions of a grey level are cut off.

    Raises:
        DataError: an unknown name or severity, another type or number of axes, or empty pictures.
    """
    function, numbers = _look_up(name)
    if severity not in SEVERITIES:
        raise DataError(f"severity {severity!r} of {name}: choose 1, 2, 3, 4 or 5")
    pictures = np.asarray(x)
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or 0 in pictures.shape[1:]:
        raise DataError(
            f"corruptions take pictures (n, channels, height, width) as uint8, got {pictures.dtype} {pictures.shape}"
        )
    rng = np.random.default_rng((seed, severity))
    corrupted = np.empty_like(pictures)
    for at in range(0, len(pictures), _CHUNK):
        part = function(pictures[at : at + _CHUNK] / 255, numbers[severity - 1], rng)
        corrupted[at : at + _CHUNK] = np.clip(part, 0, 1) * 255
    return corrupted


def corrupted_stream(
    x: NDArray[Any], y: NDArray[Any], name: str, seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Every picture once, a fifth of them at each severity: QUTE's corrupted stream (Ghanathe & Wilton, ICML 2025).

    Pictures keep their order, so `y` comes back as it was; severities are spread over them at random. Where five does
    not divide n, parts differ by one. `edgeexit.calibrate.metrics.uncertainty.accuracy_drop` takes
    a network's answers to it.

    Args:
        x: as `corrupt`, at least five.
        y: `(n,)`, class numbers.
        name: a key of `CORRUPTIONS`.
        seed: of the severities and of the noise.

    Returns:
        Pictures like `x`, and `y`.

    Raises:
        DataError: as `corrupt`; lengths that differ; fewer than five pictures.
    """
    _look_up(name)
    pictures, labels = np.asarray(x), np.asarray(y)
    if pictures.ndim == 0 or labels.ndim != 1 or len(pictures) != len(labels) or len(labels) < len(SEVERITIES):
        raise DataError(
            f"a stream needs pictures and as many classes (n,), at least 5; got {pictures.shape} and {labels.shape}"
        )
    order = np.random.default_rng((seed, 0)).permutation(len(pictures))
    corrupted = np.empty_like(pictures)
    for severity in SEVERITIES:
        rows = np.sort(order[severity - 1 :: len(SEVERITIES)])
        corrupted[rows] = corrupt(pictures[rows], name, severity, seed)
    return corrupted, labels


def _look_up(name: str) -> tuple[Corruption, tuple[float, ...]]:
    if name not in CORRUPTIONS:
        raise DataError(f"unknown corruption {name!r}: choose one of {', '.join(CORRUPTIONS)}")
    return CORRUPTIONS[name]
