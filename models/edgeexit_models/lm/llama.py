"""A Llama-style decoder that runs whole or in parts: RMSNorm, RoPE, grouped-query attention, SwiGLU.

Exits and caches need the parts: `embed`, `block(first, last, ...)`, which takes the keys and values of earlier
positions and returns those of the new ones, and `head`. Submodules have the names of transformers' LlamaForCausalLM
without its prefix `model.`, so weights can be read and written in its format; see `edgeexit_models.lm.weights`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeexit_models.lm.config import LMConfig

KeysValues = tuple[Tensor, Tensor]
"""Keys (after RoPE) and values of some positions, each `(positions, batch, kv_heads, head_dim)`: appending
positions and removing the last ones touches contiguous memory."""
Turn = tuple[Tensor, Tensor]
"""Cosines and sines of the positions, each `(batch, positions, 1, head_dim)`; the first half's sines are negated, so
that the rotation needs no negation of its own."""


class LlamaLM(nn.Module):
    """The decoder. Fresh weights come from torch's global generator: seed before building to repeat a run."""

    inv_freq: Tensor

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = (
            None if config.tie_word_embeddings else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        )
        even = torch.arange(0, config.head_size, 2, dtype=torch.float32)
        self.register_buffer("inv_freq", config.rope_theta ** (-even / config.head_size), persistent=False)
        self._start(config.initializer_range)

    def _start(self, std: float) -> None:
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                # weights that add to the residual stream start smaller, by the number of additions (GPT-2)
                adds = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=std / math.sqrt(2 * len(self.layers)) if adds else std)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids `(batch, T)` -> `(batch, T, hidden)`."""
        hidden: Tensor = self.embed_tokens(ids)
        return hidden

    def block(
        self, first: int, last: int, h: Tensor, past: Sequence[Tensor], at: Tensor, turn: Turn, mask: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Layers first..last-1 over T new positions of B sequences; fit for export.

        Args:
            h: `(B, T, hidden)`, the output of `embed` or of the layers before.
            past: keys, values, keys, values, ... of the layers in order, each `(P, B, kv_heads, head_dim)`: rows of
                earlier positions, and free rows for the new ones.
            at: `(T,)` int64, the rows of `past` for the new positions; their content is ignored.
            turn: `turn` of the new positions.
            mask: `(B, 1, 1, T, P)`, added to the scores: 0 where a new position may attend, -inf elsewhere.

        Returns:
            The new `h`, and in `past`'s order only the new rows, each `(T, B, kv_heads, head_dim)`.
        """
        new: list[Tensor] = []
        for index in range(first, last):
            keys, values = past[2 * (index - first) :][:2]
            h, rows = self.layers[index](h, turn, _Cached((keys, values), at, mask))
            new += rows
        return h, new

    def keys_values(self, first: int, last: int, h: Tensor, turn: Turn) -> list[Tensor]:
        """Keys and values of layers first..last-1 if each had the input `h`: substitutes for skipped layers.

        Args:
            first, last, h, turn: as for `block`.

        Returns:
            Keys, values, keys, values, ..., each `(T, B, kv_heads, head_dim)`.
        """
        return [row for layer in self.layers[first:last] for row in cast(_Layer, layer).rows(h, turn)]

    def head(self, h: Tensor) -> Tensor:
        """Final norm and head, shared by all exits: `(..., hidden)` -> logits `(..., vocab)`."""
        weight = self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
        return functional.linear(self.norm(h), weight)

    def hidden(self, ids: Tensor, keep: Tensor | None = None) -> list[Tensor]:
        """Hidden states after each layer, `(batch, T, hidden)`, without earlier positions, for training and evaluation.

        Args:
            ids: `(batch, T)`.
            keep: `(layers, batch)` bool; False = the sequence skips the layer. None = no sequence skips any.
        """
        turn = self.turn(torch.arange(ids.shape[1], device=ids.device)[None])
        h, states = self.embed(ids), []
        for index, layer in enumerate(self.layers):
            if keep is None or bool(keep[index].all()):
                h, _ = layer(h, turn)
            elif bool(keep[index].any()):
                rows = keep[index].nonzero()[:, 0]
                h = h.index_copy(0, rows, layer(h[rows], turn)[0])
            states.append(h)
        return states

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of the whole network for every position: `(batch, T)` -> `(batch, T, vocab)`."""
        return self.head(self.hidden(ids)[-1])

    def turn(self, positions: Tensor) -> Turn:
        """RoPE's cosines and sines of positions `(B, T)`; pairs are a head's halves, as in Hugging Face's weights."""
        angles = (positions.to(torch.float32)[..., None] * self.inv_freq)[:, :, None]
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


