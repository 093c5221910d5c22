"""int8 ONNX: quantised whole, cut at quantised tensors, int8 kernels in every stage, the same bits in every layout."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_models import CLASSES, Net, random_dag, save

import edgeexit
from edgeexit.bench.verify import verify
from edgeexit.errors import DataError, ModelError
from edgeexit_exporters import exporting
from edgeexit_exporters.analysis.tolerance import BY_PRECISION
from edgeexit_exporters.int8 import kernels
from edgeexit_exporters.int8.quantize import prepared, quantize
from edgeexit_exporters.onnx import graph as onnx_graph
from edgeexit_exporters.onnx import measure, pieces, serialize
from edgeexit_exporters.source.source import Source, from_onnx
from edgeexit_exporters.spec import LEAST_ROWS, ExportSpec

ROWS = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)
CALIBRATION = {"x": ROWS[:40]}


def conv_net(last: str = "Conv", softmax: bool = False) -> onnx.ModelProto:
    """Three stages of convolution, batch norm and Relu, a skip over a cut, an exit at the end of each."""
    net = Net()
    feature, width = "x", 3
    for k in range(3):
        kind = last if k == 2 else "Conv"
        shape = (width, 8, 3, 3) if kind == "ConvTranspose" else (8, width, 3, 3)
        net.op(kind, [feature, net.weight(f"w{k}", *shape, scale=0.3)], f"c{k}", pads=[1, 1, 1, 1])
        for name in ("scale", "bias", "mean"):
            net.weight(f"{name}{k}", 8)
        net.weights[f"var{k}"] = onnx.numpy_helper.from_array(np.full(8, 2, np.float32), f"var{k}")
        net.op("BatchNormalization", [f"c{k}", f"scale{k}", f"bias{k}", f"mean{k}", f"var{k}"], f"n{k}")
        net.op("Relu", [f"n{k}"], f"r{k}")
        feature, width = f"r{k}", 8
        if k == 2:
            feature = net.op("Add", ["r2", "r0"], "sum")
        net.op("GlobalAveragePool", [feature], f"p{k}")
        net.op("Flatten", [f"p{k}"], f"f{k}")
        net.op("MatMul", [f"f{k}", net.weight(f"h{k}", 8, CLASSES, scale=2)], f"m{k}")
        net.op("Add", [f"m{k}", net.weight(f"b{k}", CLASSES)], f"z{k}" if softmax else f"y{k}")
        if softmax:
            net.op("Softmax", [f"z{k}"], f"y{k}", axis=-1)
    for node in net.nodes:
        node.name = f"node_{node.output[0]}"
    return net.model({"x": ["batch", 3, 8, 8]}, {f"y{k}": ["batch", CLASSES] for k in range(3)})


def source_of(model: onnx.ModelProto, folder: Path, exits: list[str] | None = None) -> Source:
    return from_onnx(save(model, folder), exits)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Source]:
    source = source_of(conv_net(), tmp_path_factory.mktemp("net"))
    return source, quantize(source, CALIBRATION)


@pytest.fixture(scope="module")
def bundle(network: tuple[Source, Source], tmp_path_factory: pytest.TempPathFactory) -> edgeexit.Bundle:
    out = tmp_path_factory.mktemp("bundle") / "net.edgeexit"
    return exporting.export_source(network[1], out, data={"x": ROWS[40:]})


def test_every_layout_gives_the_same_bits(bundle: edgeexit.Bundle) -> None:
    artifacts = bundle.manifest.artifacts
    assert [a.name for a in artifacts] == [f"onnx-{w}-int8" for w in ("fused", "chain", "prefix", "all")]
    for artifact in artifacts:
        assert artifact.check is not None
        assert artifact.check.max_error == (0, 0, 0)
        assert artifact.check.tolerance == BY_PRECISION["int8"]
    fused, chain = (edgeexit.load(bundle, artifact=w, warmup=0) for w in ("fused", "chain"))
    both = [e.driver.all_exits([ROWS[40:41]]).outputs for e in (fused, chain)]
    for a, b in zip(*both, strict=True):
        assert np.array_equal(a, b)
    assert all(v.passed for v in verify(bundle) if v.passed is not None)


def test_every_stage_runs_in_int8(bundle: edgeexit.Bundle) -> None:
    counted = bundle.manifest.provenance["int8_kernels"]
    assert counted["onnx-fused-int8"] == counted["onnx-chain-int8"] == [[2, 2]] * 3
    assert counted["onnx-prefix-int8"] == [[2, 2], [3, 3], [4, 4]]
    assert counted["onnx-all-int8"] == [[6, 6]]


def test_cuts_are_quantised_and_costs_are_those_of_the_float_network(
    network: tuple[Source, Source], bundle: edgeexit.Bundle, tmp_path: Path
) -> None:
    source, quantised = network
    manifest = exporting.export_source(source, tmp_path / "f.edgeexit", ExportSpec(layouts=["prefix"])).manifest
    found = bundle.manifest
    assert [e.macs for e in found.exits] == [e.macs for e in manifest.exits]
    assert [s.macs for s in found.stages] == [s.macs for s in manifest.stages]
    assert [4 * s.cut_bytes for s in found.stages] == [s.cut_bytes for s in manifest.stages]
    # of the four numbers that a batch norm and a bias have per channel, one is left, as the bias
    small = [s.parameters for s in found.stages]
    assert small == [8 * 3 * 9 + 8 + 8 * CLASSES + CLASSES, *[8 * 8 * 9 + 8 + 8 * CLASSES + CLASSES] * 2]
    assert [e.answer.dtype for e in found.exits] == ["float32"] * 3
    kinds = {n.op_type for n in quantised.model.graph}
    assert "BatchNormalization" not in kinds and "Relu" not in kinds


def test_cuts_lie_channels_last_so_that_no_stage_turns_them(bundle: edgeexit.Bundle, tmp_path: Path) -> None:
    manifest = bundle.manifest
    chain = next(a for a in manifest.artifacts if a.layout == "chain")
    cuts = {n for s in manifest.stages[1:] for n in s.inputs}
    assert cuts == {"r0_QuantizeLinear_Output_channels_last", "r1_QuantizeLinear_Output_channels_last"}
    for k in (1, 2):
        optimized = tmp_path / f"{k}.onnx"
        session = measure.session(str(bundle.file(chain.models[k])), optimized=str(optimized))
        assert {i.name for i in session.get_inputs()} <= cuts
        assert {(i.type, tuple(i.shape[1:])) for i in session.get_inputs()} == {("tensor(uint8)", (8, 8, 8))}
        nodes = onnx.load(optimized).graph.node
        before = [n.op_type for n in nodes[: [n.op_type for n in nodes].index("QLinearConv")]]
        assert "Transpose" not in before


def test_a_float_cut_is_refused(
    network: tuple[Source, Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "_REPEATED", frozenset())
    with pytest.raises(ModelError, match=r"onnx-fused-int8: stage 1 was left in float.*'node_c1'"):
        exporting.export_source(network[1], tmp_path / "b.edgeexit")
    assert not (tmp_path / "b.edgeexit").exists()


def test_what_has_no_int8_kernel_is_named_and_can_be_kept(tmp_path: Path) -> None:
    source = source_of(conv_net(last="ConvTranspose"), tmp_path)
    with pytest.raises(
        ModelError, match=r"stage 2 was left in float: 1 of 2 .*'node_c2'.*exclude it by that name: --keep-float"
    ):
        exporting.export_source(quantize(source, CALIBRATION), tmp_path / "b.edgeexit")
    kept = quantize(source, CALIBRATION, exclude=["ConvTranspose"])
    found = exporting.export_source(kept, tmp_path / "b.edgeexit", ExportSpec(layouts=["fused", "chain"])).manifest
    assert found.provenance["int8_kernels"]["onnx-fused-int8"] == [[2, 2], [2, 2], [1, 2]]
    assert found.provenance["quantization"]["kept_float"] == ["node_c2"]
    with pytest.raises(ModelError, match=r"no node 'nothing' to exclude; nodes that compute: node_c0"):
        quantize(source, CALIBRATION, exclude=["nothing"])


@pytest.mark.parametrize("softmax", [False, True])
def test_answers_are_not_rounded_to_8_bits(tmp_path: Path, softmax: bool) -> None:
    source = source_of(conv_net(softmax=softmax), tmp_path)
    quantised = quantize(source, CALIBRATION)
    found = quantised.reference({"x": ROWS})
    expected = source.reference({"x": ROWS})
    for name in ("y0", "y1", "y2"):
        assert found[name].dtype == np.float32
        assert len(np.unique(found[name][:, 0])) > 32, "256 steps would make ties"
        assert np.abs(found[name] - expected[name]).max() < 0.06 * np.abs(expected[name]).max()
    kind = "Softmax" if softmax else "Gemm"
    assert all(v.producer().op_type == kind for v in quantised.model.graph.outputs if v.producer() is not None)


def test_heads_that_answer_together_stay_float(tmp_path: Path) -> None:
    source = source_of(conv_net(), tmp_path, ["y0+y1", "y2"])
    quantised = quantize(source, CALIBRATION)
    assert quantised.exits == source.exits
    found = exporting.export_source(quantised, tmp_path / "b.edgeexit", ExportSpec(score="maxprob")).manifest
    assert max(max(a.check.max_error) for a in found.artifacts if a.check is not None) < 1e-6
    for node in quantised.model.graph:
        if (node.name or "").startswith(onnx_graph.JOIN):
            assert not any(v is not None and (p := v.producer()) and "Linear" in p.op_type for v in node.inputs)


def test_an_exit_that_feeds_later_stages_keeps_its_rounding(tmp_path: Path) -> None:
    net = Net()
    net.head("x", 4, "y0")
    net.op("MatMul", ["y0", net.weight("back", CLASSES, 4)], "fed")
    net.head("fed", 4, "y1")
    model = net.model({"x": ["batch", 4]}, {n: ["batch", CLASSES] for n in ("y0", "y1")})
    source = source_of(model, tmp_path)
    quantised = quantize(source, {"x": ROWS.reshape(-1, 4)[:100]})
    found = exporting.export_source(quantised, tmp_path / "b.edgeexit").manifest
    assert found.provenance["int8_kernels"]["onnx-fused-int8"] == [[1, 1], [2, 2]]


def test_dynamic_needs_no_data_and_takes_one_input_at_a_time(network: tuple[Source, Source], tmp_path: Path) -> None:
    quantised = quantize(network[0], precision="int8-dynamic")
    found = exporting.export_source(quantised, tmp_path / "b.edgeexit", data={"x": ROWS[:4]}).manifest
    assert found.artifacts[0].name == "onnx-fused-int8-dynamic"
    assert found.batch == "one" and "neighbours" in found.provenance["batch_note"]
    assert found.provenance["int8_kernels"]["onnx-fused-int8-dynamic"] == [[2, 2]] * 3
    assert {n for s in found.stages for n in s.inputs} == {"x", "r0", "r1"}, "cut where ranges are not yet found"


def test_dynamic_keeps_products_of_activations(tmp_path: Path) -> None:
    net = Net()
    net.op("MatMul", ["x", net.weight("w", 4, 4)], "a")
    net.op("Transpose", ["a"], "t", perm=[0, 2, 1])
    net.op("MatMul", ["a", "t"], "squares")
    net.op("ReduceMean", ["squares"], "f", keepdims=0)
    net.op("MatMul", ["squares", net.weight("h", 5, CLASSES)], "y0")
    model = net.model({"x": ["batch", 5, 4]}, {"y0": ["batch", 5, CLASSES]})
    source = source_of(model, tmp_path, ["y0"])
    found = exporting.export_source(quantize(source, precision="int8-dynamic"), tmp_path / "b.edgeexit").manifest
    assert found.provenance["int8_kernels"]["onnx-chain-int8-dynamic"] == [[2, 3]]


@pytest.mark.parametrize("seed", range(6))
def test_any_graph_gives_the_same_bits_in_every_layout(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed).randint
    source = source_of(random_dag(draw, 9, 3, seed), tmp_path, ["y0", "y1", "y2"])
    quantised = quantize(source, {"x": ROWS.reshape(-1, 4)[:64]})
    found = exporting.export_source(quantised, tmp_path / "b.edgeexit").manifest
    assert all(a.check is not None and max(a.check.max_error) == 0 for a in found.artifacts)


def test_a_product_that_adds_an_activation_is_split(tmp_path: Path) -> None:
    net = Net()
    net.op("MatMul", ["x", net.weight("w", 4, 4)], "m")
    net.op("Add", ["m", "x"], "residual")
    net.head("residual", 4, "y0")
    source = source_of(net.model({"x": ["batch", 4]}, {"y0": ["batch", CLASSES]}), tmp_path, ["y0"])
    assert [n.op_type for n in prepared(source).graph] == ["MatMul", "Add", "MatMul"]
    data = {"x": ROWS.reshape(-1, 4)[:64]}
    found = exporting.export_source(
        quantize(source, data), tmp_path / "b.edgeexit", ExportSpec(layouts=["chain"])
    ).manifest
    assert found.provenance["int8_kernels"]["onnx-chain-int8"] == [[2, 2]]


@pytest.mark.parametrize("method", ["minmax", "entropy"])
def test_methods_find_other_ranges(network: tuple[Source, Source], method: str) -> None:
    source, quantised = network
    other = quantize(source, CALIBRATION, method=method, reduce_range=True)
    assert other.provenance["quantization"]["method"] == method
    expected, found = (s.reference({"x": ROWS})["y2"] for s in (source, other))
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
    assert not np.array_equal(found, quantised.reference({"x": ROWS})["y2"])


def test_same_rows_same_bytes(network: tuple[Source, Source], bundle: edgeexit.Bundle, tmp_path: Path) -> None:
    again = exporting.export_source(quantize(network[0], CALIBRATION), tmp_path / "b.edgeexit", data={"x": ROWS[40:]})
    assert again.manifest.artifacts == bundle.manifest.artifacts, "checksums included"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"image": ROWS}, r"needs 'x'.*it holds image"),
        ({"x": ROWS[:, :2]}, r"shape \(64, 2, 8, 8\); the model takes"),
        ({"x": ROWS.astype(np.float64)}, r"is float64; the model takes float32"),
        ({"x": np.where(ROWS > 2, np.nan, ROWS).astype(np.float32)}, r"holds NaN"),
        ({"x": np.where(ROWS > 2, np.inf, ROWS).astype(np.float32)}, r"holds inf at \[0, 1, 1, 7\]"),
        ({"x": ROWS[: LEAST_ROWS - 1]}, rf"31 rows; at least {LEAST_ROWS} are needed"),
        ({"x": np.ones_like(ROWS)}, r"'x' is 1 everywhere"),
        ({"x": -np.zeros_like(ROWS)}, r"'x' is 0 everywhere"),
        ({"x": np.repeat(ROWS[:1], 64, 0)}, r"all 64 rows are the same"),
    ],
)
def test_bad_calibration_rows_are_refused(network: tuple[Source, Source], data: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(DataError, match=message):
        quantize(network[0], data)


def test_wrong_wishes_are_refused(network: tuple[Source, Source]) -> None:
    source, quantised = network
    with pytest.raises(ModelError, match=r"unknown precision 'int4'; known: int8, int8-dynamic"):
        quantize(source, CALIBRATION, precision="int4")
    with pytest.raises(ModelError, match=r"unknown calibration method 'guess'"):
        quantize(source, CALIBRATION, method="guess")
    with pytest.raises(ModelError, match=r"percentile 5: expected 90 to 100"):
        quantize(source, CALIBRATION, percentile=5)
    with pytest.raises(ModelError, match=r"int8 needs calibration rows"):
        quantize(source)
    with pytest.raises(ModelError, match=r"quantised already \(node "):
        quantize(quantised, CALIBRATION)
    with pytest.raises(ModelError, match=r"nothing to quantise"):
        quantize(source, CALIBRATION, exclude=["Conv", "Gemm"])


def test_half_precision_is_refused(tmp_path: Path) -> None:
    net = Net()
    net.head("x", 4, "y0")
    net.weights["head_y0"] = onnx.numpy_helper.from_array(np.ones((4, CLASSES), np.float16), "head_y0")
    half = onnx.TensorProto.FLOAT16
    model = net.model({"x": ["batch", 4]}, {"y0": ["batch", CLASSES]}, types={"x": half, "y0": half})
    with pytest.raises(ModelError, match=r"starts from a float32 network; weight 'head_y0' is float16"):
        quantize(source_of(model, tmp_path, ["y0"]), {"x": ROWS.reshape(-1, 4).astype(np.float16)})


def test_float_files_count_no_int8_kernels(network: tuple[Source, Source]) -> None:
    source = network[0]
    files = {"model.onnx": serialize.to_bytes(pieces.all_exits(source.model, source.tensors), "")}
    (found,) = kernels.count_kernels("all", files)
    assert (found.quantized, found.compute) == (0, 6)
    assert "node_c2" in found.floating


def test_what_a_logarithm_is_taken_of_stays_float_unless_it_ends_an_answer(tmp_path: Path) -> None:
    net = Net()
    net.op("MatMul", ["x", net.weight("bands", 12, 10)], "spectrum")
    net.op("Mul", ["spectrum", "spectrum"], "power")
    net.op("Log", ["power"], "features")
    for k, feature in enumerate(("features", "h0")):
        net.op("MatMul", [feature, net.weight(f"w{k}", 10, 10)], f"m{k}")
        net.op("Relu", [f"m{k}"], f"h{k}")
        net.op("MatMul", [f"h{k}", net.weight(f"v{k}", 10, CLASSES)], f"z{k}")
        net.op("Softmax", [f"z{k}"], f"p{k}", axis=-1)
        net.op("Log", [f"p{k}"], f"y{k}")
    for node in net.nodes:
        node.name = f"node_{node.output[0]}"
    model = net.model({"x": ["batch", 12]}, {f"y{k}": ["batch", CLASSES] for k in range(2)})
    found = quantize(source_of(model, tmp_path, ["y0", "y1"]), precision="int8-dynamic")
    assert found.quantized is not None
    assert [n.removeprefix("node_") for n in found.quantized.kept] == ["spectrum"]
    kinds = [n.op_type for n in found.model.graph]
    assert kinds.count("MatMulInteger") == 4
    assert kinds.count("MatMul") == 1
