"""Sizes of a Llama-family language model, with the names and meanings of its Hugging Face config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from edgeexit.errors import ModelError
from edgeexit_models.lm.config_keys import check_keys, plain_rope

LARGEST = 1 << 20
MOST_LAYERS = 1 << 12
"""No size in a config may be larger: a damaged file must not ask for all memory."""


@dataclass(frozen=True)
class LMConfig:
    """Sizes of a decoder; defaults are those of transformers' LlamaConfig unless noted.

    >>> LMConfig(vocab_size=1024, hidden_size=128, intermediate_size=384, num_hidden_layers=12,
    ...          num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256).head_size
    32
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    """Keys and values are shared by `num_attention_heads / num_key_value_heads` query heads (GQA)."""
    max_position_embeddings: int
    """Context in tokens."""
    head_dim: int | None = None
    """None = hidden_size / num_attention_heads."""
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    tie_word_embeddings: bool = True
    """The head is the embedding's transpose (LlamaConfig's own default is False)."""
    initializer_range: float = 0.02
    """Standard deviation of fresh weights."""
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    """Tokens that end an answer; chat models have several."""

    def __post_init__(self) -> None:
        """Raises: ModelError for sizes that do not fit each other."""
        for name in _SIZES:
            value = getattr(self, name)
            if name == "head_dim" and value is None:
                continue
            most = MOST_LAYERS if name == "num_hidden_layers" else LARGEST
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ModelError(f"language model config: {name} is {value!r:.40}, expected a whole number 1..{most}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ModelError(
                f"language model config: {self.num_attention_heads} attention heads cannot share "
                f"{self.num_key_value_heads} key/value heads: num_attention_heads must be a multiple"
            )
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ModelError(
                f"language model config: hidden_size {self.hidden_size} is no multiple of "
                f"{self.num_attention_heads} attention heads, and head_dim is not given"
            )
        if self.head_size % 2:
            raise ModelError(f"language model config: head_dim {self.head_size} is odd; RoPE turns pairs")
        for name in ("rms_norm_eps", "rope_theta", "initializer_range"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ModelError(f"language model config: {name} is {value!r}, expected a number above 0")
        for name in ("bos_token_id", "eos_token_id"):
            value = getattr(self, name)
            ids = value if isinstance(value, tuple) and name == "eos_token_id" else (value,)
            if value is not None and not all(type(i) is int and 0 <= i < self.vocab_size for i in ids):
                raise ModelError(f"language model config: {name} is {value!r}, expected 0..{self.vocab_size - 1}")
        if not isinstance(self.tie_word_embeddings, bool):
            raise ModelError(f"language model config: tie_word_embeddings is {self.tie_word_embeddings!r}, not a bool")

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end an answer, each once."""
        ids = self.eos_token_id
        return tuple(dict.fromkeys(ids)) if isinstance(ids, tuple) else () if ids is None else (ids,)

    def to_dict(self) -> dict[str, Any]:
        """The content of a config.json that transformers' LlamaForCausalLM reads."""
        return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", **asdict(self)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], notice: Callable[[str], None] = lambda text: None) -> LMConfig:
        """Reads a Hugging Face config.

        Args:
            content: of the file. `config_keys` lists the keys that do not change the network; those that would are
                refused unless they hold the value that does not.
            notice: called with a sentence on unknown keys, and where two keys disagree.

        Raises:
            ModelError: another family, or something that is not implemented (other activations, biases,
                scaled or interleaved RoPE, mixtures of experts, windows, ...); a size that is missing or impossible.
        """
        if content.get("model_type") != "llama":
            raise ModelError(
                f"language model config: model_type is {content.get('model_type')!r}, only 'llama' is known"
            )
        check_keys(content, frozenset(f.name for f in fields(cls)), notice)
        values = {f.name: content[f.name] for f in fields(cls) if f.name in content}
        if (theta := plain_rope(content, notice)) is not None:
            values["rope_theta"] = theta
        for name in ("rope_theta", "rms_norm_eps", "initializer_range"):  # null is the default, as where it is missing
            if values.get(name, 0) is None:
                del values[name]
        if values.get("num_key_value_heads") is None:
            values["num_key_value_heads"] = content.get("num_attention_heads")
        values.setdefault("tie_word_embeddings", False)
        if isinstance(values.get("eos_token_id"), list):
            values["eos_token_id"] = tuple(values["eos_token_id"])
        missing = [name for name in _SIZES if name != "head_dim" and name not in values]
        if missing:
            raise ModelError(f"language model config: without {', '.join(missing)}")
        return cls(**values)


_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "max_position_embeddings", "head_dim",
)  # fmt: skip