class RMSNorm(nn.RMSNorm):
    """RMSNorm in a form that onnxruntime fuses to one operation.

    torch's own becomes seven, which makes small networks a tenth slower.
    """

    def forward(self, x: Tensor) -> Tensor:
        assert self.eps is not None
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class _Cached(NamedTuple):
    """Keys and values of earlier positions, rows of the new ones, and mask; see `LlamaLM.block`."""

    rows: KeysValues
    at: Tensor
    mask: Tensor


class _Layer(nn.Module):
    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config)
        self.mlp = _SwiGLU(config)
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, h: Tensor, turn: Turn, cached: _Cached | None = None) -> tuple[Tensor, KeysValues]:
        mixed, new = self.self_attn(self.input_layernorm(h), turn, cached)
        h = h + mixed
        return h + self.mlp(self.post_attention_layernorm(h)), new

    def rows(self, h: Tensor, turn: Turn) -> KeysValues:
        """Keys and values alone."""
        return self.self_attn.rows(self.input_layernorm(h), turn)


class _Attention(nn.Module):
    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.kv_heads, self.size = config.num_key_value_heads, config.head_size
        self.shared = config.num_attention_heads // config.num_key_value_heads
        width, kv_width = config.num_attention_heads * self.size, self.kv_heads * self.size
        self.q_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)

    def forward(self, x: Tensor, turn: Turn, cached: _Cached | None = None) -> tuple[Tensor, KeysValues]:
        # x: (batch, T, hidden); None = causal, nothing before
        query = turned(self.q_proj(x).unflatten(-1, (-1, self.size)), turn)
        key, value = self.rows(x, turn)
        if cached is None:
            mixed = functional.scaled_dot_product_attention(
                query.transpose(1, 2), key.permute(1, 2, 0, 3), value.permute(1, 2, 0, 3), is_causal=True,
                enable_gqa=True,
            ).transpose(1, 2)  # fmt: skip
        else:
            keys, values = (r.index_copy(0, cached.at, new) for r, new in zip(cached.rows, (key, value), strict=True))
            mixed = self._attend(query, keys, values, cached.mask)
        out: Tensor = self.o_proj(mixed.flatten(2))
        return out, (key, value)

    def rows(self, x: Tensor, turn: Turn) -> KeysValues:
        return (
            turned(self.k_proj(x).unflatten(-1, (-1, self.size)), turn).transpose(0, 1),
            self.v_proj(x).unflatten(-1, (-1, self.size)).transpose(0, 1),
        )

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Query heads that share keys are rows of one matrix product, so no keys are copied."""
        rows = torch.unflatten(query, 2, (self.kv_heads, self.shared)).permute(0, 2, 3, 1, 4)
        scores = torch.matmul(rows.flatten(2, 3) * self.size**-0.5, keys.permute(1, 2, 3, 0))
        apart = torch.unflatten(scores, 2, (self.shared, -1)) + mask
        mixed = torch.matmul(apart.softmax(-1).flatten(2, 3), values.permute(1, 2, 0, 3))
        # (batch, kv_heads, shared x T, size) back to (batch, T, kv_heads, shared, size)
        return torch.unflatten(mixed, 2, (self.shared, -1)).permute(0, 3, 1, 2, 4)


class _SwiGLU(nn.Module):
    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


def turned(x: Tensor, turn: Turn) -> Tensor:
    """RoPE: `(batch, T, heads, size)` rotated by each position's angles."""
    low, high = x.chunk(2, dim=-1)
    return x * turn[0] + torch.cat([high, low], dim=-1) * turn[1]
