"""Makes the bundle of `test_tflite.py`: `python tests/data/make_tiny_tflite.py` (needs the tflite-export extra).

Three exits over pictures of 2 x 6 x 5, with a skip across both cuts, 3 classes; seeded weights. Float and int8, every
layout; the operating points tflite-fp32 and tflite-int8 have the thresholds of their own artifact.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import edgeexit

OUT = Path(__file__).parent / "tiny-tflite.edgeexit"


class Tiny(nn.Module):
    """A convolution, then two more; the last exit adds what the first made."""

    def __init__(self) -> None:
        super().__init__()
        self.input_spec = {"image": ("float32", ("batch", 2, 6, 5))}
        self.convs = nn.ModuleList([nn.Conv2d(n, 4, 3, padding=1) for n in (2, 4, 4)])
        self.heads = nn.ModuleList([nn.Linear(4, 3) for _ in range(3)])

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        a = torch.relu(self.convs[0](image))
        b = torch.relu(self.convs[1](a))
        c = torch.relu(self.convs[2](b) + a)
        return tuple(8 * head(x.mean((2, 3))) for head, x in zip(self.heads, (a, b, c), strict=True))


def main() -> None:
    torch.manual_seed(1)
    x = 2 * np.random.default_rng(1).standard_normal((200, 2, 6, 5)).astype(np.float32)
    edgeexit.export(
        Tiny().eval(),
        OUT,
        layouts=("fused", "chain", "prefix"),
        data={"image": x},
        labels=["a", "b", "c"],
        formats=["tflite"],
        precisions=["fp32", "int8"],
        drop=0.2,
        overwrite=True,
    )


if __name__ == "__main__":
    main()
