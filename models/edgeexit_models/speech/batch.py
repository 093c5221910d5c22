"""Utterances of different lengths as one padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgeexit.errors import DataError

Features = npt.NDArray[np.float32]
"""`(frames, bins)`."""


class Batch(NamedTuple):
    """Inputs and targets of one training step."""

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
        DataError: no utterances, not one text per utterance, or features that are not `(frames, bins)` of one width.
    """
    if not features or len(features) != len(tokens):
        raise DataError(
            f"{len(features)} utterances and {len(tokens)} texts: a batch needs as many of both, at least 1"
        )
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
