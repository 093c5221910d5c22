"""Subsampling of four feature frames to one encoder frame: two convolutions of width 3 and stride 2, no padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

FACTOR = 4
PAST = 3
"""Feature frames before its own four that an encoder frame of a streaming network sees."""


class Subsampling(nn.Module):
    """`(batch, time, bins)` -> `(batch, frames, width)` and the valid frames `(batch,)`.

    Full context: `frames = (time - 3) // 4`, at least 7 feature frames. Causal: three zero frames (the mean of
    normalised features) stand before the first, so that `frames = time // 4`, at least 4, and frame i needs
    nothing after feature frame `4 i + 3`: a chunk of 4 n features is n frames.
    """

    def __init__(self, bins: int, width: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.first = nn.Conv1d(bins, width, 3, stride=2)
        self.second = nn.Conv1d(width, width, 3, stride=2)

    def forward(self, x: Tensor, x_lens: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """With `past` `(batch, 3, bins)` the frames before `x` on a stream; else they are zeros."""
        if self.causal:
            x = functional.pad(x, (0, 0, PAST, 0)) if past is None else torch.cat([past, x], dim=1)
        y = self.second(torch.relu(self.first(x.transpose(1, 2)))).transpose(1, 2)
        # only non-negative numbers are divided: engines disagree on // of negative integers
        full = x_lens if self.causal else torch.clamp(x_lens - PAST, min=0)
        return y, torch.div(full, FACTOR, rounding_mode="trunc")
