"""Example inputs look like data: ids within their tables, masks with a length, numbers where the data's are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, numpy_helper
from onnx_models import CLASSES, Net, save
from rounding_nets import LENGTH, WORDS, Encoder

import edgeexit
from edgeexit_exporters.analysis.analysis import analyse
from edgeexit_exporters.analysis.answers import reference_answers
from edgeexit_exporters.exporting import open_source
from edgeexit_exporters.source.input_roles import like_data, with_roles
from edgeexit_exporters.source.inputs import make_inputs, parse_input
from edgeexit_exporters.source.torch_source import from_torch

INT = TensorProto.INT64


def looked_up(net: Net, ids: str) -> None:
    """Two exits on embeddings of `ids`."""
    net.op("Gather", [net.weight("table", 30, 4), ids], "tokens")
    net.op("ReduceMean", ["tokens", net.ints("one", 1)], "f0", keepdims=0)
    net.head("f0", 4, "y0")
    net.op("Relu", ["f0"], "f1")
    net.head("f1", 4, "y1")


def source_of(net: Net, inputs: dict[str, list[int | str]], folder: Path, types: dict[str, int]) -> Any:
    shapes = {n: ["batch", CLASSES] for n in ("y0", "y1")}
    return open_source(save(net.model(inputs, shapes, types=types), folder))


@pytest.mark.parametrize("moved", [(), ("Cast",), ("Unsqueeze", "Squeeze")])
def test_ids_stay_within_the_table_that_they_index(moved: tuple[str, ...], tmp_path: Path) -> None:
    net, name = Net(), "ids"
    for k, op in enumerate(moved):
        more = [net.ints("two", 2)] if "queeze" in op else []
        options: dict[str, int] = {"to": TensorProto.INT32} if op == "Cast" else {}
        name = net.op(op, [name, *more], f"moved{k}", **options)
    looked_up(net, name)
    source = source_of(net, {"ids": ["batch", 9]}, tmp_path, {"ids": INT})
    ids = np.concatenate([make_inputs(source.inputs, 3, seed)["ids"] for seed in range(20)])
    assert ids.min() == 0 and ids.max() == 29 and ids.shape == (60, 9)


def test_the_smallest_of_several_tables_counts(tmp_path: Path) -> None:
    net = Net()
    looked_up(net, "ids")
    net.op("Gather", [net.weight("small", 5, CLASSES), "ids"], "more")
    net.op("ReduceMean", ["more", "one"], "bias", keepdims=0)
    net.op("Add", ["y1", "bias"], "y2")
    shapes = {n: ["batch", CLASSES] for n in ("y0", "y2")}
    source = open_source(save(net.model({"ids": ["batch", 9]}, shapes, types={"ids": INT}), tmp_path))
    assert [(s.tensor.name, s.below) for s in source.inputs] == [("ids", 5)]


def masked(net: Net, way: str) -> None:
    """Two exits, the second of which leaves padding out as `way` says."""
    net.op("ReduceMean", ["x", net.ints("one", 1)], "f0", keepdims=0)
    net.head("f0", 4, "y0")
    net.op("MatMul", ["x", net.weight("query", 4, 1)], "wide")
    net.op("Squeeze", ["wide", net.ints("two", 2)], "logits")
    if way == "additive":
        net.weights["ones"] = numpy_helper.from_array(np.float32(1), "ones")
        net.weights["low"] = numpy_helper.from_array(np.float32(-1e4), "low")
        net.op("Cast", ["seen"], "real", to=TensorProto.FLOAT)
        net.op("Mul", [net.op("Sub", ["ones", "real"], "padding"), "low"], "bias")
        net.op("Add", ["logits", "bias"], "kept")
    else:
        net.weights["low"] = numpy_helper.from_array(np.float32(-np.inf), "low")
        net.op("Equal", ["seen", net.ints("zero", 0, scalar=True)], "padding")
        net.op("Where", ["padding", "low", "logits"], "kept")
    net.op("Softmax", ["kept"], "weights", axis=-1)
    net.op("Unsqueeze", ["weights", "two"], "column")
    net.op("ReduceSum", [net.op("Mul", ["x", "column"], "weighted"), "one"], "f1", keepdims=0)
    net.head("f1", 4, "y1")


@pytest.mark.parametrize("way", ["additive", "chosen"])
def test_masks_are_recognised_by_what_the_graph_does_with_them(way: str, tmp_path: Path) -> None:
    """Random ones would sometimes hold no real position at all, for which a softmax has no answer."""
    net = Net()
    masked(net, way)
    source = source_of(net, {"x": ["batch", 8, 4], "seen": ["batch", 8]}, tmp_path, {"seen": INT})
    assert [(s.tensor.name, s.mask) for s in source.inputs] == [("x", False), ("seen", True)]
    for batch in (1, 3):
        for seed in range(8):
            mask = make_inputs(source.inputs, batch, seed)["seen"]
            assert mask.dtype == np.int64 and mask.shape == (batch, 8) and set(np.unique(mask)) == {0, 1}
            assert (np.diff(mask, axis=1) <= 0).all() and (mask.sum(1) > 0).all() and (mask.sum(1) < 8).all()


@pytest.mark.parametrize(
    ("text", "mask"),
    [
        ("attention_mask:int64[batch,6]", True),
        ("src_key_padding_mask:bool[batch,6]", True),
        ("inputMask:float32[batch,1,1,6]", True),
        ("masked_image:float32[batch,6]", False),
        ("x:float32[batch,6]", False),
    ],
)
def test_masks_are_recognised_by_name(text: str, mask: bool, tmp_path: Path) -> None:
    spec = parse_input(text)
    shape = ir.Shape(spec.tensor.shape)
    value = ir.Value(name=spec.tensor.name, shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([value], [], nodes=[])
    assert [s.mask for s in with_roles(graph, [spec])] == [mask]


def test_one_position_is_real() -> None:
    spec = parse_input("mask:bool[batch,1]")
    assert make_inputs([replace(spec, mask=True)], 2, 0)["mask"].tolist() == [[True], [True]]


def test_numbers_lie_where_the_data_s_do() -> None:
    specs = [parse_input(t) for t in ("x:float32[batch,400]", "count:int64[batch,400]", "other:float32[batch]")]
    rng = np.random.default_rng(0)
    data = {"x": rng.uniform(0, 16, (50, 400)).astype(np.float32), "count": rng.integers(-3, 9, (50, 400))}
    found = make_inputs(like_data(specs, data), 8, seed=1)
    assert found["x"].mean() == pytest.approx(8, abs=0.5) and found["x"].std() == pytest.approx(16 / 12**0.5, abs=0.3)
    assert found["count"].min() == -3 and found["count"].max() == 8
    assert abs(found["other"].mean()) < 2
    wrong = {"x": np.full((3, 400), np.nan, np.float32), "count": np.zeros((0, 400), np.int64)}
    assert like_data(specs, wrong) == tuple(specs)  # which is refused elsewhere
    assert like_data(specs[:1], {"x": data["x"]})[0].center == pytest.approx(8, abs=0.1)


def test_rows_of_the_data_come_first(tmp_path: Path) -> None:
    source = from_torch(Encoder(0.0, exits=True).eval())
    rows = {"input_ids": np.full((2, LENGTH), 7), "attention_mask": np.ones((2, LENGTH), np.int64)}
    seen = analyse(source, name="a").seen
    answers = reference_answers(source, seen, rows)
    assert all((a.inputs["input_ids"] == 7).all() for a in answers[:2])
    assert all(0 < a.inputs["attention_mask"].mean() < 1 for a in answers[2:])
    assert max(int(a.inputs["input_ids"].max()) for a in answers[2:]) >= WORDS // 2


def test_no_row_of_the_data_is_shipped(tmp_path: Path) -> None:
    """Test vectors follow the data's mean and spread, and hold none of it."""
    net = Net()
    net.op("Relu", ["x"], "f0")
    net.head("f0", 4, "y0")
    net.op("Tanh", ["f0"], "f1")
    net.head("f1", 4, "y1")
    path = save(net.model({"x": ["batch", 4]}, {n: ["batch", CLASSES] for n in ("y0", "y1")}), tmp_path)
    data = np.random.default_rng(0).uniform(100, 104, (40, 4)).astype(np.float32)
    bundle = edgeexit.export(path, tmp_path / "b", data={"x": data})
    vectors = bundle.manifest.artifacts[0].vectors
    assert vectors is not None
    shipped = bundle.arrays(vectors)["input_0"]
    assert abs(shipped.mean() - 102) < 1 and not np.isin(shipped, data).any()
