"""ResNet-20 for CIFAR-10 (He et al., CVPR 2016): a single-exit network to add exits to."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeexit.pictures.preprocess import Preprocess
from edgeexit_models.protocol import InputSpec

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; where the shape changes, the shortcut drops pixels and pads channels with zeros."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.more = stride, channels - channels_in

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.more:
            half = self.more // 2
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.more - half))
        return torch.relu(y + x)


class ResNet20(nn.Module):
    """Pictures `(batch, 3, 32, 32)`, pixels 0..255, -> logits `(batch, classes)`; the normalisation is inside.

    Parameters are named as in the usual checkpoints: `conv1`, `bn1`, `layer1.0.conv1`, ..., `linear`.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.input_spec: InputSpec = {"image": ("float32", ("batch", 3, 32, 32))}
        self.preprocess = Preprocess((32, 32), interpolation="bicubic")
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", 255 * torch.tensor(_MEAN).reshape(3, 1, 1), persistent=False)
        self.register_buffer("scale", 1 / (255 * torch.tensor(_DEVIATION).reshape(3, 1, 1)), persistent=False)
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stack(16, 16, 1)
        self.layer2 = _stack(16, 32, 2)
        self.layer3 = _stack(32, 64, 2)
        self.linear = nn.Linear(64, classes)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1((image - self.mean) * self.scale)))
        x = self.layer3(self.layer2(self.layer1(x)))
        y: Tensor = self.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return y


def _stack(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(channels, channels, 1) for _ in range(2)]
    return nn.Sequential(BasicBlock(channels_in, channels, stride), *rest)


def resnet20() -> ResNet20:
    """ResNet-20 for CIFAR-10; holds the published 91.73 % checkpoint of akamaster/pytorch_resnet_cifar10."""
    return ResNet20()
