"""T-RECX's published networks in int8: the same bits in every layout, and each exit within a point of float."""

from __future__ import annotations

import numpy as np
import pytest

import edgeexit
from edgeexit_exporters import exporting
from edgeexit_exporters.analysis.tolerance import BY_PRECISION
from edgeexit_exporters.formats import float_answers
from edgeexit_exporters.int8.quantize import quantize
from edgeexit_exporters.source.torch_source import from_torch
from shared_data import cifar10_test, gsc12_test_features, trecx_weights

CALIBRATION_ROWS = 256
POINT = 0.01
CASES = {"resnet8": (3, [[4, 4]] * 3), "dscnn": (4, [[4, 4], [3, 3], [3, 3], [3, 3]])}


@pytest.fixture(scope="module", params=["resnet8", pytest.param("dscnn", marks=pytest.mark.slow)])
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    from recipes.trecx import load_trecx

    name = request.param
    source = from_torch(load_trecx(trecx_weights(name)))
    x, y = cifar10_test() if name == "resnet8" else gsc12_test_features()
    order = np.random.default_rng(0).permutation(len(x))
    rows, held = order[:CALIBRATION_ROWS], order[CALIBRATION_ROWS:]
    quantised = quantize(source, {"x": x[rows].astype(np.float32)})
    held_x = np.ascontiguousarray(x[held], np.float32)
    out = tmp_path_factory.mktemp(name) / "b.edgeexit"
    bundle = exporting.export_source(quantised, out, data={"x": held_x[:32]})
    return name, source, quantised, bundle, held_x, y[held]


@pytest.mark.slow
def test_each_exit_is_within_a_point_of_float(network) -> None:  # type: ignore[no-untyped-def]
    _, source, quantised, _, x, y = network
    exact, found = (float_answers(s, batched=True)({s.inputs[0].tensor.name: x})[0] for s in (source, quantised))
    for a, b in zip(exact, found, strict=True):
        assert (a.argmax(1) == y).mean() - (b.argmax(1) == y).mean() < POINT
        assert (a.argmax(1) == b.argmax(1)).mean() > 0.95


def test_every_stage_of_every_layout_runs_in_int8_with_the_same_bits(network) -> None:  # type: ignore[no-untyped-def]
    name, _, _, bundle, _, _ = network
    exits, stages = CASES[name]
    counted = bundle.manifest.provenance["int8_kernels"]
    assert counted["onnx-fused-int8"] == counted["onnx-chain-int8"] == stages
    assert all(ran == compute for layout in counted.values() for ran, compute in layout)
    for artifact in bundle.manifest.artifacts:
        assert artifact.check.max_error == (0,) * exits


@pytest.mark.slow
def test_fused_and_chain_leave_at_the_same_exits(network) -> None:  # type: ignore[no-untyped-def]
    _, _, _, bundle, x, y = network
    from edgeexit.calibrate import calibrate

    x, y = x[:400], y[:400]
    fused, chain, prefix = (edgeexit.load(bundle, artifact=a, warmup=0) for a in ("fused", "chain", "prefix"))
    for a, b, c in zip(*(e.driver.all_exits([x[:64]]).outputs for e in (fused, chain, prefix)), strict=True):
        assert np.array_equal(a, b) and np.array_equal(a, c)
    policy = calibrate(fused.record(x, y), budget=0.7).policy
    chain.policy = fused.policy = policy
    taken = [fused.run(row).exit for row in x]
    assert [chain.run(row).exit for row in x] == taken
    assert chain.run_batch(x).exits.tolist() == taken
    assert len(set(taken)) > 1


def test_other_kernels_stay_within_the_recorded_tolerance(network) -> None:  # type: ignore[no-untyped-def]
    """Float kernels between roundings, as a stand-in for another machine's int8 kernels."""
    from edgeexit.engine.inputs import relative_error
    from edgeexit_exporters.onnx import measure, pieces, serialize

    _, source, quantised, _, x, _ = network
    raw = serialize.to_bytes(pieces.all_exits(quantised.model, quantised.tensors), "")
    given = {source.inputs[0].tensor.name: x[:300]}
    ours, other = (measure.run(measure.session(raw, level=level), given) for level in ("ALL", "BASIC"))
    worst = max(relative_error(other[n], ours[n]) for n in quantised.tensors)
    assert 0 < worst <= BY_PRECISION["int8"]
