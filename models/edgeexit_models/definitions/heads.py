"""Heads: small modules that turn the features at some depth into class scores (logits).

Every head has one tensor in and `(batch, classes)` logits out, and is built from the feature shape *without*
the batch axis. A head is paid for at every exit that is tried, so the cheap ones come first. `HEADS` names
them; `make_head` builds by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeexit.errors import ModelError


def global_average(x: Tensor) -> Tensor:
    """`(batch, channels, length)` or `(batch, channels, height, width)` -> `(batch, channels)`.

    Adaptive pooling and not `mean`: it becomes GlobalAveragePool, which every int8 kernel library has.
    """
    pooled = functional.adaptive_avg_pool1d(x, 1) if x.ndim == 3 else functional.adaptive_avg_pool2d(x, 1)
    return pooled.flatten(1)


def average_and_largest(x: Tensor) -> Tensor:
    """Mean and maximum of every channel, side by side: shapes as `global_average`, twice the channels."""
    largest = functional.adaptive_max_pool1d(x, 1) if x.ndim == 3 else functional.adaptive_max_pool2d(x, 1)
    return torch.cat([global_average(x), largest.flatten(1)], dim=1)


class PoolLinear(nn.Module):
    """Global average pooling, one linear layer; takes `(channels, length)` or `(channels, rows, columns)`."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(global_average(x))
        return y


class GridPoolLinear(nn.Module):
    """Average pooling over `kernel` windows, flatten, one linear layer: keeps coarse positions (T-RECX 2023).

    Positions left over at the border are dropped. Flattening is in channel, row, column order; weights from
    Keras (row, column, channel) are permuted by whoever converts them, never at run time.

    Args:
        shape: `(channels, height, width)` of the features.
        classes: number of classes.
        kernel: height and width of a window, also the step.

    Raises:
        ModelError: a window is larger than the features.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        channels, height, width = shape
        rows, columns = height // kernel[0], width // kernel[1]
        if rows == 0 or columns == 0:
            raise ModelError(f"pooling windows {kernel} do not fit features of {height} x {width}: use smaller windows")
        self.grid = (channels, rows, columns)
        self.pool = nn.AvgPool2d(kernel)
        self.linear = nn.Linear(channels * rows * columns, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(self.pool(x).flatten(1))
        return y


class AvgMaxPoolLinear(nn.Module):
    """Mean and maximum of every channel, side by side, and one linear layer.

    Shallow features fire in few places; the maximum keeps what the mean washes out (SDN, Kaya et al. 2019,
    mixes the two).
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(average_and_largest(x))
        return y


class DepthwiseSeparable(nn.Module):
    """Pointwise, depthwise 3x3, average pooling, linear: two cheap layers more for an early exit to see with.

    Args:
        channels: channels of the features `(channels, height, width)`.
        classes: number of classes.
        hidden: channels between the two convolutions; `channels` when None.
    """

    def __init__(self, channels: int, classes: int, hidden: int | None = None) -> None:
        super().__init__()
        width = hidden or channels
        self.pointwise = nn.Conv2d(channels, width, 1, bias=False)
        self.norm_pointwise = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm_depthwise = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm_pointwise(self.pointwise(x)))
        x = torch.relu(self.norm_depthwise(self.depthwise(x)))
        y: Tensor = self.linear(global_average(x))
        return y


class TokenLinear(nn.Module):
    """Layer norm and linear layer on one token of `(batch, tokens, channels)`: the class token."""

    def __init__(self, channels: int, classes: int, token: int = 0) -> None:
        super().__init__()
        self.token = token
        self.norm = nn.LayerNorm(channels)
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(self.norm(x[:, self.token]))
        return y


class MeanTokenLinear(nn.Module):
    """Mean over the tokens of `(batch, tokens, channels)`, layer norm, linear layer.

    With a mask `(batch, tokens)` of 1 (real) and 0 (padding), the mean is over real tokens only; a row
    without any gives the head's answer to zeros, not NaN.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            mean = x.mean(1)
        else:
            weight = mask.to(x.dtype).unsqueeze(-1)
            mean = (x * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        y: Tensor = self.linear(self.norm(mean))
        return y


def _grid(shape: tuple[int, ...], classes: int) -> nn.Module:
    channels, height, width = shape
    return GridPoolLinear((channels, height, width), classes, (max(height // 4, 1), max(width // 4, 1)))


def _auto(shape: tuple[int, ...], classes: int) -> nn.Module:
    return MeanTokenLinear(shape[1], classes) if len(shape) == 2 else PoolLinear(shape[0], classes)


HeadFactory = Callable[[tuple[int, ...], int], nn.Module]
"""(feature shape without batch, classes) -> head."""

HEADS: dict[str, tuple[HeadFactory, tuple[int, ...]]] = {
    "auto": (_auto, (2, 3)),
    "pool": (lambda shape, classes: PoolLinear(shape[0], classes), (2, 3)),
    "grid": (_grid, (3,)),
    "avgmax": (lambda shape, classes: AvgMaxPoolLinear(shape[0], classes), (2, 3)),
    "separable": (lambda shape, classes: DepthwiseSeparable(shape[0], classes), (3,)),
    "token": (lambda shape, classes: TokenLinear(shape[1], classes), (2,)),
    "mean-token": (lambda shape, classes: MeanTokenLinear(shape[1], classes), (2,)),
}
"""name -> (how to build it, how many axes besides the batch its features may have)."""


def make_head(name: str, feature_shape: Sequence[int], classes: int) -> nn.Module:
    """Builds the head called `name` for features of `feature_shape` (without the batch axis).

    "auto" reads two axes as `(tokens, channels)` and three as `(channels, height, width)`; for signals of
    `(channels, length)` ask for "pool".

    Raises:
        ModelError: the name is unknown, there are fewer than two classes, or the head does not take features
            of that many axes.
    """
    if name not in HEADS:
        raise ModelError(f"unknown head {name!r}: choose one of {', '.join(HEADS)}, or pass modules of your own")
    if classes < 2:
        raise ModelError(f"a head needs at least 2 classes, got {classes}")
    build, axes = HEADS[name]
    shape = tuple(int(n) for n in feature_shape)
    if len(shape) not in axes:
        expected = " or ".join(str(n) for n in axes)
        raise ModelError(
            f"head {name!r} needs features with {expected} axes besides the batch, got shape {shape}: "
            "choose another head or another place"
        )
    return build(shape, classes)
