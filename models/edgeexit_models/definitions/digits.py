"""Network for 8 x 8 digits with three exits; trains in seconds and needs no download, for examples."""

from __future__ import annotations

from torch import Tensor, nn

from edgeexit.pictures.preprocess import Preprocess
from edgeexit_models.definitions.heads import AvgMaxPoolLinear
from edgeexit_models.definitions.layers import ConvNorm, init_weights
from edgeexit_models.protocol import InputSpec


class Digits(nn.Module):
    """Pictures `(batch, 1, 8, 8)`, ink 0..16 as in UCI's optdigits -> three times logits `(batch, classes)`.

    The first exit sees 5 x 5 neighbourhoods only, and their mean and maximum over the picture: it is deliberately cheap
    and often wrong, so that policies have a choice. The last stage has nine tenths of the multiplications, so that
    an early exit saves time even where every call takes tens of microseconds.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.input_spec: InputSpec = {"image": ("float32", ("batch", 1, 8, 8))}
        # The data's digits fill their frame, and their numbers count the ink in blocks of a 32 x 32 bitmap.
        self.preprocess = Preprocess(
            (8, 8), color="grey", resize="stretch", interpolation="box", scale=16 / 255, background=0
        )
        self.stages = nn.ModuleList(
            [
                nn.Sequential(ConvNorm(1, 8, (3, 3), (8, 8)), ConvNorm(8, 16, (3, 3), (8, 8))),
                ConvNorm(16, 32, (3, 3), (8, 8)),
                nn.Sequential(
                    ConvNorm(32, 48, (3, 3), (8, 8)),
                    ConvNorm(48, 48, (3, 3), (8, 8)),
                    ConvNorm(48, 48, (3, 3), (8, 8)),
                ),
            ]
        )
        self.heads = nn.ModuleList([AvgMaxPoolLinear(channels, classes) for channels in (16, 32, 48)])
        init_weights(self)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = image
        outputs: list[Tensor] = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            outputs.append(head(x))
        return tuple(outputs)


def digits(classes: int = 10) -> Digits:
    """The digits net, three exits."""
    return Digits(classes)
