"""Settings that stand in several places of a checkpoint, and content that no reader knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from edgeexit.errors import ModelError
from edgeexit_models.lm import LlamaLM, LMConfig, load_lm, save_lm
from edgeexit_models.lm.checkpoint_files import start_token
from edgeexit_models.lm.config_keys import HARMLESS, NEUTRAL

SIZES = {
    "model_type": "llama", "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip


def loaded(folder: Path) -> tuple[LlamaLM, str]:
    """The model, and all notices."""
    notices: list[str] = []
    return load_lm(folder, notices.append), "\n".join(notices)


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    write(folder, "config.json", {n: v for n, v in config.items() if v != "left out"})


@pytest.fixture
def folder(model: LlamaLM, tmp_path: Path) -> Path:
    save_lm(tmp_path, model)
    change_config(tmp_path, eos_token_id=2, bos_token_id=1)
    return tmp_path


def tokens(folder: Path, **settings: Any) -> None:
    write(folder, "tokenizer.json", {"model": {"type": "WordLevel", "vocab": {"a": 9, "b": 10}}, "added_tokens": [
        {"id": 1, "content": "<s>"}, {"id": 2, "content": "</s>"}, {"id": 3, "content": "<|im_end|>"},
        {"id": 4, "content": "<eot>"},
    ]})  # fmt: skip
    write(folder, "tokenizer_config.json", settings)


def test_the_ends_of_generation_config_count(folder: Path) -> None:
    write(folder, "generation_config.json", {"eos_token_id": [2, 3]})
    found, notices = loaded(folder)
    assert found.config.ends == (2, 3) and notices == ""
    write(folder, "generation_config.json", {"eos_token_id": 5})  # transformers never looks at config.json's then
    found, notices = loaded(folder)
    assert found.config.ends == (5,) and "config.json ends an answer with token 2" in notices
    write(folder, "generation_config.json", {"temperature": 0.7})
    assert loaded(folder)[0].config.ends == (2,)


def test_the_tokenizers_ends_are_added_and_said(folder: Path) -> None:
    tokens(folder, eos_token={"content": "<|im_end|>"})
    found, notices = loaded(folder)
    assert (
        found.config.ends == (2, 3) and "tokenizer_config.json: '<|im_end|>' (token 3) ends an answer, too" in notices
    )
    tokens(folder, eos_token="</s>")
    assert loaded(folder)[0].config.ends == (2,)
    tokens(folder)
    write(folder, "special_tokens_map.json", {"eos_token": "<eot>"})
    assert loaded(folder)[0].config.ends == (2, 4)
    tokens(folder, eos_token="</s>")  # the newer file counts
    assert loaded(folder)[0].config.ends == (2,)
    tokens(folder, eos_token="<nothing>")
    assert "'<nothing>' ends a text and is no token of the model" in loaded(folder)[1]


@pytest.mark.parametrize("place", ["tokenizer_config", "jinja", "several"])
def test_a_chat_templates_end_of_turn_ends_an_answer(folder: Path, place: str) -> None:
    template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    several = [{"name": "default", "template": template}]
    tokens(folder, **({} if place == "jinja" else {"chat_template": several if place == "several" else template}))
    if place == "jinja":
        write(folder, "chat_template.jinja", template)
    found, notices = loaded(folder)
    assert found.config.ends == (2, 3) and "chat template: '<|im_end|>' (token 3)" in notices


def test_without_any_end_token_that_of_transformers_stands(folder: Path) -> None:
    change_config(folder, eos_token_id="left out")
    found, notices = loaded(folder)
    assert found.config.ends == (2,) and "no eos_token_id; 2 ends an answer" in notices
    change_config(folder, eos_token_id=None)
    assert loaded(folder)[0].config.ends == ()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("generation_config.json", {"eos_token_id": 10**6}, r"generation_config\.json: eos_token_id is 1000000"),
        ("generation_config.json", {"eos_token_id": "</s>"}, "eos_token_id is '</s>'"),
        ("generation_config.json", "[", r"generation_config\.json: cannot be read"),
        ("tokenizer_config.json", "[]", "holds a list"),
        ("tokenizer_config.json", "[" * 100_000, "cannot be read"),
        ("adapter_config.json", {"peft_type": "LORA"}, "an adapter lies beside the weights"),
    ],
)
def test_damaged_files_beside_the_weights(folder: Path, name: str, content: Any, says: str) -> None:
    write(folder, name, content)
    with pytest.raises(ModelError, match=says):
        load_lm(folder)


def test_add_bos_token_is_followed(folder: Path) -> None:
    assert start_token(folder) == (False, None)
    tokens(folder, bos_token="<s>")
    assert start_token(folder) == (False, None)
    tokens(folder, bos_token="<s>", add_bos_token=True)
    assert start_token(folder) == (True, 1)
    tokens(folder, bos_token={"content": "<s>"}, add_bos_token=False)
    assert start_token(folder) == (True, None)
    tokens(folder, bos_token="<?>", add_bos_token=True)
    with pytest.raises(ModelError, match="bos_token '<\\?>' is no token"):
        start_token(folder)


@pytest.mark.parametrize(
    ("change", "theta", "said"),
    [
        ({"rope_theta": 5e5}, 5e5, ""),
        ({"rope_theta": None}, 10_000.0, ""),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, 5e5, ""),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, 5e5, "the latter counts"),
        ({"rope_scaling": {"type": "default", "rope_theta": 7.0}, "rope_parameters": {"rope_theta": 5e5}}, 7.0,
         "rope_scaling counts"),
        ({"rope_scaling": {"type": "linear", "factor": 1.0}}, 10_000.0, ""),
    ],
)  # fmt: skip
def test_the_base_of_rope_is_transformers(change: dict[str, Any], theta: float, said: str) -> None:
    notices: list[str] = []
    assert LMConfig.from_dict(SIZES | change, notices.append).rope_theta == theta
    assert said in "\n".join(notices) and bool(said) == bool(notices)
    transformers = pytest.importorskip("transformers")
    theirs = transformers.LlamaConfig(**SIZES | change)
    if change.get("rope_theta", 1) is not None:
        assert theirs.rope_parameters["rope_theta"] == theta


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "linear", "factor": 2.0}}, "is scaled"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differs from layer to layer"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "a part of each head"),
        ({"rope_scaling": "yarn"}, "or is none"),
        ({"rope_scaling": {"rope_type": "hirope"}}, "is scaled"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"use_qk_norm": True}, "use_qk_norm is True"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30"),
        ({"logit_scale": 0.06}, "logit_scale"),
        ({"logits_scaling": 8.0}, "logits_scaling"),
        ({"embedding_multiplier": 12.0}, "embedding_multiplier"),
        ({"num_local_experts": 8}, "num_local_experts is 8"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"sliding_window": 16}, "sliding_window is 16"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"no_rope_layers": [1, 0]}, "no_rope_layers"),
        ({"hidden_act": "relu2"}, "hidden_act is 'relu2'"),
        ({"architectures": ["LlamaMoEForCausalLM"]}, "architectures names 'LlamaMoEForCausalLM'"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"alibi": True}, "alibi"),
    ],
)
def test_another_network_is_refused_by_name(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        LMConfig.from_dict(SIZES | change)


def test_values_that_change_nothing_are_read() -> None:
    notices: list[str] = []
    plain = LMConfig.from_dict(SIZES)
    for name, values in NEUTRAL.items():
        for value in (None, *values):
            assert LMConfig.from_dict(SIZES | {name: value}, notices.append) == plain
    for name in HARMLESS:
        assert LMConfig.from_dict(SIZES | {name: 0.1}, notices.append) == plain
    more = {"sliding_window": 64, "layer_types": ["full_attention"] * 2, "no_rope_layers": [1, 1], "auto_map": {}}
    assert LMConfig.from_dict(SIZES | more, notices.append) == plain and notices == []


def test_keys_that_nothing_is_known_of_are_named(folder: Path) -> None:
    change_config(folder, hyper_connections=4, zzz=None, another={"a": 1})
    assert "not read, as nothing is known of another, hyper_connections:" in loaded(folder)[1]


def tensors(folder: Path, **more: torch.Tensor) -> None:
    path = folder / "model.safetensors"
    state = safetensors.torch.load_file(path) | {n.replace("__", "."): v for n, v in more.items()}
    path.write_bytes(safetensors.torch.save(state))


def test_a_head_of_its_own_beside_a_tied_config_is_used(model: LlamaLM, folder: Path) -> None:
    """As in transformers 5; older ones dropped it."""
    head = torch.randn(model.config.vocab_size, model.config.hidden_size)
    tensors(folder, lm_head__weight=head)
    found, notices = loaded(folder)
    assert not found.config.tie_word_embeddings and "the weights hold another one: it is used" in notices
    assert found.lm_head is not None and torch.equal(found.lm_head.weight, head)


def test_weights_that_no_part_reads_are_refused(folder: Path) -> None:
    tensors(folder, model__layers__0__self_attn__q_norm__weight=torch.ones(8))
    with pytest.raises(ModelError, match=r"layers\.0\.self_attn\.q_norm\.weight not wanted"):
        load_lm(folder)


def test_whole_numbers_are_no_weights(model: LlamaLM, folder: Path) -> None:
    tensors(folder, model__norm__weight=torch.ones(model.config.hidden_size, dtype=torch.int8))
    with pytest.raises(ModelError, match=r"'model\.norm\.weight' holds torch\.int8.*quantized weights are not read"):
        load_lm(folder)


def test_a_tensor_in_two_files_is_named(model: LlamaLM, folder: Path) -> None:
    state = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    safetensors.torch.save_file(state, folder / "a.safetensors")
    safetensors.torch.save_file({"model.norm.weight": torch.ones(model.config.hidden_size)}, folder / "b.safetensors")
    places = {n: "a.safetensors" for n in state} | {"model.norm.weight": "b.safetensors"}
    write(folder, "model.safetensors.index.json", {"weight_map": places})
    with pytest.raises(ModelError, match=r"'model\.norm\.weight' stands in another"):
        load_lm(folder)


def test_old_frequencies_are_compared(model: LlamaLM, folder: Path) -> None:
    tensors(folder, model__layers__0__self_attn__rotary_emb__inv_freq=model.inv_freq.half())
    assert loaded(folder)[1] == ""
    tensors(folder, model__layers__0__self_attn__rotary_emb__inv_freq=model.inv_freq * 0.5)
    assert "inv_freq is not RoPE with a base of 10000" in loaded(folder)[1]
