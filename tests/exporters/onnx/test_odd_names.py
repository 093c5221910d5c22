"""Tensor names that other tools make up: every layout and precision answers as under plain names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import edgeexit
from edgeexit import ModelError, fixed_exit

X = np.random.default_rng(1).standard_normal((128, 8)).astype(np.float32)
NAMES: dict[str, dict[str, str]] = {
    "paths": {"x": "a/b:0", "f0": "../../../etc/passwd", "y0": "StatefulPartitionedCall:0", "y1": "/head/out;x",
              "y2": "y \"2\" 'q'", "w0": "w/../0;:"},
    "scripts": {"x": "Eingabe-ü", "f0": "特徴", "y0": "出力", "y2": "🙂", "w0": "重み"},
    "inner names that no manifest holds": {"f0": "\x01z", "f1": "f" * 3000, "w1": "w\n1"},
    "equal but for case": {"x": "T", "f0": "t", "y0": "Y", "y1": "y", "w0": "W", "w1": "w", "f1": "F1", "s": "f1"},
    "numbers": {n: str(i) for i, n in enumerate(("x", "f0", "y0", "y1", "y2", "w0", "w1"))},
    "the fused contract inside": {"f0": "output", "y0": "exit_index", "w0": "exit_thresholds", "y1": "exit_score",
                                  "f1": "output_stage_1", "h2": "output_after_0"},
    "the fused contract outside": {"x": "output_0", "y0": "output", "y1": "output_1", "y2": "output_after_0"},
    "ours": {"f0": "edgeexit_stage_0_0_Softmax_0", "a0": "edgeexit_decision_0", "w0": "edgeexit_temperature_0",
             "h1": "edgeexit_index_1_value", "y1": "edgeexit_exit_0", "s": "edgeexit_join_0_Softmax"},
    "the vectors": {"x": "output_0", "y0": "scores", "y1": "thresholds", "y2": "exits"},
    "files": {"x": "input_0", "f0": "stage_0.onnx", "y0": "weights.bin", "y1": "tokens.txt"},
    "separators of options": {"y0": "a+b", "y1": "a", "y2": "a,b"},
    "ends that int8 adds": {"f0": "x_QuantizeLinear_Output", "a0": "x_DequantizeLinear_Output", "w0": "x_scale",
                            "w1": "x_quantized", "y0": "x_zero_point", "h1": "h0_quantized", "y2": "h0_zero_point"},
    "more of them": {"w1": "w0_quantized", "h0": "w0_scale", "f1": "w0_DequantizeLinear_Output",
                     "f0": "y0_QuantizeLinear", "s": "f1_DequantizeLinear_Output"},
}  # fmt: skip


def network(names: dict[str, str]) -> onnx.ModelProto:
    rng = np.random.default_rng(0)

    def called(name: str) -> str:
        return names.get(name, name)

    ops = [
        ("MatMul", "x w0", "a0"), ("Relu", "a0", "f0"), ("MatMul", "f0 h0", "y0"), ("MatMul", "f0 w1", "a1"),
        ("Relu", "a1", "f1"), ("MatMul", "f1 h1", "y1"), ("Add", "f1 f0", "s"), ("MatMul", "s h2", "y2"),
    ]  # fmt: skip
    nodes = [helper.make_node(kind, [called(i) for i in ins.split()], [called(out)]) for kind, ins, out in ops]
    sizes = {"w0": (8, 32), "w1": (32, 32), "h0": (32, 3), "h1": (32, 3), "h2": (32, 3)}
    weights = [
        numpy_helper.from_array((rng.standard_normal(s) * 0.5).astype(np.float32), called(n)) for n, s in sizes.items()
    ]
    outputs = [helper.make_tensor_value_info(called(n), 1, ["batch", 3]) for n in ("y0", "y1", "y2")]
    inputs = [helper.make_tensor_value_info(called("x"), 1, ["batch", 8])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def answers(bundle: edgeexit.Bundle, layout: str) -> list[np.ndarray]:  # type: ignore[type-arg]
    engine = edgeexit.load(bundle, artifact=layout, warmup=0)
    found = []
    for k in range(3):
        engine.policy = fixed_exit(k, 3)
        found.append(engine.run(X[0]).output)
    return found


@pytest.mark.parametrize("kind", NAMES)
def test_float_layouts(tmp_path: Path, kind: str) -> None:
    names = NAMES[kind]
    path = tmp_path / "net.onnx"
    onnx.save(network(names), path)
    wanted = onnxruntime.InferenceSession(network({}).SerializeToString()).run(["y0", "y1", "y2"], {"x": X[:1]})
    bundle = edgeexit.export(path, tmp_path / "b")
    assert [a.layout for a in bundle.manifest.artifacts] == ["fused", "chain", "prefix", "all"]
    assert [e.name for e in bundle.manifest.exits] == [names.get(n, n) for n in ("y0", "y1", "y2")]
    for layout in ("fused", "chain", "prefix"):
        for found, want in zip(answers(bundle, layout), wanted, strict=True):
            np.testing.assert_allclose(found, want[0], rtol=1e-4, atol=1e-5)
    inside = {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*") if p.is_file()}
    assert inside == {"net.onnx", "b"}
    assert {p.name for p in (tmp_path / "b").rglob("*.onnx")} == {
        "model.onnx", *(f"stage_{k}.onnx" for k in range(3)), *(f"exit_{k}.onnx" for k in range(3)),
    }  # fmt: skip


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic"])
@pytest.mark.parametrize("kind", ["paths", "the fused contract outside", "ours", "ends that int8 adds", "more of them"])
def test_int8(tmp_path: Path, kind: str, precision: str) -> None:
    names = NAMES[kind]
    bundles = []
    for which in ({}, names):
        folder = tmp_path / str(len(bundles))
        folder.mkdir()
        onnx.save(network(which), folder / "net.onnx")
        data = {which.get("x", "x"): X}
        bundles.append(edgeexit.export(folder / "net.onnx", folder / "b", data=data, precisions=(precision,)))
    plain, odd = bundles
    assert [e.name for e in odd.manifest.exits] == [names.get(n, n) for n in ("y0", "y1", "y2")]
    assert len(odd.manifest.artifacts) == 4
    for layout in ("fused", "chain"):
        for found, want in zip(answers(odd, layout), answers(plain, layout), strict=True):
            np.testing.assert_array_equal(found, want)


def test_inputs_that_are_called_as_the_fused_graph_calls_its_own_keep_the_other_layouts(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(network({"x": "exit_thresholds"}), path)
    said: list[str] = []
    bundle = edgeexit.export(path, tmp_path / "b", progress=said.append)
    assert [a.layout for a in bundle.manifest.artifacts] == ["chain", "prefix", "all"]
    assert any("no onnx-fused-fp32 in the bundle" in line and "rename it" in line for line in said)
    with pytest.raises(ModelError, match="a model input is named 'exit_thresholds'"):
        edgeexit.export(path, tmp_path / "c", layouts=["fused"])


@pytest.mark.parametrize("name", ["a\nb", "n" * 513, "\x1b[31m"])
def test_inputs_and_exits_have_names_that_a_manifest_can_hold(tmp_path: Path, name: str) -> None:
    for which, what in (({"x": name}, "input"), ({"y1": name}, "exit")):
        onnx.save(network(which), tmp_path / "net.onnx")
        with pytest.raises(ModelError, match=rf"net\.onnx: {what} .*1 to 512 printable characters"):
            edgeexit.export(tmp_path / "net.onnx", tmp_path / "b")


def test_a_graph_of_this_toolkit_can_be_read_anew(tmp_path: Path) -> None:
    onnx.save(network({}), tmp_path / "net.onnx")
    first = edgeexit.export(tmp_path / "net.onnx", tmp_path / "a", exits=["y0+y1", "y2"], layouts=["all"])
    whole = first.file(first.manifest.artifacts[0].models[0])
    second = edgeexit.export(whole, tmp_path / "b", exits=["y0+y1", "y2"])
    assert [a.layout for a in second.manifest.artifacts] == ["fused", "chain", "prefix", "all"]
