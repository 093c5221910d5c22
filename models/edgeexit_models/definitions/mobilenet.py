"""MobileNetV1 (Howard et al. 2017), a quarter as wide, for 96 x 96 pixels: MLPerf Tiny's VWW, with exits."""

from __future__ import annotations

from torch import Tensor, nn

from edgeexit_models.definitions.heads import GridPoolLinear, PoolLinear
from edgeexit_models.definitions.layers import ConvNorm, SeparableBlock, init_weights, same_size
from edgeexit_models.protocol import InputSpec

# (channels at full width, stride) of the 13 blocks
BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1),
    (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip
EXITS_AFTER = (5, 11, 13)
"""Blocks, counted from 1, behind which a head sits: always the last block before the picture shrinks."""


class MobileNetV1(nn.Module):
    """Pictures `(batch, 3, 96, 96)` -> logits `(batch, classes)` after blocks 5, 11 and 13.

    Args:
        classes: number of classes.
        width: share of the paper's channels.
    """

    def __init__(self, classes: int = 2, width: float = 0.25) -> None:
        super().__init__()
        self.input_spec: InputSpec = {"image": ("float32", ("batch", 3, 96, 96))}
        channels, size = max(round(32 * width), 1), (48, 48)
        self.stem = ConvNorm(3, channels, (3, 3), (96, 96), stride=2, bias=False)
        blocks: list[nn.Module] = []
        heads: list[nn.Module] = []
        for number, (full, stride) in enumerate(BLOCKS, start=1):
            out = max(round(full * width), 1)
            blocks.append(SeparableBlock(channels, out, size, stride=stride, bias=False))
            channels, size = out, same_size(size, stride)
            if number == EXITS_AFTER[0]:  # still 12 x 12: keep four places apart, or a small person drowns in the mean
                heads.append(GridPoolLinear((channels, *size), classes, (6, 6)))
            elif number in EXITS_AFTER:
                heads.append(PoolLinear(channels, classes))
        self.blocks = nn.ModuleList(blocks)
        self.heads = nn.ModuleList(heads)
        init_weights(self)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(image)
        outputs: list[Tensor] = []
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if number in EXITS_AFTER:
                outputs.append(self.heads[len(outputs)](x))
        return tuple(outputs)


def mobilenet_025(classes: int = 2) -> MobileNetV1:
    """MobileNetV1-0.25 for 96 x 96 pictures, three exits."""
    return MobileNetV1(classes, 0.25)
