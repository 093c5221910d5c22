"""Random changes to training pictures, on whole batches at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class CropFlip:
    """Shifts every picture by up to `pad` pixels both ways and mirrors half of them: CIFAR's usual recipe.

    Called with `(batch, channels, height, width)` and a generator; returns a new batch of the same shape.
    """

    pad: int = 4
    """Largest shift, pixels."""
    fill: float = 0.0
    """What moves in at the border, in the pixels' own unit."""
    mirror: bool = True
    """Left-right; switch off where it changes the class (digits, text)."""

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        batch, _, height, width = x.shape
        top, left = torch.randint(0, 2 * self.pad + 1, (2, batch, 1), generator=generator)
        rows = top + torch.arange(height)
        columns = torch.arange(width).repeat(batch, 1)
        if self.mirror:
            mirrored = torch.rand(batch, 1, generator=generator) < 0.5
            columns = torch.where(mirrored, width - 1 - columns, columns)
        columns = left + columns
        padded = functional.pad(x, [self.pad] * 4, value=self.fill).permute(0, 2, 3, 1)
        # one gather for shift and mirror; the result is channels-last in memory, which convolutions like
        picked = padded[torch.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]
        return picked.permute(0, 3, 1, 2)
