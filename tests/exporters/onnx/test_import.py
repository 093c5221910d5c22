"""Multi-output ONNX files of all sorts become bundles without torch; what cannot is refused in words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import CLASSES, Net, save

import edgeexit
from edgeexit import ExportMismatch, ModelError, fixed_exit
from edgeexit.bundle.bundle import BundleError


def two_exits(net: Net | None = None, feature: str = "f0") -> Net:
    net = net or Net()
    net.op("MatMul", ["x", net.weight("w0", 4, 4)], "a0")
    net.op("Relu", ["a0"], feature)
    net.head(feature, 4, "y0")
    net.op("MatMul", [feature, net.weight("w1", 4, 4)], "a1")
    net.op("Relu", ["a1"], "f1")
    net.head("f1", 4, "y1")
    return net


SHAPES = {"y0": ["batch", CLASSES], "y1": ["batch", CLASSES]}


def check(path: Path, bundle: edgeexit.Bundle, inputs: dict[str, np.ndarray], names: list[str]) -> None:  # type: ignore[type-arg]
    """Every runnable layout, forced to every exit, answers like the source file."""
    expected = onnxruntime.InferenceSession(str(path)).run(names, inputs)
    for artifact in bundle.manifest.artifacts:
        if artifact.layout == "all":
            continue
        engine = edgeexit.load(bundle, artifact=artifact.name, warmup=0)
        for k, want in enumerate(expected):
            engine.policy = fixed_exit(k, len(names), artifact.score or "maxprob")
            found = engine.run(inputs)
            assert found.exit == k
            np.testing.assert_allclose(found.output, want[0], rtol=1e-3, atol=1e-5)


def row(*shape: int, seed: int = 0) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(seed).standard_normal((1, *shape)).astype(np.float32)


def test_exits_may_be_inner_tensors_and_outputs_may_be_left_out(tmp_path: Path) -> None:
    net = two_exits()
    net.op("Tanh", ["y1"], "squashed")
    outputs = {"y0": ["batch", CLASSES], "squashed": ["batch", CLASSES]}
    path = save(net.model({"x": ["batch", 4]}, outputs), tmp_path)
    bundle = edgeexit.export(path, tmp_path / "b", exits=["y0", "y1"])
    reference = save(two_exits().model({"x": ["batch", 4]}, SHAPES), tmp_path, "reference.onnx")
    check(reference, bundle, {"x": row(4)}, ["y0", "y1"])


def test_a_free_time_axis_stays_free_in_every_layout(tmp_path: Path) -> None:
    net = Net()
    net.op("MatMul", ["x", net.weight("w", 4, 4)], "f0")
    net.head("f0", 4, "y0")  # (batch, time, classes)
    net.op("Shape", ["f0"], "shape")
    net.op("Reshape", ["f0", net.ints("flat", 0, -1)], "r0")
    net.op("Reshape", ["r0", "shape"], "f1")
    net.op("Tanh", ["f1"], "t1")
    net.head("t1", 4, "y1")
    shapes = {n: ["batch", "time", CLASSES] for n in ("y0", "y1")}
    path = save(net.model({"x": ["batch", "time", 4]}, shapes), tmp_path)
    bundle = edgeexit.export(path, tmp_path / "b", inputs=["x:float32[batch,time=7,4]"])
    assert bundle.manifest.exits[0].outputs[0].shape == ("batch", "time", CLASSES)
    for length in (1, 7, 30):
        check(path, bundle, {"x": row(length, 4)}, ["y0", "y1"])


def test_several_inputs_one_read_late(tmp_path: Path) -> None:
    net = two_exits()
    net.nodes.pop()
    net.op("Concat", ["f1", "z"], "both", axis=1)
    net.op("MatMul", ["both", net.weight("wide", 6, CLASSES)], "y1")
    path = save(net.model({"x": ["batch", 4], "z": ["batch", 2]}, SHAPES), tmp_path)
    bundle = edgeexit.export(path, tmp_path / "b")
    assert bundle.manifest.stages[0].inputs == ("x",)
    check(path, bundle, {"x": row(4), "z": row(2, seed=1)}, ["y0", "y1"])
    batch = edgeexit.load(bundle, artifact="chain", policy=edgeexit.Threshold((0.5,)), warmup=0).run_batch(
        {"x": np.repeat(row(4), 5, 0), "z": np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)}
    )
    assert len(batch) == 5


def test_a_node_with_subgraphs_reads_across_a_cut(tmp_path: Path) -> None:
    net = two_exits()
    net.nodes.pop()
    inner = numpy_helper.from_array(np.float32(2), "two")
    then = helper.make_graph(
        [helper.make_node("Mul", ["f0", "two"], ["then_y"])],  # f0 is captured from the outer graph, stage 0
        "then",
        [],
        [helper.make_tensor_value_info("then_y", TensorProto.FLOAT, None)],
        [inner],
    )
    other = helper.make_graph(
        [helper.make_node("Add", ["f1", "w_outer"], ["else_y"])],
        "else",
        [],
        [helper.make_tensor_value_info("else_y", TensorProto.FLOAT, None)],
    )
    net.weight("w_outer", 4)
    net.op("ReduceSum", ["f1", net.ints("axes", 0, 1)], "total", keepdims=0)
    net.weights["zero"] = numpy_helper.from_array(np.float32(0), "zero")
    net.op("Greater", ["total", "zero"], "positive")
    net.op("If", ["positive"], "chosen", then_branch=then, else_branch=other)
    net.head("chosen", 4, "y1")
    path = save(net.model({"x": [1, 4]}, {n: [1, CLASSES] for n in SHAPES}), tmp_path)
    bundle = edgeexit.export(path, tmp_path / "b")
    assert bundle.manifest.batch == "one"
    assert "f0" in bundle.manifest.stages[1].inputs
    for seed in range(6):
        check(path, bundle, {"x": row(4, seed=seed)}, ["y0", "y1"])


def test_inputs_that_a_batch_mixes_are_taken_one_by_one_and_it_is_said(tmp_path: Path) -> None:
    net = two_exits()
    net.nodes.pop()
    net.op("ReduceMean", ["f1", net.ints("first", 0)], "mean", keepdims=1)  # over the batch
    net.op("Add", ["f1", "mean"], "mixed")
    net.head("mixed", 4, "y1")
    bundle = edgeexit.export(save(net.model({"x": ["batch", 4]}, SHAPES), tmp_path), tmp_path / "b")
    assert bundle.manifest.batch == "one"
    assert "mixes the inputs of a batch" in bundle.manifest.provenance["batch_note"]


def test_a_weight_of_two_stages_is_stored_once_per_layout(tmp_path: Path) -> None:
    net = Net()
    shared = net.weight("shared", 32, 32)
    net.op("MatMul", ["x", shared], "f0")
    net.head("f0", 32, "y0")
    net.op("MatMul", ["f0", shared], "f1")
    net.head("f1", 32, "y1")
    path = save(net.model({"x": ["batch", 32]}, SHAPES), tmp_path)
    bundle = edgeexit.export(path, tmp_path / "b")
    for layout in ("fused", "chain"):
        artifact = next(a for a in bundle.manifest.artifacts if a.layout == layout)
        raw = b"".join(bundle.file(f).read_bytes() for f in (*artifact.models, *artifact.data))
        weight = onnx.load(path).graph.initializer[0]
        assert raw.count(numpy_helper.to_array(weight).tobytes()) == 1, layout
    assert [f.path.rsplit("/", 1)[1] for f in bundle.manifest.artifact("onnx-chain-fp32").data] == ["weights.bin"]
    check(path, bundle, {"x": row(32)}, ["y0", "y1"])


def test_weights_lie_in_the_branch_that_uses_them(tmp_path: Path) -> None:
    bundle = edgeexit.export(save(two_exits().model({"x": ["batch", 4]}, SHAPES), tmp_path), tmp_path / "b")
    graph = onnx.load(bundle.file(bundle.manifest.artifact("onnx-fused-fp32").models[0])).graph
    branch = next(a.g for n in graph.node if n.op_type == "If" for a in n.attribute if a.name == "else_branch")
    assert {"w1", "head_y1"} <= {i.name for i in branch.initializer}
    assert not {"w1", "head_y1"} & {i.name for i in graph.initializer}


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
@pytest.mark.parametrize("score", ["maxprob", "entropy", "margin"])
def test_opsets_and_scores(tmp_path: Path, opset: int, score: str) -> None:
    model = two_exits().model({"x": ["batch", 4]}, SHAPES, opset=opset)
    path = save(model, tmp_path)
    bundle = edgeexit.export(path, tmp_path / "b", score=score)
    check(path, bundle, {"x": row(4)}, ["y0", "y1"])
    chain, fused = (edgeexit.load(bundle, artifact=a, warmup=0) for a in ("chain", "fused"))
    x = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    ours, graph = chain.record(x).scores(score), fused.record(x).scores(score)
    np.testing.assert_allclose(ours, graph, atol=1e-6)


def test_exits_that_end_in_softmax_are_probabilities(tmp_path: Path) -> None:
    net = two_exits()
    for k in range(2):
        net.op("Softmax", [f"y{k}"], f"p{k}", axis=-1)
    path = save(net.model({"x": ["batch", 4]}, {f"p{k}": ["batch", CLASSES] for k in range(2)}), tmp_path)
    bundle = edgeexit.export(path, tmp_path / "b")
    assert [e.kind for e in bundle.manifest.exits] == ["probs", "probs"]
    check(path, bundle, {"x": row(4)}, ["p0", "p1"])
    x = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    chain, fused = (edgeexit.load(bundle, artifact=a, warmup=0).record(x) for a in ("chain", "fused"))
    np.testing.assert_allclose(chain.scores("maxprob"), fused.scores("maxprob"), atol=1e-6)
    np.testing.assert_allclose(chain.scores("maxprob"), chain.outputs.max(-1), atol=1e-6)


def test_half_precision_exits(tmp_path: Path) -> None:
    net = two_exits()
    for name, tensor in list(net.weights.items()):
        net.weights[name] = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), name)
    kinds = dict.fromkeys(("x", "y0", "y1"), TensorProto.FLOAT16)
    path = save(net.model({"x": ["batch", 4]}, SHAPES, types=kinds), tmp_path)
    bundle = edgeexit.export(path, tmp_path / "b")
    assert bundle.manifest.artifacts[0].precision == "fp16"
    check(path, bundle, {"x": row(4).astype(np.float16)}, ["y0", "y1"])


def test_names_of_the_fused_contract_may_be_taken_inside(tmp_path: Path) -> None:
    net = Net()
    net.op("MatMul", ["x", net.weight("w0", 4, 4)], "output")
    net.head("output", 4, "exit_score")
    net.op("Tanh", ["output"], "exit_index")
    net.head("exit_index", 4, "y1")
    path = save(net.model({"x": ["batch", 4]}, {n: ["batch", CLASSES] for n in ("exit_score", "y1")}), tmp_path)
    check(path, edgeexit.export(path, tmp_path / "b"), {"x": row(4)}, ["exit_score", "y1"])


def test_local_functions_and_weights_listed_as_inputs(tmp_path: Path) -> None:
    net = two_exits()
    net.nodes[1] = helper.make_node("Twice", ["a0"], ["f0"], domain="mine")
    model = net_model_with_function(net)
    model.graph.input.append(helper.make_tensor_value_info("w1", TensorProto.FLOAT, [4, 4]))
    path = save(model, tmp_path)
    bundle = edgeexit.export(path, tmp_path / "b")
    assert [i.name for i in bundle.manifest.inputs] == ["x"]
    check(path, bundle, {"x": row(4)}, ["y0", "y1"])


def net_model_with_function(net: Net) -> onnx.ModelProto:
    double = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    graph = helper.make_graph(
        net.nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in SHAPES.items()],
        list(net.weights.values()),
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=[double])


def test_external_weights_beside_the_model(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    model = two_exits().model({"x": ["batch", 4]}, SHAPES)
    onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
    check(path, edgeexit.export(path, tmp_path / "b"), {"x": row(4)}, ["y0", "y1"])


def external(path: Path, location: str) -> Path:
    model = two_exits().model({"x": ["batch", 4]}, SHAPES)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "64")):
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


def test_external_weights_elsewhere_missing_or_too_large_are_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "secret").write_bytes(b"s" * 64)
    with pytest.raises(ModelError, match="outside the model's folder"):
        edgeexit.export(external(home / "a.onnx", "../secret"), tmp_path / "b")
    with pytest.raises(ModelError, match="missing beside it"):
        edgeexit.export(external(home / "b.onnx", "none.data"), tmp_path / "b")
    with (home / "huge.data").open("wb") as stream:
        stream.truncate(2 << 30)  # a hole, not two gigabytes on disk
    with pytest.raises(ModelError, match="2 GiB or more"):
        edgeexit.export(external(home / "c.onnx", "huge.data"), tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("raw", [b"", b"not onnx at all", b"\x08\x09" * 40, b"{}"])
def test_files_that_are_no_onnx(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(raw)
    with pytest.raises(ModelError, match=r"x\.onnx: not an? (valid )?ONNX"):
        edgeexit.export(path, tmp_path / "b")


def test_a_truncated_file(tmp_path: Path) -> None:
    raw = two_exits().model({"x": ["batch", 4]}, SHAPES).SerializeToString()
    for cut in range(10, len(raw), 37):
        (tmp_path / "t.onnx").write_bytes(raw[:cut])
        with pytest.raises(ModelError, match=r"t\.onnx"):
            edgeexit.export(tmp_path / "t.onnx", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_words_of_refusals(tmp_path: Path) -> None:
    path = save(two_exits().model({"x": ["batch", 4]}, SHAPES), tmp_path)

    def refused(words: str, source: Path | str = path, **options: object) -> None:
        with pytest.raises(ModelError, match=words):
            edgeexit.export(source, tmp_path / "b", **options)  # type: ignore[arg-type]
        assert not (tmp_path / "b").exists()

    refused("no such file", tmp_path / "none.onnx")
    refused("is not a tensor of the graph", exits=["y0", "y7"])
    refused("shallow to deep, e.g. --exits f0,f1", exits=["f1", "f0"])
    single = onnx.load(path)
    del single.graph.output[1]
    refused("one exit only", save(single, tmp_path, "single.onnx"))
    refused("unknown layout", layouts=["fussed"])
    refused("unknown score", score="luck")
    refused("labels for 3 classes", labels=["a"])
    refused("brings its own weights", weights=path)
    refused("expected NAME:DTYPE", inputs=["x float"])
    fixed = save(two_exits().model({"x": [5, 4]}, {n: [5, CLASSES] for n in SHAPES}), tmp_path, "five.onnx")
    refused("its first axis must count inputs", fixed)
    integer = Net()
    integer.op("ArgMax", ["x"], "y0", axis=1)
    integer.op("ArgMin", ["x"], "y1", axis=1)
    kinds = dict.fromkeys(("y0", "y1"), TensorProto.INT64)
    odd = save(integer.model({"x": ["batch", 4]}, {n: ["batch", 1] for n in kinds}, types=kinds), tmp_path, "int.onnx")
    refused("at least 2 classes|classes >= 2", odd)


def test_an_existing_bundle_is_kept(tmp_path: Path) -> None:
    path = save(two_exits().model({"x": ["batch", 4]}, SHAPES), tmp_path)
    edgeexit.export(path, tmp_path / "b", layouts=["chain"])
    with pytest.raises(BundleError, match="exists already"):
        edgeexit.export(path, tmp_path / "b")
    assert [a.layout for a in edgeexit.Bundle.open(tmp_path / "b").manifest.artifacts] == ["chain"]
    edgeexit.export(path, tmp_path / "b", overwrite=True)
    assert len(edgeexit.Bundle.open(tmp_path / "b").manifest.artifacts) == 4


def test_a_difference_refuses_a_layout_that_was_asked_for_and_leaves_out_one_of_the_default_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A converter bug is simulated where it would arise: in a stage's file."""
    from edgeexit_exporters.layouts import build
    from edgeexit_exporters.onnx import serialize

    genuine = serialize.to_bytes

    def wrong(model, what):  # type: ignore[no-untyped-def]
        raw = genuine(model, what)
        if what != "chain/stage_1.onnx":
            return raw
        proto = onnx.load_from_string(raw)
        weight = next(i for i in proto.graph.initializer if i.name == "head_y1")
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
        return proto.SerializeToString()

    monkeypatch.setattr(build, "to_bytes", wrong)
    path = save(two_exits().model({"x": ["batch", 4]}, SHAPES), tmp_path)
    with pytest.raises(ExportMismatch, match=r"onnx-chain-fp32: exit 'y1' \(tensor 'y1'\).*error 1\.\d+e-02"):
        edgeexit.export(path, tmp_path / "b", layouts=["fused", "chain"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx"]
    said: list[str] = []
    bundle = edgeexit.export(path, tmp_path / "b", progress=said.append)
    assert [a.layout for a in bundle.manifest.artifacts] == ["fused", "prefix", "all"]
    (note,) = [line for line in said if line.startswith("warning")]
    start = "warning: no onnx-chain-fp32 in the bundle, the other layouts are: "
    assert note.startswith(f"{start}onnx-chain-fp32: exit 'y1'") and "no bundle was written" not in note
    assert bundle.manifest.provenance["left_out"] == {"onnx-chain-fp32": note.removeprefix(start)}
    check(path, bundle, {"x": row(4)}, ["y0", "y1"])


def test_a_bundle_without_a_layout_that_stops_early_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeexit_exporters.layouts import build
    from edgeexit_exporters.onnx import serialize

    genuine = serialize.to_bytes

    def fails(model, what):  # type: ignore[no-untyped-def]
        if what.startswith(("chain", "fused")):
            raise ModelError(f"{what} does not fit")
        return genuine(model, what)

    monkeypatch.setattr(build, "to_bytes", fails)
    with pytest.raises(ModelError, match=r"fused/model.onnx does not fit"):
        edgeexit.export(save(two_exits().model({"x": ["batch", 4]}, SHAPES), tmp_path), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    path = save(two_exits().model({"x": ["batch", 4]}, SHAPES), tmp_path)

    def stop(step: str) -> None:
        if step == "writing the bundle":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edgeexit.export(path, tmp_path / "b", progress=stop)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx"]


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    path = save(two_exits().model({"x": ["batch", 4]}, SHAPES), tmp_path)
    first, second = (edgeexit.export(path, tmp_path / n, name="same") for n in ("a", "b"))
    assert first.manifest == second.manifest


def test_no_torch_is_needed(tmp_path: Path) -> None:
    path = save(two_exits().model({"x": ["batch", 4]}, SHAPES), tmp_path)
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import edgeexit\n"
        f"edgeexit.export({str(path)!r}, {str(tmp_path / 'b')!r})\n"
        "assert 'onnxscript' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert (tmp_path / "b" / "manifest.json").is_file()
