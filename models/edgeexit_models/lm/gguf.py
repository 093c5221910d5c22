"""Llama-family models in GGUF, llama.cpp's one-file format, as float32, read by the `gguf` package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeexit.errors import BackendMissing, ModelError, first_line
from edgeexit_models.lm.checkpoint_files import TURN_ENDS
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
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "general.type": ("model",),
    "split.count": (1, 0),
    "llama.expert_count": (0,),
    "llama.expert_used_count": (0,),
    "llama.expert_shared_count": (0,),
    "llama.rope.scaling.factor": (1.0,),
    "llama.rope.scale_linear": (1.0,),
    "llama.attention.causal": (True,),
    "llama.attention.clamp_kqv": (0.0,),
    "llama.attention.max_alibi_bias": (0.0,),
    "llama.attention.scale": (0.0,),
    "llama.attn_logit_softcapping": (0.0,),
    "llama.final_logit_softcapping": (0.0,),
    "llama.logit_scale": (0.0, 1.0),
    "llama.residual_scale": (0.0, 1.0),
    "llama.embedding_scale": (0.0, 1.0),
    "llama.use_parallel_residual": (False,),
    "llama.interleave_moe_layer_step": (0,),
    "llama.swin_norm": (False,),
}
"""Settings that are not implemented, and their values without effect on a Llama network."""
_READ = frozenset(
    f"llama.{n}"
    for n in (
        "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
        "attention.layer_norm_rms_epsilon", "attention.sliding_window", "block_count", "context_length",
        "embedding_length", "feed_forward_length", "rope.dimension_count", "rope.freq_base", "rope.scaling.type",
        "vocab_size",
    )
)  # fmt: skip
_ENDS = ("eos", "eot", "eom")
_MARKS = (3, 4)
"""Token types control and user-defined."""
_SCALED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def load_gguf(path: Path, notice: Callable[[str], None] = lambda text: None) -> LlamaLM:
    """Reads a model in evaluation mode; quantized weights become the float32 values that they represent.

    Args:
        path: the file.
        notice: called with a sentence for each setting that is not read, and where two places disagree.

    Raises:
        ModelError: a damaged file, another architecture than llama, scaled RoPE, weights that do not fit or are not
            read, or settings that make another network.
        BackendMissing: no `gguf`.
    """
    reader, dequantize = _open(path)
    config = _config(reader, path, notice)
    stored = {t.name: t for t in reader.tensors}
    if scaled := [n for n in _SCALED if n in stored]:
        raise ModelError(f"{path}: RoPE is scaled ({scaled[0]}), only the plain kind is supported")

    taken: set[str] = set()

    def weight(name: str) -> Tensor:
        taken.add(name)
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
            value = weight(f"blk.{i}.{theirs}.weight")
            if theirs in heads:
                if value.ndim != 2 or len(value) != heads[theirs] * config.head_size:
                    raise ModelError(f"{path}: blk.{i}.{theirs}.weight {tuple(value.shape)} does not fit its heads")
                value = _halves(value, heads[theirs])
            state[f"layers.{i}.{ours}.weight"] = value
    if left := sorted(stored.keys() - taken):
        raise ModelError(
            f"{path}: {len(left)} tensors are no part of a plain Llama: {', '.join(left[:3])}; the network is another"
        )
    return filled(config, state, f"{path}: weights do not fit its sizes")


def start_token(path: Path) -> tuple[bool, int | None]:
    """Whether the file says what is put before a text (`add_bos_token`), and the token; None = nothing is.

    Raises:
        ModelError, BackendMissing: as `load_gguf`.
    """
    fields = _contents(_open(path)[0], path, ("tokenizer.ggml.add_bos_token", "tokenizer.ggml.bos_token_id"))
    adds, token = (fields.get(f"tokenizer.ggml.{n}") for n in ("add_bos_token", "bos_token_id"))
    if adds is None:
        return False, None
    return True, token if adds and type(token) is int else None


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
        tokenizer: Any = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name, local_files_only=True)
        return str(tokenizer.backend_tokenizer.to_str())
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


def _contents(reader: Any, path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Values of fields that are there."""
    try:
        return {n: reader.fields[n].contents() for n in names if n in reader.fields}
    except Exception as e:  # damaged ones raise several kinds
        raise ModelError(f"{path}: settings cannot be read: {first_line(e)[:160]}") from e


