"""DS-CNN for 12 spoken words with four exits: MLPerf Tiny's keyword spotter as T-RECX (2023) extends it."""

from __future__ import annotations

from torch import Tensor, nn

from edgeexit_models.definitions.heads import GridPoolLinear
from edgeexit_models.definitions.layers import ConvNorm, SeparableBlock, init_weights
from edgeexit_models.protocol import InputSpec


class DSCNN(nn.Module):
    """MFCCs `(batch, 1, 49 frames, 10 coefficients)` -> logits `(batch, classes)` after each of 4 blocks."""

    def __init__(self, classes: int = 12) -> None:
        super().__init__()
        self.input_spec: InputSpec = {"mfcc": ("float32", ("batch", 1, 49, 10))}
        self.stem = ConvNorm(1, 64, (10, 4), (49, 10), stride=2)
        self.blocks = nn.ModuleList([SeparableBlock(64, 64, (25, 5)) for _ in range(4)])
        windows = [(4, 4), (4, 4), (4, 4), (24, 5)]
        self.heads = nn.ModuleList([GridPoolLinear((64, 25, 5), classes, window) for window in windows])
        init_weights(self)

    def forward(self, mfcc: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(mfcc)
        outputs: list[Tensor] = []
        for block, head in zip(self.blocks, self.heads, strict=True):
            x = block(x)
            outputs.append(head(x))
        return tuple(outputs)


def dscnn(classes: int = 12) -> DSCNN:
    """DS-CNN, four exits (0.91, 1.50, 2.09 and 2.67 million multiplications); holds T-RECX's weights."""
    return DSCNN(classes)
