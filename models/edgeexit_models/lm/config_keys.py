"""Checks of config.json keys beyond the sizes: harmless keys, and keys that would change the network.

A key that this package does not implement may only have a value without effect; keys in neither table are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgeexit.errors import ModelError

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "hidden_activation": ("silu", "swish"),
    "activation_function": ("silu", "swish"),
    **dict.fromkeys(
        (
            "attention_bias", "mlp_bias", "qkv_bias", "use_qkv_bias", "use_bias", "bias", "add_bias_linear",
            "attention_out_bias", "lm_head_bias", "rope_interleaved", "use_sliding_window", "use_qk_norm", "qk_norm",
            "qk_layernorm", "use_qk_layernorm", "alibi", "use_alibi", "parallel_residual", "use_parallel_residual",
            "is_encoder_decoder", "add_cross_attention", "use_post_norm", "post_norm", "norm_after", "clip_qkv",
            "attn_temperature_tuning", "use_mup", "scale_embeddings", "embed_scale_by_sqrt_dim", "use_nope",
        ),
        (False, 0),
    ),
    **dict.fromkeys(
        (
            "partial_rotary_factor", "rotary_pct", "rope_pct", "rotary_percent", "logit_scale", "logits_scaling",
            "logits_scale", "embedding_multiplier", "scale_emb", "embedding_scale", "residual_multiplier",
            "residual_scale", "lm_head_multiplier", "output_multiplier_scale", "rope_scaling_factor",
        ),
        (1,),
    ),
    **dict.fromkeys(
        (
            "attn_logit_softcapping", "final_logit_softcapping", "logit_softcapping", "attention_multiplier",
            "query_pre_attn_scalar", "attention_chunk_size", "no_rope_layer_interval", "nope_layer_interval",
            "block_configs", "per_layer_config", "quantization_config", "compression_config", "head_dims",
            "n_routed_experts", "n_shared_experts", "num_nextn_predict_layers", "mlp_only_layers",
            "kv_lora_rank", "q_lora_rank", "scale_depth", "dim_model_base",
        ),
        (0, [], {}),
    ),
    **dict.fromkeys(("num_experts", "num_local_experts", "moe_num_experts", "num_experts_per_tok"), (0, 1)),
    "position_embedding_type": ("rope", "rotary", "absolute"),  # the last is old transformers' default, of no effect
}  # fmt: skip
"""Key -> the values, besides null, that do not change a Llama network."""

HARMLESS = frozenset(
    {
        "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "attention_dropout",
        "attention_probs_dropout_prob", "bad_words_ids", "chunk_size_feed_forward", "decoder_start_token_id",
        "do_sample", "dtype", "embd_pdrop", "finetuning_task", "gradient_checkpointing", "hidden_dropout",
        "hidden_dropout_prob", "id2label", "is_decoder", "is_llama_config", "label2id", "max_length",
        "max_window_layers", "mlp_dropout", "name_or_path", "output_attentions", "output_hidden_states",
        "output_past", "pad_token_id", "prefix", "pretraining_tp", "problem_type", "resid_pdrop", "return_dict",
        "sep_token_id", "temperature", "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript",
        "transformers.js_config", "transformers_version", "unk_token_id", "unsloth_fixed", "unsloth_version",
        "use_bfloat16", "use_cache",
    }
)  # fmt: skip
"""Keys of training and storage; a Llama network's outputs do not depend on them."""
_ARCHITECTURES = ("llamaforcausallm", "llamamodel")


def check_keys(config: Mapping[str, Any], used: frozenset[str], notice: Callable[[str], None]) -> None:
    """Checks every key that sizes are not read from.

    Args:
        config: content of config.json.
        used: keys that are read elsewhere.
        notice: called with a sentence that names unknown keys.

    Raises:
        ModelError: a key that makes another network; names it and the values that are supported.
    """
    for name, values in NEUTRAL.items():
        value = config.get(name)
        if value is not None and not any(value == v and isinstance(value, bool) <= isinstance(v, bool) for v in values):
            raise ModelError(
                f"language model config: {name} is {value!r:.60}, only {values[0]!r} is supported (it makes another "
                "network)"
            )
    architectures = config.get("architectures") or []
    if other := [a for a in architectures if str(a).lower() not in _ARCHITECTURES]:
        raise ModelError(
            f"language model config: architectures names {other[0]!r:.60}, only 'LlamaForCausalLM' is known"
        )
    _check_layers(config)
    unknown = sorted(n for n, v in config.items() if v is not None and n not in {*used, *NEUTRAL, *HARMLESS, *_CHECKED})
    if unknown:
        names = ", ".join(f"{n}" for n in unknown[:12]) + (
            f" and {len(unknown) - 12} more" if len(unknown) > 12 else ""
        )
        notice(f"config.json: not read, as nothing is known of {names}: the network is that of a plain Llama")


_CHECKED = (
    "architectures", "auto_map", "model_type", "layer_types", "no_rope_layers", "sliding_window", "rope_scaling",
    "rope_parameters",
)  # fmt: skip


def _check_layers(config: Mapping[str, Any]) -> None:
    """Raises: ModelError for attention over a part of the context, or for layers that differ."""
    window, context = config.get("sliding_window"), config.get("max_position_embeddings")
    if window is not None and config.get("use_sliding_window") is not False:
        whole = isinstance(window, int) and isinstance(context, int) and window >= context
        if not whole:
            raise ModelError(
                f"language model config: sliding_window is {window!r:.40}, only attention over the whole context of "
                f"{context!r:.40} is supported"
            )
    for name, only in (("layer_types", "full_attention"), ("no_rope_layers", 1)):
        kinds = config.get(name)
        if kinds is not None and not (isinstance(kinds, list) and all(kind == only for kind in kinds)):
            raise ModelError(
                f"language model config: {name} is {kinds!r:.60}, only {only!r} for all layers is supported"
            )


def plain_rope(config: Mapping[str, Any], notice: Callable[[str], None]) -> float | None:
    """The base of RoPE from the newer keys of a config; None = they have none.

    As in transformers, an old `rope_scaling` counts before `rope_parameters`, and a base in there before `rope_theta`.

    Raises:
        ModelError: RoPE that is scaled, turns a part of each head, or differs from layer to layer.
    """
    old, new = config.get("rope_scaling") or {}, config.get("rope_parameters") or {}
    rope = old or new
    if not isinstance(rope, Mapping) or any(isinstance(v, Mapping) for v in rope.values()):
        raise ModelError(f"language model config: RoPE {rope!r:.80} differs from layer to layer or is none, only one "
                         "plain kind for all layers is supported")  # fmt: skip
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", None) and not (kind in ("linear", "dynamic") and rope.get("factor") == 1):
        raise ModelError(f"language model config: RoPE {dict(rope)!r:.120} is scaled, only the plain kind is supported")
    if rope.get("partial_rotary_factor") not in (None, 1):
        raise ModelError(f"language model config: RoPE {dict(rope)!r:.120} turns a part of each head, only whole heads "
                         "are supported")  # fmt: skip
    if old and new and old != new:
        notice("config.json: rope_scaling and rope_parameters differ; rope_scaling counts, as in transformers")
    theta, outer = rope.get("rope_theta"), config.get("rope_theta")
    if theta is not None and outer is not None and theta != outer:
        notice(f"config.json: rope_theta {outer!r:.40} and, with RoPE's other numbers, {theta!r:.40}; the latter "
               "counts, as in transformers")  # fmt: skip
    return theta
