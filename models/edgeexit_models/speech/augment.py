"""Augmentation of speech: tempo, vocal tract, microphone, and SpecAugment's masks."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edgeexit.bundle.feature_spec import FeatureSpec
from edgeexit_models.speech.batch import Features

Samples = npt.NDArray[np.float32]
"""`(n,)` in [-1, 1]."""


def at_speed(samples: Samples, factor: float) -> Samples:
    """Played `factor` times as fast, pitch included: the spectrum cut or filled up, then fewer or more samples."""
    count = max(round(len(samples) / factor), 1)
    changed = np.fft.irfft(np.fft.rfft(samples), count) * (count / len(samples))
    return changed.astype(np.float32)


def spec_augment(
    features: Features,
    rng: np.random.Generator,
    fill: Features,
    frequency_masks: int = 1,
    most_bins: int = 6,
    time_masks: int = 1,
    most_frames: int = 10,
) -> Features:
    """A copy with random bands and stretches of time replaced by `fill` `(bins,)`, the mean feature (Park et al. 2019).

    Every mask is 0 to `most_bins` or `most_frames` wide; stretches take at most a fifth of the frames.
    """
    y = features.copy()
    frames, bins = y.shape
    for _ in range(frequency_masks):
        width = int(rng.integers(0, most_bins + 1))
        at = int(rng.integers(0, max(bins - width, 0) + 1))
        y[:, at : at + width] = fill[at : at + width]
    for _ in range(time_masks):
        width = int(rng.integers(0, min(most_frames, frames // 5) + 1))
        at = int(rng.integers(0, frames - width + 1))
        y[at : at + width] = fill
    return y


def random_channel(features: Features, rng: np.random.Generator, deviation: float = 0.5, knots: int = 5) -> Features:
    """A copy as through another microphone: a smooth random curve over the bins is added to the logarithms.

    Args:
        deviation: of the curve at each of `knots` evenly spread bins, in nepers of power (0.5 = 2.2 dB).
    """
    bins = features.shape[1]
    curve = np.interp(np.arange(bins), np.linspace(0, bins - 1, knots), rng.normal(0.0, deviation, knots))
    return features + curve.astype(np.float32)


def random_tract(features: Features, rng: np.random.Generator, spec: FeatureSpec, most: float = 0.1) -> Features:
    """A copy as a longer or shorter vocal tract would sound (VTLP, Jaitly & Hinton 2013).

    Every bin takes the value at its frequency times a factor of 1 - `most` to 1 + `most`, between the bins' centres;
    beyond the last centre stands the last value. Pitch stays, unlike with a change of speed.
    """
    low, high = (1127.0 * math.log1p(hertz / 700.0) for hertz in (spec.low_hz, spec.top_hz))
    centres = 700.0 * np.expm1(np.linspace(low, high, spec.bins + 2)[1:-1] / 1127.0)
    at = np.interp(centres * rng.uniform(1 - most, 1 + most), centres, np.arange(spec.bins))
    below = np.minimum(at.astype(np.int64), spec.bins - 2)
    share = (at - below).astype(np.float32)
    warped: Features = features[:, below] * (1 - share) + features[:, below + 1] * share
    return warped
