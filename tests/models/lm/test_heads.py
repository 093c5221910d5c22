"""Exits for a frozen decoder: least-squares maps and trained ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from edgeexit.errors import DataError, ModelError
from edgeexit_models.lm import ExitHeads, HeadTuning, LlamaLM, Plan, fit_maps, load_maps, measure, save_maps, train
from edgeexit_models.lm.trainer import Tokens


@pytest.fixture
def text() -> Tokens:
    return np.random.default_rng(0).integers(0, 300, 1500).astype(np.uint16)


@pytest.mark.parametrize("bias", [True, False])
def test_maps_are_numpys_least_squares(model: LlamaLM, text: Tokens, bias: bool) -> None:
    maps = fit_maps(model, text, 20, [1, 3], bias=bias, batch=7)
    rows = torch.from_numpy(text[:1480].astype(np.int64)).reshape(74, 20)
    with torch.no_grad():
        states = [h[:, 4:].reshape(-1, 32).double().numpy() for h in model.hidden(rows)]
    assert list(maps) == [1, 3]
    for layer, linear in maps.items():
        x = states[layer - 1]
        if bias:
            x = np.hstack([x, np.ones((len(x), 1))])
        wanted = np.linalg.lstsq(x, states[-1], rcond=None)[0]
        np.testing.assert_allclose(linear.weight.numpy(), wanted[:32].T, atol=1e-5)
        assert (linear.bias is not None) == bias
        if bias:
            np.testing.assert_allclose(linear.bias.numpy(), wanted[32], atol=1e-5)


def test_maps_bring_the_exits_nearer_to_the_last(model: LlamaLM, text: Tokens) -> None:
    maps = fit_maps(model, text, 20, [1, 2, 3])
    other = np.random.default_rng(1).integers(0, 300, 1500).astype(np.uint16)
    raw, mapped = measure(model, other, 20), measure(model, other, 20, maps=maps)
    assert all(m.agreement > r.agreement for m, r in zip(mapped[:3], raw[:3], strict=True))


def test_new_heads_are_the_plain_exits_and_only_they_learn(model: LlamaLM, text: Tokens) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    heads = ExitHeads(model, [1, 3])
    assert measure(model, text, 20, maps=heads.maps()) == measure(model, text, 20)
    plan = Plan(steps=80, batch=4, context=20, lr=1e-2, recipe=HeadTuning(imitate=1.0))
    train(heads, text, plan)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    raw, tuned = measure(model, text, 20), measure(model, text, 20, maps=heads.maps())
    assert tuned[0].agreement > raw[0].agreement and tuned[2].agreement > raw[2].agreement
    assert tuned[1] == raw[1]


def test_head_tuning_resumes_to_the_bit(model: LlamaLM, text: Tokens, tmp_path: Path) -> None:
    plan = Plan(steps=6, batch=2, context=20, lr=1e-2, recipe=HeadTuning())
    runs = []
    for cut in (None, 3):
        torch.manual_seed(0)
        heads, path = ExitHeads(model, [2]), tmp_path / f"{cut}.pt"
        if cut is not None:
            train(heads, text, plan, checkpoint=path, stop=lambda step: step == 3)
        train(heads, text, plan, checkpoint=path, resume=True)
        runs.append(heads.state_dict())
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())


def test_both_kinds_come_back_from_a_file(model: LlamaLM, text: Tokens, tmp_path: Path) -> None:
    maps = {**fit_maps(model, text, 20, [1]), **ExitHeads(model, [3], inner=8).maps()}
    save_maps(tmp_path / "maps.safetensors", maps)
    again = load_maps(tmp_path / "maps.safetensors", model)
    h = torch.randn(2, 5, 32)
    assert list(again) == [1, 3]
    assert all(torch.equal(again[layer](h), maps[layer](h)) for layer in maps)


@pytest.mark.parametrize(
    "tensors",
    [{"1.weight": torch.zeros(4, 4)}, {"x.weight": torch.zeros(32, 32)}, {"4.weight": torch.zeros(32, 32)},
     {"1.gate_proj.weight": torch.zeros(())}, {"weight": torch.zeros(32, 32)}],
)  # fmt: skip
def test_files_that_do_not_fit_are_refused(model: LlamaLM, tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "maps.safetensors"
    path.write_bytes(safetensors.torch.save(tensors))
    with pytest.raises(ModelError):
        load_maps(path, model)
    path.write_bytes(b"no")
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        load_maps(path, model)


def test_layers_and_text_that_do_not_do_are_refused(model: LlamaLM, text: Tokens) -> None:
    for layers in ([], [0], [4]):
        with pytest.raises(ModelError, match=r"layers 1\.\.3"):
            fit_maps(model, text, 20, layers)
    with pytest.raises(DataError, match="32 tokens for maps of 33"):
        fit_maps(model, text[:41], 20, [1])
