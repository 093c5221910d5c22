"""A small decoder whose random weights are large enough that every part of it shows in the answer."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="torch is not installed")
import torch
from torch import nn

from edgeexit_models.lm import LlamaLM, LMConfig

CONFIG = LMConfig(
    vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64,
)  # fmt: skip


def built(config: LMConfig = CONFIG, seed: int = 0) -> LlamaLM:
    """Norms differ from 1 and matrices are not tiny."""
    torch.manual_seed(seed)
    model = LlamaLM(config)
    for weight in model.parameters():
        nn.init.normal_(weight, mean=0.0 if weight.ndim == 2 else 1.0, std=0.2)
    return model.eval()


@pytest.fixture
def config() -> LMConfig:
    return CONFIG


@pytest.fixture
def model() -> LlamaLM:
    return built()