def _check_fields(reader: Any, path: Path, notice: Callable[[str], None]) -> None:
    """Raises: ModelError for settings that make another network, and for files that are a part of one."""
    known = _contents(reader, path, [n for n in reader.fields if n in _NEUTRAL])
    for name, value in known.items():
        if value not in (only := _NEUTRAL[name]):
            raise ModelError(
                f"{path}: {name} is {value!r:.60}, only {only[0]!r} is supported (it makes another network)"
            )
    unknown = sorted(n for n in reader.fields if n.startswith("llama.") and n not in _NEUTRAL and n not in _READ)
    if unknown:
        notice(f"{path.name}: not read, as nothing is known of {', '.join(unknown[:12])}: the network is that of "
               "a plain Llama")  # fmt: skip


def _ends(reader: Any, path: Path, vocab: int, notice: Callable[[str], None]) -> tuple[int, ...]:
    """Tokens that end an answer as llama.cpp takes them: of the text, of a turn, of a message, and those by name."""
    ids: list[int] = []
    for name, value in _contents(reader, path, [f"tokenizer.ggml.{n}_token_id" for n in _ENDS]).items():
        if type(value) is not int or not 0 <= value < vocab:
            raise ModelError(f"{path}: {name} is {value!r:.40}, expected 0..{vocab - 1}")
        ids.append(value)
    lists = _contents(reader, path, ["tokenizer.ggml.tokens", "tokenizer.ggml.token_type"])
    tokens, kinds = lists.get("tokenizer.ggml.tokens"), lists.get("tokenizer.ggml.token_type")
    if isinstance(tokens, list) and isinstance(kinds, list):
        for token, (name, kind) in enumerate(zip(tokens[:vocab], kinds, strict=False)):
            if name in TURN_ENDS and kind in _MARKS and token not in ids:
                notice(f"{path.name}: {name!r} (token {token}) ends an answer, too, as in llama.cpp")
                ids.append(token)
    return tuple(dict.fromkeys(ids))


def _config(reader: Any, path: Path, notice: Callable[[str], None]) -> LMConfig:
    def field(name: str, default: Any = None) -> Any:
        stored = reader.fields.get(name)
        if stored is None:
            if default is not None:
                return default
            raise ModelError(f"{path}: without {name}")
        return stored.contents()

    kind = field("general.architecture")
    if kind != "llama":
        raise ModelError(f"{path}: architecture {kind!r:.40}, only 'llama' is known")
    if field("llama.rope.scaling.type", "none") != "none":
        raise ModelError(f"{path}: RoPE is scaled, only the plain kind is supported")
    _check_fields(reader, path, notice)

    def whole(name: str, default: Any = None) -> int:
        value = field(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ModelError(f"{path}: {name} is {value!r:.40}, expected a whole number (one for all layers)")
        return value

    heads, width = whole("llama.attention.head_count"), whole("llama.embedding_length")
    size = whole("llama.attention.key_length", width // max(heads, 1))
    if field("llama.rope.dimension_count", size) != size:
        raise ModelError(f"{path}: RoPE turns a part of each head, only whole heads are supported")
    theta, epsilon = field("llama.rope.freq_base", 10_000.0), field("llama.attention.layer_norm_rms_epsilon")
    shapes = {t.name: tuple(int(n) for n in t.shape) for t in reader.tensors}
    name = "tokenizer.ggml.bos_token_id"
    begin = whole(name) if name in reader.fields else None
    vocab, context = shapes.get("token_embd.weight", (0,))[-1], whole("llama.context_length")
    ends = _ends(reader, path, vocab, notice)
    for name, right in (("llama.attention.value_length", size), ("llama.vocab_size", vocab)):
        if name in reader.fields and whole(name) != right:
            raise ModelError(f"{path}: {name} is {whole(name)}, and the other settings and weights make it {right}")
    if "llama.attention.sliding_window" in reader.fields and 0 < whole("llama.attention.sliding_window") < context:
        raise ModelError(f"{path}: llama.attention.sliding_window is less than the context of {context}, only "
                         "attention over all of it is supported")  # fmt: skip
    return LMConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=whole("llama.feed_forward_length"),
        num_hidden_layers=whole("llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=whole("llama.attention.head_count_kv", heads),
        max_position_embeddings=context,
        head_dim=size,
        rms_norm_eps=epsilon,
        rope_theta=theta,
        tie_word_embeddings="output.weight" not in shapes,
        bos_token_id=begin,
        eos_token_id=ends[0] if len(ends) == 1 else ends or None,
    )


def _halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of one head as Hugging Face orders them: RoPE's pairs are its two halves, in GGUF they are neighbours."""
    rows = weight.shape[0] // heads // 2
    return weight.reshape(heads, rows, 2, -1).transpose(1, 2).reshape(weight.shape)
