"""Building blocks of the definitions: convolutions that pad as TensorFlow's 'same' does, with batch norm.

TensorFlow pads stride-2 windows unevenly (more below and to the right), torch's `padding=1` evenly. With even
pictures the two sample different pixels, so networks trained there (MLPerf Tiny, T-RECX) only fit modules
that pad their way.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

BN_EPS = 1e-3
"""Keras' default; torch's own is 1e-5."""

Size = tuple[int, int]
"""Height and width."""


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros TensorFlow's 'same' puts before and after one axis of `size` positions.

    >>> same_padding(32, 3, 1), same_padding(32, 3, 2), same_padding(49, 10, 2)
    ((1, 1), (0, 1), (4, 5))
    """
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def same_size(size: Size, stride: int) -> Size:
    """Height and width after a 'same' convolution of that stride."""
    return math.ceil(size[0] / stride), math.ceil(size[1] / stride)


class SameConv2d(nn.Conv2d):
    """A 2-D convolution with TensorFlow's 'same' padding for pictures of one fixed size.

    The size is fixed when built, so the padding is a constant in the exported graph (and not a chain of shape
    arithmetic).

    Args:
        channels_in: channels of the input `(batch, channels_in, height, width)`.
        channels_out: channels of the output.
        kernel: height and width of the window.
        size: height and width of the input.
        stride: the same in both directions.
        groups: `channels_in` for a depthwise convolution.
        bias: whether to add one number per output channel.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: Size,
        size: Size,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        top, bottom = same_padding(size[0], kernel[0], stride)
        left, right = same_padding(size[1], kernel[1], stride)
        even = top == bottom and left == right
        super().__init__(
            channels_in,
            channels_out,
            kernel,
            stride=stride,
            padding=(top, left) if even else 0,
            groups=groups,
            bias=bias,
        )
        self.uneven: list[int] | None = None if even else [left, right, top, bottom]

    def forward(self, x: Tensor) -> Tensor:
        if self.uneven is not None:
            x = functional.pad(x, self.uneven)
        return super().forward(x)


class ConvNorm(nn.Module):
    """'same' convolution, batch norm (eps 1e-3) and, unless `relu=False`, ReLU.

    Args: as `SameConv2d`. `depthwise=True` filters every channel by itself; then both channel counts must be
        equal.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: Size,
        size: Size,
        *,
        stride: int = 1,
        depthwise: bool = False,
        relu: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        groups = channels_in if depthwise else 1
        self.conv = SameConv2d(channels_in, channels_out, kernel, size, stride=stride, groups=groups, bias=bias)
        self.norm = nn.BatchNorm2d(channels_out, eps=BN_EPS)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return torch.relu(y) if self.relu else y


class SeparableBlock(nn.Module):
    """Depthwise 3x3 and pointwise convolution, each with batch norm and ReLU: as in DS-CNN and MobileNet."""

    def __init__(self, channels_in: int, channels_out: int, size: Size, *, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.depthwise = ConvNorm(channels_in, channels_in, (3, 3), size, stride=stride, depthwise=True, bias=bias)
        self.pointwise = ConvNorm(channels_in, channels_out, (1, 1), same_size(size, stride), bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pointwise(self.depthwise(x))
        return y


def init_weights(module: nn.Module) -> None:
    """He (2015) initialisation for convolutions, Glorot uniform for linear layers, zero biases; in place."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
