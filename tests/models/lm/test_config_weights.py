"""Folders with config.json and model.safetensors: what is read, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from edgeexit.errors import ModelError
from edgeexit_models.lm import LlamaLM, LMConfig, load_lm, save_lm

SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "bos_token_id": 0, "eos_token_id": 0,
    "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664, "intermediate_size": 1536,
    "is_llama_config": True, "max_position_embeddings": 8192, "model_type": "llama", "num_attention_heads": 9,
    "num_hidden_layers": 30, "num_key_value_heads": 3, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_interleaved": False, "rope_scaling": None, "rope_theta": 100000, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 49152,
}  # fmt: skip


def test_a_published_config_is_read() -> None:
    config = LMConfig.from_dict(SMOLLM2)
    assert (config.head_size, config.rope_theta, config.rms_norm_eps) == (64, 100000, 1e-5)
    assert config.tie_word_embeddings
    assert LMConfig.from_dict(config.to_dict()) == config


def test_several_ends_of_text() -> None:
    config = LMConfig.from_dict({**SMOLLM2, "eos_token_id": [2, 0, 2]})
    assert config.ends == (2, 0)
    assert LMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_newer_place_of_rope_theta_is_known() -> None:
    found = {**SMOLLM2, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}
    assert LMConfig.from_dict(found).rope_theta == 5e5


def test_defaults_are_those_of_transformers() -> None:
    left = {k: v for k, v in SMOLLM2.items() if k not in ("tie_word_embeddings", "num_key_value_heads", "rope_theta")}
    config = LMConfig.from_dict(left)
    assert (config.tie_word_embeddings, config.num_key_value_heads, config.rope_theta) == (False, 9, 10_000.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "mistral"}, "'mistral', only 'llama'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', only 'silu'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"rope_interleaved": True}, "rope_interleaved"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "is scaled"),
        ({"num_key_value_heads": 2}, "must be a multiple"),
        ({"hidden_size": 575}, "no multiple of"),
        ({"vocab_size": 10**12}, "vocab_size is 1000000000000"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"num_hidden_layers": 10**6}, r"num_hidden_layers is 1000000, expected a whole number 1\.\.4096"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"head_dim": 63}, "odd"),
        ({"eos_token_id": 49152}, r"eos_token_id is 49152, expected 0\.\.49151"),
        ({"eos_token_id": [0, 49152]}, r"eos_token_id is \(0, 49152\), expected"),
        ({"eos_token_id": [[0]]}, "eos_token_id"),
        ({"tie_word_embeddings": 1}, "not a bool"),
    ],
)
def test_what_would_be_computed_differently_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        LMConfig.from_dict(SMOLLM2 | change)


def test_a_missing_size_is_named() -> None:
    with pytest.raises(ModelError, match="without vocab_size, hidden_size"):
        LMConfig.from_dict({k: v for k, v in SMOLLM2.items() if k not in ("hidden_size", "vocab_size")})


def test_half_precision_halves_the_file_and_comes_back_as_float32(model: LlamaLM, tmp_path: Path) -> None:
    save_lm(tmp_path / "a", model)
    save_lm(tmp_path / "b", model, torch.float16)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in "ab"]
    assert sizes[1] < 0.6 * sizes[0]
    back = load_lm(tmp_path / "b")
    for name, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], value.half().float()), name
    save_lm(tmp_path / "c", model, torch.float16)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()


def test_loading_leaves_the_callers_chance_alone(model: LlamaLM, tmp_path: Path) -> None:
    save_lm(tmp_path, model)
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    load_lm(tmp_path)
    assert torch.equal(torch.rand(3), wanted)


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _other_config(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 64}))


def _huge_config(folder: Path) -> None:
    """Terabytes, if anybody made the network before looking at the weights."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 1 << 20, "vocab_size": 1 << 20}))


def _other_names(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    path.write_bytes(safetensors.torch.save({f"transformer.{n}": v for n, v in tensors.items()}))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "config.json").unlink(), r"config\.json: cannot be read"),
        (lambda f: (f / "config.json").write_text("[" * 100_000), r"config\.json: cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), "holds a list"),
        (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors: cannot be read"),
        (_cut, "cannot be read as safetensors"),
        (_other_config, r"does not fit config\.json: layers\.0\.mlp"),
        (_huge_config, r"does not fit config\.json: embed_tokens"),
        (_other_names, "not of a LlamaForCausalLM"),
    ],
)
def test_damaged_folders_are_one_line(
    model: LlamaLM, tmp_path: Path, damage: Callable[[Path], object], says: str
) -> None:
    save_lm(tmp_path, model)
    damage(tmp_path)
    with pytest.raises(ModelError, match=says):
        load_lm(tmp_path)


def test_a_tied_head_stored_as_a_copy_is_left_out(model: LlamaLM, tmp_path: Path) -> None:
    save_lm(tmp_path, model)
    path = tmp_path / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    path.write_bytes(safetensors.torch.save(tensors))
    assert load_lm(tmp_path).config == replace(model.config)
