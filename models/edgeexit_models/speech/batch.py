"""Utterances of different lengths as one padded batch, and SpecAugment (Park et al. 2019) on features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgeexit.errors import DataError
from edgeexit.speech.features import FeatureSpec

Features = npt.NDArray[np.float32]
"""`(frames, bins)`."""


class Batch(NamedTuple):
    """What one training step sees."""

    x: Tensor
    """(batch, time, bins) float32, zeros behind the end."""
    x_lens: Tensor
    """(batch,) int64."""
    targets: Tensor
    """All tokens in a row, int64."""
    target_lens: Tensor
    """(batch,) int64."""


def make_batch(features: Sequence[Features], tokens: Sequence[Sequence[int]]) -> Batch:
    """Pads to the longest.

    Raises:
        DataError: nothing given, not one text per utterance, or features that are not `(frames, bins)` of one width.
    """
    if not features or len(features) != len(tokens):
        raise DataError(f"{len(features)} utterances and {len(tokens)} texts: a batch needs as many of both, at least 1")
    shapes = sorted({f.shape[1:] for f in features})
    if len(shapes) != 1 or len(shapes[0]) != 1:
        raise DataError(f"features must be (frames, bins) of one width, got widths {shapes}")
    lengths = [len(f) for f in features]
    x = np.zeros((len(features), max(lengths), shapes[0][0]), np.float32)
    for row, one in zip(x, features, strict=True):
        row[: len(one)] = one
    return Batch(
        torch.from_numpy(x),
        torch.tensor(lengths),
        torch.tensor([t for text in tokens for t in text], dtype=torch.int64),
        torch.tensor([len(text) for text in tokens]),
    )


def spec_augment(
    features: Features,
    rng: np.random.Generator,
    fill: Features,
    frequency_masks: int = 1,
    most_bins: int = 6,
    time_masks: int = 1,
    most_frames: int = 10,
) -> Features:
    """A copy with random bands and stretches of time replaced by `fill` `(bins,)`, the mean feature.

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
    """A copy as another microphone might hear it: a smooth random curve over the bins is added to the logarithms.

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
    mel = 1127.0 * np.log1p(np.array([spec.low_hz, spec.top_hz]) / 700.0)
    centres = 700.0 * np.expm1(np.linspace(*mel, spec.bins + 2)[1:-1] / 1127.0)
    at = np.interp(centres * rng.uniform(1 - most, 1 + most), centres, np.arange(spec.bins))
    below = np.minimum(at.astype(np.int64), spec.bins - 2)
    share = (at - below).astype(np.float32)
    return features[:, below] * (1 - share) + features[:, below + 1] * share
