"""GGUF files: the same network as the folder it was made of, and clear words for what is not one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeexit.errors import ModelError
from edgeexit_models.lm import LlamaLM
from edgeexit_models.lm.gguf import _LAYER, load_gguf, start_token

gguf = pytest.importorskip("gguf", reason="reading .gguf needs gguf: pip install gguf")

Change = Callable[[Any], None]


def neighbours(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of one head as llama.cpp's converter orders them: halves interleaved."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def write(path: Path, model: LlamaLM, kind: str = "llama", extra: Change = lambda w: None, leave: str = "",
          heads: Any = None) -> Path:  # fmt: skip
    c = model.config
    writer = gguf.GGUFWriter(str(path), kind)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads if heads is None else heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_theta)
    writer.add_eos_token_id(2)
    extra(writer)
    turned = {"attn_q": c.num_attention_heads, "attn_k": c.num_key_value_heads}
    state = model.state_dict()
    found = {"token_embd": state["embed_tokens.weight"], "output_norm": state["norm.weight"]}
    for i in range(c.num_hidden_layers):
        for theirs, ours in _LAYER.items():
            weight = state[f"layers.{i}.{ours}.weight"]
            found[f"blk.{i}.{theirs}"] = neighbours(weight, turned[theirs]) if theirs in turned else weight
    for name, weight in found.items():
        if name != leave:
            writer.add_tensor(f"{name}.weight", np.ascontiguousarray(weight.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_it_is_the_same_network(model: LlamaLM, tmp_path: Path) -> None:
    found = load_gguf(write(tmp_path / "m.gguf", model))
    assert found.config.ends == (2,) and found.config.tie_word_embeddings
    ids = torch.tensor([[4, 250, 17, 9, 9, 1]])
    with torch.no_grad():
        torch.testing.assert_close(found(ids), model(ids))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"kind": "qwen2"}, "architecture 'qwen2', only 'llama'"),
        ({"leave": "blk.1.ffn_up"}, "without tensor 'blk.1.ffn_up.weight'"),
        ({"extra": lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN)}, "RoPE is scaled"),
        ({"extra": lambda w: w.add_rope_dimension_count(2)}, "a part of each head"),
        ({"heads": 0}, "num_attention_heads is 0"),
        ({"heads": [4, 4, 4, 4]}, r"head_count is \[4, 4, 4, 4\]"),
        ({"heads": 2, "extra": lambda w: w.add_key_length(8)}, r"blk\.0\.attn_q\.weight .* does not fit its heads"),
        ({"extra": lambda w: w.add_string("tokenizer.ggml.bos_token_id", "x")}, "bos_token_id is 'x'"),
        ({"extra": lambda w: w.add_eot_token_id(10**6)}, "eot_token_id is 1000000"),
        ({"extra": lambda w: w.add_expert_count(8)}, "llama.expert_count is 8, only 0"),
        ({"extra": lambda w: w.add_float32("llama.rope.scaling.factor", 4.0)}, "rope.scaling.factor is 4"),
        ({"extra": lambda w: w.add_float32("llama.rope.scale_linear", 4.0)}, "rope.scale_linear is 4"),
        ({"extra": lambda w: w.add_logit_scale(0.06)}, "logit_scale is 0.0"),
        ({"extra": lambda w: w.add_sliding_window(4)}, "sliding_window is less than the context"),
        ({"extra": lambda w: w.add_value_length(2)}, "value_length is 2"),
        ({"extra": lambda w: w.add_vocab_size(7)}, "llama.vocab_size is 7"),
        ({"extra": lambda w: w.add_uint16("split.count", 3)}, "split.count is 3"),
        ({"extra": lambda w: w.add_string("general.type", "adapter")}, "general.type is 'adapter'"),
        ({"extra": lambda w: w.add_tensor("blk.0.attn_q.bias", np.ones(4, np.float32))}, r"blk\.0\.attn_q\.bias"),
        (
            {"extra": lambda w: w.add_tensor("blk.1.attn_q_norm.weight", np.ones(4, np.float32))},
            "1 tensors are no part",
        ),
    ],
)
def test_refused(model: LlamaLM, tmp_path: Path, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        load_gguf(write(tmp_path / "m.gguf", model, **arguments))


def test_all_ends_of_llama_cpp(model: LlamaLM, tmp_path: Path) -> None:
    def ends(writer: Any) -> None:
        writer.add_eot_token_id(5)
        writer.add_uint32("tokenizer.ggml.eom_token_id", 6)
        writer.add_token_list(["<unk>", "<s>", "</s>", "<|im_end|>", "<|end|>", "a"])
        writer.add_token_types([2, 3, 3, 3, 1, 1])  # the fifth is a plain word of that spelling

    notices: list[str] = []
    found = load_gguf(write(tmp_path / "m.gguf", model, extra=ends), notices.append)
    assert found.config.ends == (2, 5, 6, 3) and "'<|im_end|>' (token 3) ends an answer, too" in "".join(notices)


def test_settings_that_nothing_is_known_of_are_named(model: LlamaLM, tmp_path: Path) -> None:
    notices: list[str] = []
    load_gguf(write(tmp_path / "m.gguf", model, extra=lambda w: w.add_bool("llama.hyper", True)), notices.append)
    assert "nothing is known of llama.hyper" in "".join(notices)


def test_what_goes_before_a_text(model: LlamaLM, tmp_path: Path) -> None:
    assert start_token(write(tmp_path / "m.gguf", model)) == (False, None)
    for adds, want in ((True, 1), (False, None)):

        def extra(writer: Any, adds: bool = adds) -> None:
            writer.add_bos_token_id(1)
            writer.add_add_bos_token(adds)

        assert start_token(write(tmp_path / "m.gguf", model, extra=extra)) == (True, want)


def test_damaged_files(model: LlamaLM, tmp_path: Path) -> None:
    whole = write(tmp_path / "m.gguf", model).read_bytes()
    rng = np.random.default_rng(0)
    for size in (0, 3, 20, 200, len(whole) // 2):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(ModelError):
            load_gguf(tmp_path / "cut.gguf")
    refused = 0
    for _ in range(40):
        damaged = bytearray(whole)
        for at in rng.integers(0, 700, 3):
            damaged[at] = rng.integers(0, 256)
        (tmp_path / "bad.gguf").write_bytes(damaged)
        try:
            load_gguf(tmp_path / "bad.gguf")
        except ModelError:
            refused += 1
    assert refused > 10
