"""Networks whose answers depend on the order of summation: what is fused differently is magnified."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

WORDS, CLASSES, LENGTH = 40, 4, 12


class Encoder(nn.Module):
    """A transformer over token ids with an attention mask, whose answers hold the sine of its features times `gain`.

    Args:
        gain: what the features' rounding is magnified by.
        layers: of the encoder.
        exits: whether every layer answers, or the last alone.
    """

    input_spec = {  # noqa: RUF012
        "input_ids": ("int64", ("batch", f"time={LENGTH}")),
        "attention_mask": ("int64", ("batch", f"time={LENGTH}")),
    }

    def __init__(self, gain: float = 100.0, layers: int = 3, exits: bool = False, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(WORDS, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True) for _ in range(layers)
        )
        self.heads = nn.ModuleList(nn.Linear(width, CLASSES) for _ in range(layers if exits else 1))
        self.gain, self.several = gain, exits
        self.shift = nn.Parameter(torch.zeros(layers if exits else 1, CLASSES))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        h = self.embed(input_ids)
        real = attention_mask.to(h.dtype)[..., None]
        answers = []
        for k, block in enumerate(self.blocks):
            h = block(h, src_key_padding_mask=attention_mask == 0)
            if self.several or k + 1 == len(self.blocks):
                mean = (h * real).sum(1) / real.sum(1)
                answer = self.heads[k if self.several else 0](mean)
                answer = answer + 0.5 * torch.sin(self.gain * mean[:, :CLASSES])
                answers.append(answer - self.shift[len(answers)])
        return answers if self.several else answers[0]


def rows(n: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Token ids and masks of padding behind them."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, WORDS, (n, LENGTH))
    mask = (np.arange(LENGTH) < rng.integers(4, LENGTH + 1, n)[:, None]).astype(np.int64)
    return {"input_ids": ids * mask, "attention_mask": mask}
