"""Which layer costs most in int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_models import CLASSES, Net, save

from edgeexit.errors import DataError, ModelError
from edgeexit_exporters.int8.quantize import quantize
from edgeexit_exporters.int8.sensitivity import layer_sensitivity
from edgeexit_exporters.source.source import Source, from_onnx

ROWS = np.random.default_rng(1).standard_normal((400, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Source]:
    """Three products; the input of the second has one channel of outliers, which leaves few steps to the others."""
    net = Net(3)
    net.op("MatMul", ["x", net.weight("w0", 8, 8)], "a")
    outlier = np.ones(8, np.float32)
    outlier[0] = 300
    net.weights["outlier"] = onnx.numpy_helper.from_array(outlier, "outlier")
    net.op("Tanh", ["a"], "t")
    net.op("Mul", ["t", "outlier"], "wide")
    net.head("t", 8, "y0")
    narrow = net.rng.standard_normal((8, 8)).astype(np.float32)
    narrow[0] = 0
    net.weights["w1"] = onnx.numpy_helper.from_array(narrow, "w1")
    net.op("MatMul", ["wide", "w1"], "b")
    net.op("Tanh", ["b"], "u")
    net.head("u", 8, "y1")
    for node in net.nodes:
        node.name = f"node_{node.output[0]}"
    model = net.model({"x": ["batch", 8]}, {n: ["batch", CLASSES] for n in ("y0", "y1")})
    source = from_onnx(save(model, tmp_path_factory.mktemp("net")), None)
    return source, quantize(source, {"x": ROWS[:100]})


def test_the_worst_layer_stands_first_and_excluding_it_helps(network: tuple[Source, Source]) -> None:
    source, quantised = network
    seen: list[str] = []
    found = layer_sensitivity(source, quantised, {"x": ROWS[100:]}, seen.append)
    assert len(found) == len(seen) == 4
    assert found[0].node == "node_b" and found[0].operation == "MatMul"
    assert found[0].errors[0] == 0, "exit 0 does not need it"
    assert found[0].errors[1] > 3 * max(layer.errors[1] for layer in found[1:])
    assert {layer.node: layer.errors[1] for layer in found}["node_y0"] == 0
    better = quantize(source, {"x": ROWS[:100]}, exclude=["node_b", "node_wide"])
    expected = source.reference({"x": ROWS[100:]})["y1"]
    before, after = (np.abs(q.reference({"x": ROWS[100:]})["y1"] - expected).mean() for q in (quantised, better))
    assert after < before / 2


def test_wrong_rows_and_networks_are_refused(network: tuple[Source, Source]) -> None:
    source, quantised = network
    with pytest.raises(DataError, match=r"shape \(400, 7\)"):
        layer_sensitivity(source, quantised, {"x": ROWS[:, 1:].copy()})
    with pytest.raises(DataError, match=r"evaluation data: needs 'x'"):
        layer_sensitivity(source, quantised, {"y": ROWS})
    with pytest.raises(ModelError, match=r"with fixed ranges"):
        layer_sensitivity(source, quantize(source, precision="int8-dynamic"), {"x": ROWS})


def test_a_saved_source_is_left_as_it_was(network: tuple[Source, Source], tmp_path: Path) -> None:
    source, quantised = network
    before = [n.name for n in quantised.model.graph], [n.name for n in source.model.graph]
    layer_sensitivity(source, quantised, {"x": ROWS[:50]})
    assert before == ([n.name for n in quantised.model.graph], [n.name for n in source.model.graph])
