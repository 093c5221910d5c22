"""Pieces of the exporter: text, quantizers, heads, sources."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import safetensors.torch
import torch
from lm_nets import CONFIG, built, text_ids
from torch import nn

from edgeexit.errors import DataError, ModelError
from edgeexit_exporters.lm import quantize
from edgeexit_exporters.lm.heads import shortened, tied
from edgeexit_exporters.lm.parts import _check_names
from edgeexit_exporters.lm.quantize import PRECISIONS, quantized
from edgeexit_exporters.lm.source import open_source
from edgeexit_exporters.lm.text import cut, shortlist
from edgeexit_exporters.onnx.graph import constant
from edgeexit_models.lm import load_lm, save_lm


def test_pieces_are_spread_and_every_eighth_is_held_out() -> None:
    found = cut(np.arange(1000) % 50, 50, 10, 400)
    assert found.fitted.shape == (35, 10) and found.held.shape == (5, 10) and found.tokens == 400
    assert found.fitted[0, 0] == 0 and 49 in (found.fitted[-1, -1], found.held[-1, -1])
    assert found.counts.sum() == 1000 - found.held.size
    assert len(found.stream) == found.fitted.size + 1
    few = cut(np.arange(25), 50, 10, 400)
    assert (few.fitted.shape, few.held.shape) == ((1, 10), (1, 10))


@pytest.mark.parametrize("ids", [np.array([0, 50]), np.array([-1, 3]), np.zeros((2, 30), int), np.zeros(30), []])
def test_text_that_does_not_fit(ids: object) -> None:
    with pytest.raises(DataError, match="calibration text"):
        cut(np.asarray(ids), 50, 10, 400)


def test_short_lists_hold_the_ends() -> None:
    text = cut(text_ids(), 300, 64, 4096)
    assert {299, 298} <= {*shortlist(text, 5, (299, 298)).tolist()}
    assert shortlist(text, 5, ()).tolist() == sorted(shortlist(text, 5, ()).tolist())


def graph(op: str = "MatMul", bias: bool = False) -> ir.Model:
    """hidden (1, T, 8) -> logits (1, T, 16) by one product."""
    hidden = ir.Value(name="hidden", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, "T", 8]))
    weight = constant("head.weight.T", np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32))
    nodes = [ir.node(op, [hidden, weight], name="head")]
    if bias:
        nodes.append(ir.node("Add", [nodes[0].outputs[0], constant("b", np.ones(16, np.float32))]))
    for i, n in enumerate(nodes):
        n.outputs[0].name = f"y{i}"
    out = nodes[-1].outputs[0]
    out.name, out.type, out.shape = "logits", hidden.type, ir.Shape([1, "T", 16])
    constants = [v for n in nodes for v in n.inputs if v is not None and v.const_value is not None]
    made = ir.Graph([hidden], [out], nodes=nodes, initializers=constants, opset_imports={"": 20}, name="g")
    return ir.Model(made, ir_version=10)


@pytest.mark.parametrize("name", [n for n, p in PRECISIONS.items() if p is not None])
def test_products_are_counted(name: str) -> None:
    precision = PRECISIONS[name]
    assert precision is not None
    found = quantized(graph(), precision, "head")
    assert [n.op_type for n in found.graph].count(precision.operation) == 1


def test_a_gemm_is_not_passed_over() -> None:
    with pytest.raises(ModelError, match="head: product 'head' is a Gemm"):
        quantized(graph("Gemm"), quantize.Precision(4), "head")


def test_a_product_left_in_float_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "_blocks", lambda proto, precision: proto)  # it only logs what it skips
    with pytest.raises(ModelError, match="head: 0 of 1 products were quantized, not 'head'"):
        quantized(graph(), quantize.Precision(4), "head")


def test_heads() -> None:
    model = graph()
    weight = model.graph.initializers["head.weight.T"].const_value.numpy()  # type: ignore[union-attr]
    short = shortened(model, np.array([3, 5]))
    (left,) = short.graph.initializers.values()
    np.testing.assert_array_equal(left.const_value.numpy(), weight[:, [3, 5]])  # type: ignore[union-attr]
    assert tied(model, np.zeros((16, 8), np.float32)) is None
    assert tied(model, np.ascontiguousarray(weight.T)) is not None
    assert tied(graph(bias=True), np.ascontiguousarray(weight.T)) is None
    with pytest.raises(ModelError, match="ends in Add, expected one product"):
        shortened(graph(bias=True), np.array([1]))


def test_one_name_is_one_weight() -> None:
    other = graph()
    _check_names({"head": graph(), "exit_0": graph()})
    array = np.zeros((8, 16), np.float32)
    other.graph.initializers["head.weight.T"].const_value = ir.tensor(array)
    with pytest.raises(ModelError, match=r"'head\.weight\.T' is one thing in head and another in exit_0"):
        _check_names({"head": graph(), "exit_0": other})


def test_weights_in_several_files(tmp_path: Path) -> None:
    model = built()
    save_lm(tmp_path, model)
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    names = sorted(state)
    places = {n: f"model-{1 + (i % 2)}.safetensors" for i, n in enumerate(names)}
    for place in {*places.values()}:
        safetensors.torch.save_file({n: state[n] for n in names if places[n] == place}, tmp_path / place)
    (tmp_path / "model.safetensors").unlink()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(load_lm(tmp_path)(ids), model(ids))
    assert len(open_source(tmp_path).provenance["weights_sha256"]) == 2
    for bad in ({"weight_map": {"a": "../x.safetensors"}}, {"weight_map": {"a": 3}}, {"weight_map": []}, {}):
        index.write_text(json.dumps(bad))
        with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json"):
            load_lm(tmp_path)


def test_half_precision_modules_are_refused() -> None:
    with pytest.raises(ModelError, match="is not float32"):
        open_source(built().half())
    with pytest.raises(ModelError, match="it lacks config"):
        open_source(nn.Linear(2, 2))


def test_module_functions(tmp_path: Path) -> None:
    found = open_source("lm_nets:make")
    assert found.spec(()).stages == (CONFIG.num_hidden_layers,) and found.tokenizer is None
    safetensors.torch.save_file(built(seed=5).state_dict(), tmp_path / "w.safetensors")
    other = open_source("lm_nets:make", tmp_path / "w.safetensors")
    assert not torch.equal(other.model.embed(torch.tensor([[1]])), found.model.embed(torch.tensor([[1]])))
