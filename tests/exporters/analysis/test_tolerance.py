"""Tolerances follow the network's own rounding, and errors the scale of all compared inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx_models import CLASSES, Net, save
from rounding_nets import Encoder

import edgeexit
from edgeexit.bench.verify import verify
from edgeexit.bundle.manifest import ExitSpec, TensorSpec
from edgeexit.errors import ExportMismatch, ModelError
from edgeexit_exporters.analysis.analysis import analyse
from edgeexit_exporters.analysis.answers import SourceAnswer
from edgeexit_exporters.analysis.tolerance import EXACT, MARGIN, MOST, Tolerance, relative_errors, tolerance_for
from edgeexit_exporters.exporting import export_source, open_source
from edgeexit_exporters.layouts.check import ArtifactComparison
from edgeexit_exporters.source.inputs import make_inputs
from edgeexit_exporters.source.torch_source import from_torch
from edgeexit_exporters.spec import ExportSpec


def as_onnx(net: torch.nn.Module, folder: Path) -> Path:
    """The network as torch's exporter writes it."""
    path = folder / "net.onnx"
    onnx.save(ir.to_proto(from_torch(net).model), path)
    return path


@pytest.mark.slow
def test_rounding_is_measured_on_the_network_itself(tmp_path: Path) -> None:
    """More gain, more rounding: the same network is summed in another order at other optimisation levels."""
    found = []
    for gain in (0.0, 1000.0):
        source = open_source(
            as_onnx(Encoder(gain, exits=True).eval(), tmp_path), ExportSpec(exits=["exit0", "exit1", "exit2"])
        )
        found.append(analyse(source, name="a").rounding)
    calm, wild = found
    assert len(calm) == len(wild) == 3 and max(calm) < EXACT
    assert min(wild) > 1e-5 and max(wild) < 1e-2


def test_a_tolerance_is_a_floor_a_margin_and_a_ceiling() -> None:
    small = tolerance_for("fp32", (1e-8, 1e-8))
    assert (small.stated, small.here, small.exact(0)) == (1e-4, 1e-4, EXACT)
    own = tolerance_for("fp32", (1e-6, 2e-4))
    assert own.exact(0) == pytest.approx(MARGIN * 1e-6) and own.stated == own.here == pytest.approx(MARGIN * 2e-4)
    assert own.exact(1) == own.here
    assert tolerance_for("fp32", (0.5,)).here == MOST["fp32"]
    assert tolerance_for("int8", ()).here == 1e-4 and tolerance_for("int8", (0.5,)).stated == 3e-2
    asked = tolerance_for("fp32", (1e-3,), 1e-5)
    assert asked.stated == asked.here == asked.exact(0) == 1e-5
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ModelError, match="expected a number above 0"):
            tolerance_for("fp32", asked=wrong)


def test_a_network_that_rounds_much_is_exported_and_the_bundle_says_so(tmp_path: Path) -> None:
    path = as_onnx(Encoder(3000.0, exits=True).eval(), tmp_path)
    with pytest.raises(ExportMismatch, match=r"tolerance 1e-06 of the largest output"):
        edgeexit.export(path, tmp_path / "no", tolerance=1e-6, layouts=("fused", "chain"))
    bundle = edgeexit.export(path, tmp_path / "b")
    checks = [a.check for a in bundle.manifest.artifacts if a.check is not None]
    assert len(checks) == 4 and {c.tolerance for c in checks} == {max(c.tolerance for c in checks)}
    assert 1e-4 < checks[0].tolerance <= MOST["fp32"]
    assert max(max(c.max_error) for c in checks) > 1e-5
    assert all(v.passed for v in verify(bundle))


