"""ResNet-8 for 32 x 32 pictures with three exits: MLPerf Tiny's classifier as T-RECX (2023) extends it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeexit.pictures.preprocess import Preprocess
from edgeexit_models.definitions.heads import GridPoolLinear
from edgeexit_models.definitions.layers import ConvNorm, SameConv2d, Size, init_weights, same_size
from edgeexit_models.protocol import InputSpec

CIFAR10_MEAN = (125.3, 123.0, 113.9)
"""Mean red, green and blue of CIFAR-10's training pictures, pixels 0..255."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, a 1x1 convolution without batch norm where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, size: Size, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(channels_in, channels_out, (3, 3), size, stride=stride)
        self.second = ConvNorm(channels_out, channels_out, (3, 3), same_size(size, stride), relu=False)
        changes = stride != 1 or channels_in != channels_out
        self.shortcut = SameConv2d(channels_in, channels_out, (1, 1), size, stride=stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


class ResNet8(nn.Module):
    """Pictures `(batch, 3, 32, 32)` -> logits `(batch, classes)` after stacks 1, 2 and 3.

    Pixels are float32 0..255, as T-RECX's weights expect.

    Args:
        classes: number of classes.
        mean: red, green and blue to subtract first, as part of the network; None = nothing. A scale is not needed:
            the batch norm after the first convolution absorbs any scale, in training too.
    """

    def __init__(self, classes: int = 10, mean: Sequence[float] | None = None) -> None:
        super().__init__()
        self.input_spec: InputSpec = {"image": ("float32", ("batch", 3, 32, 32))}
        self.preprocess = Preprocess((32, 32), interpolation="bicubic")
        self.mean: Tensor | None
        self.register_buffer("mean", None if mean is None else torch.tensor(mean).reshape(3, 1, 1))
        self.stem = ConvNorm(3, 16, (3, 3), (32, 32))
        self.stacks = nn.ModuleList(
            [
                ResidualBlock(16, 16, (32, 32), 1),
                ResidualBlock(16, 32, (32, 32), 2),
                ResidualBlock(32, 64, (16, 16), 2),
            ]
        )
        self.heads = nn.ModuleList(
            [
                GridPoolLinear((16, 32, 32), classes, (4, 4)),
                GridPoolLinear((32, 16, 16), classes, (4, 4)),
                GridPoolLinear((64, 8, 8), classes, (8, 8)),
            ]
        )
        init_weights(self)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = image if self.mean is None else image - self.mean
        x = self.stem(x)
        outputs: list[Tensor] = []
        for stack, head in zip(self.stacks, self.heads, strict=True):
            x = stack(x)
            outputs.append(head(x))
        return tuple(outputs)


def resnet8(classes: int = 10) -> ResNet8:
    """ResNet-8 on raw pixels, three exits (5.17, 8.85, 12.52 million MACs); holds T-RECX's weights."""
    return ResNet8(classes)


def resnet8_cifar10() -> ResNet8:
    """ResNet-8 with CIFAR-10's mean inside, for the weights of `models/recipes/resnet8-cifar10`."""
    return ResNet8(10, CIFAR10_MEAN)
