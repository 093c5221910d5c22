"""Llama-family models in GGUF, llama.cpp's one-file format, as float32. Reading is the `gguf` package's work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeexit.errors import BackendMissing, ModelError, first_line
from edgeexit_models.lm.config import LMConfig
from edgeexit_models.lm.llama import LlamaLM
from edgeexit_models.lm.weights import filled

_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_SCALED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def load_gguf(path: Path) -> LlamaLM:
    """Reads a model; quantized weights become the float32 numbers that they stand for. It is in evaluation mode.

    Raises:
        ModelError: a damaged file, another architecture than llama, scaled RoPE, or weights that do not fit.
        BackendMissing: no `gguf`.
    """
    reader, dequantize = _open(path)
    config = _config(reader, path)
    stored = {t.name: t for t in reader.tensors}
    if scaled := [n for n in _SCALED if n in stored]:
        raise ModelError(f"{path}: RoPE is scaled ({scaled[0]}), only the plain kind is supported")

    def weight(name: str) -> Tensor:
        if name not in stored:
            raise ModelError(f"{path}: without tensor {name!r}")
        try:
            return torch.from_numpy(np.array(dequantize(stored[name].data, stored[name].tensor_type), np.float32))
        except Exception as e:  # unknown kinds and damaged blocks
            raise ModelError(f"{path}: tensor {name!r} cannot be read: {first_line(e)[:160]}") from e

    state = {"embed_tokens.weight": weight("token_embd.weight"), "norm.weight": weight("output_norm.weight")}
    if not config.tie_word_embeddings:
        state["lm_head.weight"] = weight("output.weight")
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for i in range(config.num_hidden_layers):
        for theirs, ours in _LAYER.items():
            found = weight(f"blk.{i}.{theirs}.weight")
            if theirs in heads:
                if found.ndim != 2 or len(found) != heads[theirs] * config.head_size:
                    raise ModelError(f"{path}: blk.{i}.{theirs}.weight {tuple(found.shape)} does not fit its heads")
                found = _halves(found, heads[theirs])
            state[f"layers.{i}.{ours}.weight"] = found
    return filled(config, state, f"{path}: weights do not fit its sizes")


def tokenizer_json(path: Path) -> str:
    """The tokenizer of a GGUF file as the text of a tokenizer.json, by transformers.

    Raises:
        BackendMissing: no `transformers`.
        ModelError: it cannot make one.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as e:
        raise BackendMissing(
            f"the tokenizer of a .gguf file is read by transformers ({e}): pip install transformers gguf, or give "
            "--tokenizer tokenizer.json"
        ) from e
    try:
        made: Any = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name, local_files_only=True)
        return str(made.backend_tokenizer.to_str())
    except Exception as e:  # it raises what its many parts raise
        raise ModelError(f"{path}: no tokenizer could be made of it: {first_line(e)[:200]}") from e


def _open(path: Path) -> tuple[Any, Any]:
    try:
        from gguf import GGUFReader
        from gguf.quants import dequantize
    except ImportError as e:
        raise BackendMissing(f".gguf files are read by gguf ({e}): pip install gguf") from e
    try:
        return GGUFReader(str(path)), dequantize
    except Exception as e:  # a damaged file raises a dozen kinds
        raise ModelError(f"{path}: not a readable GGUF file: {first_line(e)[:160]}") from e


def _config(reader: Any, path: Path) -> LMConfig:
    def field(name: str, default: Any = None) -> Any:
        found = reader.fields.get(name)
        if found is None:
            if default is not None:
                return default
            raise ModelError(f"{path}: without {name}")
        return found.contents()

    kind = field("general.architecture")
    if kind != "llama":
        raise ModelError(f"{path}: architecture {kind!r:.40}, only 'llama' is known")
    if field("llama.rope.scaling.type", "none") != "none":
        raise ModelError(f"{path}: RoPE is scaled, only the plain kind is supported")

    def whole(name: str, default: Any = None) -> int:
        found = field(name, default)
        if isinstance(found, bool) or not isinstance(found, int) or found < 0:
            raise ModelError(f"{path}: {name} is {found!r:.40}, expected a whole number (one for all layers)")
        return found

    heads, width = whole("llama.attention.head_count"), whole("llama.embedding_length")
    size = whole("llama.attention.key_length", width // max(heads, 1))
    if field("llama.rope.dimension_count", size) != size:
        raise ModelError(f"{path}: RoPE turns a part of each head, only whole heads are supported")
    theta, epsilon = field("llama.rope.freq_base", 10_000.0), field("llama.attention.layer_norm_rms_epsilon")
    shapes = {t.name: tuple(int(n) for n in t.shape) for t in reader.tensors}
    begin, end = (
        whole(name) if (name := f"tokenizer.ggml.{n}_token_id") in reader.fields else None for n in ("bos", "eos")
    )
    return LMConfig(
        vocab_size=shapes.get("token_embd.weight", (0,))[-1],
        hidden_size=width,
        intermediate_size=whole("llama.feed_forward_length"),
        num_hidden_layers=whole("llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=whole("llama.attention.head_count_kv", heads),
        max_position_embeddings=whole("llama.context_length"),
        head_dim=size,
        rms_norm_eps=epsilon,
        rope_theta=theta,
        tie_word_embeddings="output.weight" not in shapes,
        bos_token_id=begin,
        eos_token_id=end,
    )


def _halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of one head as Hugging Face orders them: RoPE's pairs are its two halves, in GGUF they are neighbours."""
    rows = weight.shape[0] // heads // 2
    return weight.reshape(heads, rows, 2, -1).transpose(1, 2).reshape(weight.shape)