@pytest.mark.slow
def test_one_input_of_tiny_outputs_refuses_nothing(tmp_path: Path) -> None:
    """Its error is that of the others, whatever fraction of its own outputs that is."""
    net = Encoder(100.0, exits=True).eval()
    inputs = make_inputs(from_torch(net).inputs, 1, seed=0)
    with torch.no_grad():
        answers = net(*(torch.from_numpy(a) for a in inputs.values()))
        net.shift.copy_(0.999 * torch.cat(answers))
        tiny = [float(a.abs().max()) for a in net(*(torch.from_numpy(a) for a in inputs.values()))]
    assert max(tiny) < 2e-3
    bundle = edgeexit.export(net, tmp_path / "b")
    errors = [max(a.check.max_error) for a in bundle.manifest.artifacts if a.check is not None]
    # As a fraction of the tiny outputs, it would be more than was ever allowed.
    assert max(errors) < 1e-4 < max(errors) * 0.5 / max(tiny)


def comparison(*expected: list[float], found: list[list[float]], tolerance: float = 1e-4) -> ArtifactComparison:
    """Of one exit, over inputs of one row each."""
    spec = ExitSpec("y", (TensorSpec("y", "float32", ("batch", 2)),), "logits", None, None)
    result = ArtifactComparison("artifact", (spec,), Tolerance(tolerance, tolerance))
    for want, got in zip(expected, found, strict=True):
        answer = SourceAnswer({"x": np.zeros((1, 2), np.float32)}, {"y": np.array([want], np.float32)}, 1)
        result.add(0, {"y": np.array([got], np.float32)}, answer)
    return result


def test_the_scale_is_that_of_all_inputs_and_a_huge_one_hides_nothing() -> None:
    assert relative_errors([(1e-5, 1.0), (1e-5, 0.0), (1e-5, 1.0)]) == pytest.approx([1e-5] * 3)
    fine = comparison([1, 2], [0.01, -0.012], [3, 1], found=[[1, 2], [0.01, -0.0120033], [3, 1]])
    fine.check()
    assert fine.errors == (pytest.approx(3.3e-6 / 2, rel=1e-3),) and fine.inputs == 3
    hidden = comparison([1, 2], [1, 1], [1e6, 1], found=[[1, 2.1], [1, 1], [1e6, 1]])
    with pytest.raises(ExportMismatch, match=r"artifact: exit 'y' .* error 5\.00e-02, tolerance 1e-04 of the largest"):
        hidden.check()
    comparison([0, 0], [0, 0], found=[[0, 0], [0, 0]]).check()


@pytest.mark.parametrize("got", [[float("nan"), 1], [float("inf"), 1]])
def test_what_is_no_number_never_passes(got: list[float]) -> None:
    with pytest.raises(ExportMismatch, match="error inf"):
        comparison([1, 1], [1, 1], found=[[1, 1], got]).check()


def test_another_shape_never_passes() -> None:
    with pytest.raises(ExportMismatch, match=r"shape \(1, 3\) instead of \(1, 2\)"):
        comparison([1, 1], found=[[1, 1, 1]]).check()


@pytest.mark.slow
def test_a_wrong_graph_is_refused_however_it_rounds(tmp_path: Path) -> None:
    """An export that answers otherwise is no rounding: torch and onnxruntime are not compared to measure that."""
    net = Encoder(100.0, exits=True).eval()
    source = from_torch(net)
    with torch.no_grad():
        net.shift[1] += 0.003  # the module changes after its graph was made
    with pytest.raises(ExportMismatch, match=r"exit 'exit1' .*the source model itself moves by .*see --tolerance"):
        export_source(source, tmp_path / "b")


def test_a_small_network_keeps_the_tolerance_it_had(tmp_path: Path) -> None:
    net = Net()
    net.op("MatMul", ["x", net.weight("w0", 4, 4)], "f0")
    net.head("f0", 4, "y0")
    net.op("Relu", ["f0"], "f1")
    net.head("f1", 4, "y1")
    path = save(net.model({"x": ["batch", 4]}, {n: ["batch", CLASSES] for n in ("y0", "y1")}), tmp_path)
    bundle = edgeexit.export(path, tmp_path / "b")
    assert {a.check.tolerance for a in bundle.manifest.artifacts if a.check is not None} == {1e-4}
