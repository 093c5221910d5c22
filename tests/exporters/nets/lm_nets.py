"""A small decoder with random weights that show, and a tokenizer for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeexit_models.lm import LlamaLM, LMConfig

CONFIG = LMConfig(
    vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=(0, 2),
)  # fmt: skip
UNTIED = LMConfig(
    vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False,
)  # fmt: skip


def built(config: LMConfig = CONFIG, seed: int = 0) -> LlamaLM:
    """Norms differ from 1 and matrices are not tiny."""
    torch.manual_seed(seed)
    model = LlamaLM(config)
    for weight in model.parameters():
        nn.init.normal_(weight, mean=0.0 if weight.ndim == 2 else 1.0, std=0.15)
    return model.eval()


def make() -> LlamaLM:
    """For `lm_nets:make`."""
    return built()


def text_ids(count: int = 3000, vocab: int = 300) -> Any:
    """Tokens of which some are much more frequent than others."""
    rng = np.random.default_rng(1)
    return np.minimum(rng.geometric(0.02, count), vocab) - 1


def tokenizer_file(path: Path, vocab: int = 300, start: bool = False) -> Path:
    """A tokenizer of single characters; with `start` it puts token 1 before every text."""
    letters = {chr(97 + i): i + 3 for i in range(26)} | {" ": 29, "<e>": 0, "<s>": 1, "<f>": 2}
    letters |= {f"<{i}>": i for i in range(30, vocab)}
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    split = {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False}
    path.write_text(
        json.dumps(
            {
                "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
                "pre_tokenizer": split, "post_processor": template if start else None, "decoder": None,
                "model": {"type": "WordLevel", "vocab": letters, "unk_token": "<e>"},
            }
        )
    )  # fmt: skip
    return path
