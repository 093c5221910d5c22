"""The decoder against a plain reference, against transformers, and its parts against the whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from edgeexit.lm.positions import mask
from edgeexit_models.lm import LlamaLM, LMConfig, load_lm, save_lm

Floats = npt.NDArray[np.float64]


def reference(model: LlamaLM, ids: list[int]) -> Floats:
    """Llama with loops, in float64: logits (T, vocab)."""
    c, w = model.config, {name: value.double().numpy() for name, value in model.state_dict().items()}
    size, group = c.head_size, c.num_attention_heads // c.num_key_value_heads

    def norm(x: Floats, name: str) -> Floats:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + c.rms_norm_eps) * w[name]

    def turn(x: Floats, position: int) -> Floats:
        out = x.copy()
        for pair in range(size // 2):
            angle = position * c.rope_theta ** (-2 * pair / size)
            a, b = x[pair], x[pair + size // 2]
            out[pair], out[pair + size // 2] = (
                a * np.cos(angle) - b * np.sin(angle),
                b * np.cos(angle) + a * np.sin(angle),
            )
        return out

    h = w["embed_tokens.weight"][ids]
    for layer in range(c.num_hidden_layers):
        name = f"layers.{layer}."
        x = norm(h, name + "input_layernorm.weight")
        q, k, v = (x @ w[f"{name}self_attn.{p}_proj.weight"].T for p in "qkv")
        mixed = np.zeros_like(q)
        for head in range(c.num_attention_heads):
            mine = slice(head * size, (head + 1) * size)
            shared = slice(head // group * size, (head // group + 1) * size)
            for t in range(len(ids)):
                query = turn(q[t, mine], t)
                scores = np.array([query @ turn(k[s, shared], s) for s in range(t + 1)]) / np.sqrt(size)
                weights = np.exp(scores - scores.max())
                mixed[t, mine] = weights / weights.sum() @ v[: t + 1, shared]
        h = h + mixed @ w[name + "self_attn.o_proj.weight"].T
        x = norm(h, name + "post_attention_layernorm.weight")
        gate = x @ w[name + "mlp.gate_proj.weight"].T
        up = x @ w[name + "mlp.up_proj.weight"].T
        h = h + (gate / (1 + np.exp(-gate)) * up) @ w[name + "mlp.down_proj.weight"].T
    logits: Floats = norm(h, "norm.weight") @ w.get("lm_head.weight", w["embed_tokens.weight"]).T
    return logits


def stepped(model: LlamaLM, ids: torch.Tensor, sizes: list[int], cuts: list[int]) -> torch.Tensor:
    """Logits (T, vocab) of a sequence given in pieces, each through blocks that end at `cuts`."""
    c = model.config
    room = len(ids) + 3
    cache = [torch.randn(room, 1, c.num_key_value_heads, c.head_size) for _ in range(2 * c.num_hidden_layers)]
    out, done = [], 0
    for size in sizes:
        h, at = model.embed(ids[None, done : done + size]), torch.arange(done, done + size)
        for first, last in zip([0, *cuts[:-1]], cuts, strict=True):
            mine = slice(2 * first, 2 * last)
            look = torch.from_numpy(mask(done, size, room))
            h, new = model.block(first, last, h, cache[mine], at, model.turn(at[None]), look)
            assert [tuple(rows.shape) for rows in new] == [(size, 1, c.num_key_value_heads, c.head_size)] * len(new)
            for held, rows in zip(cache[mine], new, strict=True):
                held[done : done + size] = rows
        out.append(model.head(h)[0])
        done += size
    return torch.cat(out)


VARIANTS = [
    {},
    {"tie_word_embeddings": False},
    {"num_key_value_heads": 1, "head_dim": 6, "rope_theta": 500.0, "rms_norm_eps": 1e-2},
    {"num_key_value_heads": 4},
]


@pytest.mark.parametrize("change", VARIANTS)
def test_logits_are_those_of_a_plain_reference(config: LMConfig, change: dict[str, object]) -> None:
    model = _built(replace(config, **change))
    ids = torch.arange(11) * 17 % 300
    with torch.no_grad():
        np.testing.assert_allclose(model(ids[None])[0].numpy(), reference(model, ids.tolist()), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("change", VARIANTS)
def test_transformers_reads_what_we_write_and_the_reverse(
    config: LMConfig, change: dict[str, object], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers", reason="compares with transformers' LlamaForCausalLM")
    model = _built(replace(config, **change))
    save_lm(tmp_path / "ours", model)
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    again = load_lm(tmp_path / "theirs")
    ids = torch.randint(300, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, wanted = model(ids), theirs(ids).logits
    assert (ours - wanted).abs().max() < 5e-5
    assert replace(again.config, head_dim=model.config.head_dim) == model.config
    assert again.config.head_size == model.config.head_size
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.parametrize("sizes", [[1] * 12, [12], [5, 1, 1, 5], [1, 11], [11, 1], [3, 4, 5]])
@pytest.mark.parametrize("cuts", [[4], [1, 4], [1, 2, 3, 4]])
def test_any_split_over_time_and_depth_gives_one_pass(model: LlamaLM, sizes: list[int], cuts: list[int]) -> None:
    ids = torch.arange(12) * 29 % 300
    with torch.no_grad():
        assert (stepped(model, ids, sizes, cuts) - model(ids[None])[0]).abs().max() < 1e-5


def test_later_tokens_do_not_reach_back(model: LlamaLM) -> None:
    ids = torch.arange(12)[None] * 7
    other = ids.clone()
    other[0, 8:] += 1
    with torch.no_grad():
        first, second = model(ids), model(other)
    assert torch.equal(first[:, :8], second[:, :8])
    assert (first[:, 8:] - second[:, 8:]).abs().max() > 0.1


def test_a_sequence_that_leaves_a_layer_out_goes_around_it(model: LlamaLM) -> None:
    ids = torch.arange(20).reshape(2, 10)
    keep = torch.tensor([[True, True], [True, False], [False, False], [True, True]])
    with torch.no_grad():
        whole, states = model.hidden(ids), model.hidden(ids, keep)
        alone = model.hidden(ids[:1], keep[:, :1])
    assert torch.equal(states[0], whole[0])
    assert torch.equal(states[1][1], states[0][1]) and not torch.equal(states[1][0], states[0][0])
    assert torch.equal(states[2], states[1])
    assert torch.allclose(states[3][:1], alone[3], atol=1e-6)


def _built(config: LMConfig) -> LlamaLM:
    torch.manual_seed(3)
    model = LlamaLM(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, mean=0.0 if weight.ndim == 2 else 1.0, std=0.2)
    return model.eval()
