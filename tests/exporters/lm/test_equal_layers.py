"""Checkpoints whose layers hold the same numbers: depth-upscaled, shared, zero; and decoders that cannot be copied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_nets import CONFIG, UNTIED, built

from edgeexit.lm.cache import Cache
from edgeexit.lm.loading import load_lm
from edgeexit_exporters.lm import LmExportSpec, export_lm
from edgeexit_exporters.lm import graphs as graphs_of
from edgeexit_exporters.lm.distinct import distinct_weights, structure
from edgeexit_models.lm import LlamaLM

IDS = [5, 9, 250, 17]
PRECISIONS = ("fp32", "int8", "int4")
TOLERANCE = {"fp32": 1e-5, "int8": 0.1, "int4": 0.6}
"""Of the largest logit: each precision's own rounding on these random weights."""


def equal(model: LlamaLM) -> None:
    model.layers[2].load_state_dict(model.layers[1].state_dict())


def shared(model: LlamaLM) -> None:
    model.layers[2] = model.layers[1]


def zero(model: LlamaLM) -> None:
    for weight in (*model.layers[1].parameters(), *model.layers[2].parameters()):
        torch.nn.init.zeros_(weight)


def alike(model: LlamaLM) -> None:
    """Equal and symmetric weights within a layer: keys are values, gate is up, transposed is the same."""
    with torch.no_grad():
        for layer in model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            attention.v_proj.weight.copy_(attention.k_proj.weight)  # type: ignore[union-attr, operator]
            attention.q_proj.weight.copy_(torch.eye(64))  # type: ignore[union-attr, operator]
            attention.o_proj.weight.copy_(torch.eye(64))  # type: ignore[union-attr, operator]
            mlp.up_proj.weight.copy_(mlp.gate_proj.weight)  # type: ignore[union-attr, operator]
            mlp.down_proj.weight.copy_(mlp.gate_proj.weight.T)  # type: ignore[union-attr, operator]


def checked(model: LlamaLM, out: Path, stages: tuple[int, ...], precisions: tuple[str, ...]) -> None:
    made = export_lm(model, out, LmExportSpec(stages=stages, precisions=precisions), tokenizer=None)
    with torch.no_grad():
        want = model(torch.tensor([IDS]))[0].numpy()
        first = model.hidden(torch.tensor([IDS]))[stages[0] - 1]
        positions = model.turn(torch.arange(len(IDS))[None])
    for precision in precisions:
        lm = load_lm(made.bundle, artifact=precision)
        hidden, cache = lm.embed(IDS), Cache(lm.spec)
        for k in range(lm.count):
            hidden = lm.run_stage(k, hidden, cache)
        np.testing.assert_allclose(lm.logits(hidden), want, atol=TOLERANCE[precision] * np.abs(want).max())
        if lm.count == 1:
            continue
        layers = lm.spec.layers_of(1)
        filled = Cache(lm.spec)
        lm.fill(1, first.numpy(), filled)
        rows = model.keys_values(layers[0], layers[-1] + 1, first, positions)
        for got, row in zip(filled.past(1), rows, strict=True):
            row = row.detach().numpy()
            np.testing.assert_allclose(got, row, atol=TOLERANCE[precision] * max(np.abs(row).max(), 1e-6))


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        (equal, (4,)),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                (zero, (4,)),
                (equal, (1, 2, 3, 4)),
                (zero, (1, 2, 3, 4)),
                (shared, (1, 4)),
                (alike, (2, 4)),
            ]
        ),
    ],
    ids=lambda v: v.__name__ if callable(v) else f"{len(v)} stages",
)
def test_layers_that_hold_the_same_numbers(
    change: Callable[[LlamaLM], None], stages: tuple[int, ...], tmp_path: Path
) -> None:
    model = built(replace(UNTIED, num_hidden_layers=4))
    change(model)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    checked(model, tmp_path / "m.edgeexit", stages, PRECISIONS)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


@pytest.mark.slow
def test_all_numbers_are_zero(tmp_path: Path) -> None:
    model = built(replace(CONFIG, num_hidden_layers=4))
    for weight in model.parameters():
        torch.nn.init.zeros_(weight)
    checked(model, tmp_path / "m.edgeexit", (2, 4), PRECISIONS)


@pytest.mark.slow
@pytest.mark.parametrize("change", [zero, alike], ids=lambda f: f.__name__)
def test_layers_that_cannot_be_copied(
    change: Callable[[LlamaLM], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are traced with their own weights, where equal ones are merged."""
    monkeypatch.setattr(graphs_of.Graphs, "_template", lambda *a: None)
    model = built(replace(UNTIED, num_hidden_layers=4))
    change(model)
    checked(model, tmp_path / "m.edgeexit", (1, 4), PRECISIONS)


def test_stand_ins_leave_no_trace() -> None:
    model = built()
    shared(model)
    own = [*model.layers]
    with distinct_weights(model.layers, range(3)) as found:
        assert found is not None and len({w.tobytes() for w in found.values()}) == len(found)
        assert not {*map(id, model.layers)} & {*map(id, own)}
    assert [*map(id, model.layers)] == [*map(id, own)]
    with pytest.raises(RuntimeError), distinct_weights(model.layers, range(3)):
        raise RuntimeError
    assert [*map(id, model.layers)] == [*map(id, own)]


def test_layers_that_differ_in_more_than_weights_are_traced_each() -> None:
    layers = built().layers
    assert structure(layers, [0]) == structure(layers, [1])
    layers[1].self_attn.shared = 1  # type: ignore[union-attr, assignment]
    assert structure(layers, [0]) != structure(layers, [1])
    layers[2].register_buffer("window", torch.ones(3))
    assert structure(layers, [0]) != structure(layers, [2])
