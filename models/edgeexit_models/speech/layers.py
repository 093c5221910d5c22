"""The Conformer layer (Gulati et al. 2020) with rotary positions; whole utterances and streams run the same code.

Everything is `(batch, frames, channels)`. Padding cannot reach valid frames: attention does not look at it, and
the convolution sees zeros there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeexit_models.speech.config import ConformerConfig

HIDDEN = -1e4
"""Added to what attention must not see: exp() of it is 0, also in half precision, and a row of nothing else stays
finite (-inf would make NaN of it)."""
ROTARY_BASE = 10_000.0


class Context(NamedTuple):
    """What all layers of a stack share."""

    keep: Tensor
    """(batch, frames, 1) float, 1 = valid frame."""
    bias: Tensor
    """Added to attention scores (batch, 1, 1 or frames, keys): 0 or `HIDDEN`."""
    cosine: Tensor
    """(keys, channels of a head / 2); frames are the last of the keys."""
    sine: Tensor


def rotary(keys: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine `(keys, channels / 2)` of positions `keys` `(keys,)` float (Su et al. 2021).

    Attention sees only differences of positions, so a stream may count from the start of its window.
    """
    steps = torch.arange(0, channels, 2, dtype=torch.float32, device=keys.device) / channels
    angles = keys[:, None] * torch.pow(torch.tensor(ROTARY_BASE, device=keys.device), -steps)
    return torch.cos(angles), torch.sin(angles)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turns pairs (c, c + half) of channels of `x` `(batch, heads, frames, channels)` by their angle."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], dim=-1)


def feed_forward(config: ConformerConfig) -> nn.Sequential:
    """Layer norm, linear, swish, linear.

    Dropout here and in the other modules falls on what is added to the trunk only: inside, random numbers would take
    a third of the training time on a CPU.
    """
    return nn.Sequential(
        nn.LayerNorm(config.width),
        nn.Linear(config.width, config.feed_forward),
        nn.SiLU(),
        nn.Linear(config.feed_forward, config.width),
        nn.Dropout(config.dropout),
    )


class Attention(nn.Module):
    """Multi-head self-attention over the frames at hand and, on a stream, cached ones before them."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.heads, self.channels = config.heads, config.width // config.heads
        self.norm = nn.LayerNorm(config.width)
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, context: Context, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The change of `x`, and keys and values `(batch, keys, 2 width)`, those of `past` in front."""
        y = self.norm(x)
        cache = self.key_value(y)
        if past is not None:
            cache = torch.cat([past, cache], dim=1)
        key, value = (self._split(part) for part in cache.chunk(2, dim=-1))
        query = self._split(self.query(y)) * self.channels**-0.5
        # keys are kept unturned: their place in the window changes from chunk to chunk
        first = key.shape[2] - query.shape[2] if past is not None else 0
        query = rotate(query, context.cosine[first:], context.sine[first:])
        key = rotate(key, context.cosine, context.sine)
        weights = torch.softmax(query @ key.transpose(-1, -2) + context.bias, dim=-1)
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        return self.dropout(self.out(mixed)), cache

    def _split(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.heads, self.channels)).transpose(1, 2)


class Convolution(nn.Module):
    """Layer norm, gated linear unit, depthwise convolution, norm, swish, linear."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.kernel, self.causal = config.kernel, config.chunk is not None
        self.norm = nn.LayerNorm(config.width)
        self.enter = nn.Linear(config.width, 2 * config.width)
        padding = 0 if self.causal else config.kernel // 2
        self.depthwise = nn.Conv1d(config.width, config.width, config.kernel, padding=padding, groups=config.width)
        self.inner: nn.Module = nn.BatchNorm1d(config.width) if config.norm == "batch" else nn.LayerNorm(config.width)
        self.leave = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, context: Context, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The change of `x`, and what the depthwise convolution saw (batch, kernel - 1 + frames, width)."""
        y = functional.glu(self.enter(self.norm(x)), dim=-1) * context.keep
        if past is not None:
            y = torch.cat([past, y], dim=1)
        elif self.causal:
            y = functional.pad(y, (0, 0, self.kernel - 1, 0))
        z = self.depthwise(y.transpose(1, 2))
        z = self.inner(z).transpose(1, 2) if isinstance(self.inner, nn.BatchNorm1d) else self.inner(z.transpose(1, 2))
        return self.dropout(self.leave(functional.silu(z))), y


class ConformerLayer(nn.Module):
    """Half-step feed-forward, attention, convolution, half-step feed-forward, layer norm."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.left, self.kernel = config.left, config.kernel
        self.before = feed_forward(config)
        self.attention = Attention(config)
        self.convolution = Convolution(config)
        self.after = feed_forward(config)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.step(x, context, None, None)[0]

    def step(
        self, x: Tensor, context: Context, attended: Tensor | None, convolved: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One chunk with what came before; also keys with values, and convolution inputs, of old and new frames."""
        x = x + 0.5 * self.before(x)
        change, attended = self.attention(x, context, attended)
        x = x + change
        change, convolved = self.convolution(x, context, convolved)
        x = x + change
        y: Tensor = self.norm(x + 0.5 * self.after(x))
        return y, attended, convolved
