"""Logits and probabilities: told apart by the graph and by the numbers, whatever wrote the Softmax."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx_models import Net, save

import edgeexit
from edgeexit.errors import ModelError
from edgeexit_exporters.exporting import open_source
from edgeexit_exporters.int8.quantize import quantize
from edgeexit_exporters.source.output_kind import check_kind, ends_in_softmax, kind_of, sums_to_one
from edgeexit_exporters.source.torch_exits import ExportedParts
from edgeexit_exporters.spec import ExportSpec
from edgeexit_exporters.tflite.from_torch.exits import exit_kinds


def number(net: Net, name: str, value: float) -> str:
    net.weights[name] = numpy_helper.from_array(np.float32(value), name)
    return name


def last(net: Net, kind: str, z: str, y: str) -> None:
    """The end of an exit: what `kind` makes of logits `z`."""
    axis = net.ints("last", -1)
    if kind == "logits":
        net.op("Identity", [z], y)
    elif kind == "softmax":
        net.op("Softmax", [z], y, axis=-1)
    elif kind in ("parts", "parts without max", "parts by reciprocal", "parts, clipped"):
        shifted = z
        if kind != "parts without max":
            shifted = net.op("Sub", [z, net.op("ReduceMax", [z], f"{y}_max", axes=[-1], keepdims=1)], f"{y}_shifted")
        powers = net.op("Exp", [shifted], f"{y}_exp")
        total = net.op("ReduceSum", [powers, axis], f"{y}_sum", keepdims=1)
        if kind == "parts by reciprocal":
            net.op("Mul", [net.op("Reciprocal", [total], f"{y}_one"), powers], y)
        elif kind == "parts, clipped":
            net.op("Clip", [net.op("Div", [powers, total], f"{y}_p"), number(net, "lo", 1e-7), number(net, "hi", 1)], y)
        else:
            net.op("Div", [powers, total], y)
    elif kind == "exp of log":
        net.op("Exp", [net.op("LogSoftmax", [z], f"{y}_log", axis=-1)], y)
    elif kind == "exp of parts":
        net.op("ReduceLogSumExp", [z], f"{y}_lse", axes=[-1], keepdims=1)
        net.op("Exp", [net.op("Sub", [z, f"{y}_lse"], f"{y}_log")], y)
    elif kind == "log":
        net.op("LogSoftmax", [z], y, axis=-1)
    elif kind == "pair":
        p = net.op("Sigmoid", [net.op("Gather", [z, net.ints("first", 0)], f"{y}_z", axis=1)], f"{y}_p")
        net.op("Concat", [net.op("Sub", [number(net, "one", 1), p], f"{y}_rest"), p], y, axis=1)
    elif kind == "sigmoids":
        net.op("Sigmoid", [z], y)
    elif kind == "percents":
        net.op("Mul", [net.op("Softmax", [z], f"{y}_p", axis=-1), number(net, "hundred", 100)], y)


def two_exits(kind: str) -> onnx.ModelProto:
    net = Net()
    net.op("MatMul", ["x", net.weight("w0", 8, 16)], "a0")
    net.op("Relu", ["a0"], "f0")
    net.op("MatMul", ["f0", net.weight("w1", 16, 16)], "a1")
    net.op("Relu", ["a1"], "f1")
    for k in range(2):
        last(net, kind, net.op("MatMul", [f"f{k}", net.weight(f"h{k}", 16, 3)], f"z{k}"), f"y{k}")
    classes = 2 if kind == "pair" else 3
    return net.model({"x": ["batch", 8]}, {f"y{k}": ["batch", classes] for k in range(2)}, opset=17)


PROBABILITIES = (
    "softmax", "parts", "parts without max", "parts by reciprocal", "parts, clipped", "exp of log", "exp of parts",
    "pair",
)  # fmt: skip


@pytest.mark.parametrize("kind", PROBABILITIES)
def test_probabilities_however_they_are_written(kind: str, tmp_path: Path) -> None:
    path = save(two_exits(kind), tmp_path)
    source = open_source(path)
    assert source.joint.kinds == ("probs", "probs") and source.joint.notes == ()
    written, _ = ends_in_softmax(source.model.graph.outputs[1])
    assert written is (kind != "pair")  # which the numbers show alone
    bundle = edgeexit.export(path, tmp_path / "b")
    assert [e.kind for e in bundle.manifest.exits] == ["probs", "probs"]
    x = np.random.default_rng(1).standard_normal((1, 8)).astype(np.float32)
    engine = edgeexit.load(bundle, artifact="fused", warmup=0)
    engine.policy = edgeexit.fixed_exit(0, 2)
    found = engine.run(x)
    assert found.score == pytest.approx(float(found.output.max()), abs=1e-5)  # not a softmax of a softmax


@pytest.mark.parametrize("kind", ["logits", "log"])
def test_logits_and_log_probabilities_are_logits(kind: str, tmp_path: Path) -> None:
    """A softmax of log-probabilities gives the probabilities back."""
    source = open_source(save(two_exits(kind), tmp_path))
    assert source.joint.kinds == ("logits", "logits") and source.joint.notes == ()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("sigmoids", r"exit 'y0' gives numbers from 0.* whose rows sum to .*: taken for logits.* say --outputs probs"),
        ("percents", r"rows sum to 100 to 100: taken for logits"),
    ],
)
def test_what_is_ambiguous_is_told(kind: str, words: str, tmp_path: Path) -> None:
    path, said = save(two_exits(kind), tmp_path), list[str]()
    bundle = edgeexit.export(path, tmp_path / "b", progress=said.append)
    assert [e.kind for e in bundle.manifest.exits] == ["logits", "logits"]
    (note, _) = [line for line in said if line.startswith("note: exit 'y")]
    assert re.search(words, note)


def test_the_user_may_say_which(tmp_path: Path) -> None:
    assert open_source(save(two_exits("sigmoids"), tmp_path), ExportSpec(outputs="probs")).joint.kinds == (
        "probs",
        "probs",
    )
    told = open_source(save(two_exits("softmax"), tmp_path), ExportSpec(outputs="logits"))
    assert told.joint.kinds == ("logits", "logits") and "sum to 1 on all example inputs" in told.joint.notes[0]
    for kind in ("logits", "log", "percents"):
        with pytest.raises(ModelError, match=r"--outputs probs: exit 'y0' gives no probabilities, but numbers from"):
            open_source(save(two_exits(kind), tmp_path), ExportSpec(outputs="probs"))


class Parted(torch.nn.Module):
    """Two exits of probabilities, without a Softmax; or one answer."""

    input_spec = {"x": ("float32", ("batch", 8))}  # noqa: RUF012

    def __init__(self, single: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.deep = torch.nn.Linear(8, 16), torch.nn.Linear(16, 16)
        self.heads = torch.nn.ModuleList(torch.nn.Linear(16, 3) for _ in range(2))
        self.single = single

    def forward(self, x: torch.Tensor) -> Any:
        shallow = torch.relu(self.body(x))
        found = []
        for head, h in zip(self.heads, (shallow, torch.relu(self.deep(shallow))), strict=True):
            z = head(h)
            e = torch.exp(z - z.amax(-1, keepdim=True))
            found.append(e / e.sum(-1, keepdim=True))
        return found[-1] if self.single else found


def test_torch_modules_are_looked_at_alike() -> None:
    assert open_source(Parted()).joint.kinds == ("probs", "probs")
    assert open_source(Parted(single=True), single=True).joint.kinds == ("probs",)


def test_tflite_files_get_the_kind_too(tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")

    bundle = edgeexit.export(Parted(), tmp_path / "b", layouts=("fused", "chain"), formats=("tflite",))
    assert [e.kind for e in bundle.manifest.exits] == ["probs", "probs"]
    engine = edgeexit.load(bundle, artifact="fused", warmup=0)
    engine.policy = edgeexit.fixed_exit(0, 2)
    found = engine.run(np.random.default_rng(1).standard_normal((1, 8)).astype(np.float32))
    assert found.score == pytest.approx(float(found.output.max()), abs=1e-5)


def test_kinds_stay_what_they_were_in_int8(tmp_path: Path) -> None:
    """Rounded to 8 bits, rows no longer sum to 1."""
    rows = {"x": np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)}
    source = open_source(save(two_exits("parts"), tmp_path))
    assert quantize(source, rows).joint.kinds == ("probs", "probs")


def test_a_quantized_softmax_is_one(tmp_path: Path) -> None:
    net = Net()
    net.op("MatMul", ["x", net.weight("w0", 8, 300)], "z0")
    net.op("Tanh", ["z0"], "z1")
    net.weights["step"] = numpy_helper.from_array(np.float32(1 / 256), "step")
    net.weights["zero"] = numpy_helper.from_array(np.uint8(0), "zero")
    for k in range(2):
        net.op("Softmax", [f"z{k}"], f"p{k}", axis=-1)
        net.op("QuantizeLinear", [f"p{k}", "step", "zero"], f"q{k}")
        net.op("DequantizeLinear", [f"q{k}", "step", "zero"], f"y{k}")
    path = save(net.model({"x": ["batch", 8]}, {f"y{k}": ["batch", 300] for k in range(2)}), tmp_path)
    assert open_source(path).joint.kinds == ("probs", "probs")


def test_rows_are_summed_in_valid_positions_and_by_type() -> None:
    half = np.full((2, 1000), 1 / 1000, np.float16)
    assert sums_to_one(half) and not sums_to_one(np.full((2, 2), 0.499, np.float32))
    assert not sums_to_one(np.array([[1.5, -0.5]])) and not sums_to_one(np.zeros((0, 3)))
    assert not sums_to_one(np.array([[np.nan, 1.0]])) and not sums_to_one(np.ones(3))
    assert kind_of("y", []) == ("logits", None) and kind_of("y", [np.array([[np.nan, 1.0]])]) == ("logits", None)
    with pytest.raises(ModelError, match="unknown kind of outputs 'prob'"):
        kind_of("y", [], "prob")


def test_probabilities_on_some_inputs_only_are_asked_about() -> None:
    fine = np.full((1, 2), 0.5)
    check_kind("y", [fine, np.full((1, 2), np.nan)])
    with pytest.raises(ModelError, match=r"exit 'y' gives rows that sum to 1 on some inputs, .*--outputs logits or"):
        check_kind("y", [fine, 3 * fine])


def test_kinds_of_a_module_divided_alone() -> None:
    z = torch.randn(1, 4, generator=torch.Generator().manual_seed(0))
    given = [ExportedParts([torch.softmax(z, -1)] * 2, [], []), ExportedParts([z], [], [])]
    assert exit_kinds(given) == ("probs", "logits")
    with pytest.raises(ModelError, match="some heads end in a Softmax and some do not"):
        exit_kinds([ExportedParts([torch.softmax(z, -1), z], [], [])])
