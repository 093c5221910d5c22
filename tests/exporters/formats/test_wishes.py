"""What is asked for is checked first, rows are divided once, and the report is what the rows say."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
# not importorskip: importing them here would cost every run seconds
if find_spec("litert_torch") is None or find_spec("ai_edge_quantizer") is None:
    pytest.skip("the TFLite export tools are not installed", allow_module_level=True)
import torch
from format_cases import ROWS, exported, network

import edgeexit
from edgeexit import replay
from edgeexit.errors import DataError, ExportMismatch, ModelError
from edgeexit_exporters.refit import Refit, divide_rows, refuse_drop
from edgeexit_exporters.spec import LEAST_ROWS, ExportSpec

DATA = {"x": np.zeros((96, 6), np.float32)}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no format": ({"formats": ()}, "no format asked for; known: onnx, tflite"),
    "another format": ({"formats": ["coreml"]}, "unknown format 'coreml'; known: onnx, tflite"),
    "no precision": ({"precisions": ()}, "no precision asked for; known: fp32, int8"),
    "another precision": ({"precisions": ["int4"]}, "unknown precision 'int4'; known: fp32, int8"),
    "not of ONNX": ({"precisions": ["int16x8"]}, "precision 'int16x8' is not made for onnx; it is for tflite"),
    "another range": ({"ranges": "luck"}, "unknown way to find ranges 'luck'; known: minmax, percentile, mse, entropy"),
    "mse for ONNX": ({"ranges": "mse"}, "ranges 'mse' are for format tflite alone"),
    "entropy for both": ({"ranges": "entropy", "formats": ["onnx", "tflite"]}, "'entropy' are for format onnx alone"),
    "a drop of 1": ({"drop": 1.0}, r"drop is a fraction in \[0, 1\), found 1.0"),
    "a drop of NaN": ({"drop": float("nan")}, "drop is a fraction"),
    "a drop below 0": ({"max_drop": -0.1}, "max_drop is a fraction"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wishes_that_cannot_be(case: str) -> None:
    wish, message = REFUSED[case]
    with pytest.raises(ModelError, match=message):
        ExportSpec(**wish).check_data(DATA)


@pytest.mark.parametrize("wish", [{"precisions": ["int8"]}, {"max_drop": 0.1}], ids=["int8", "max-drop"])
def test_rows_are_asked_for(wish: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=f"needs calibration rows .*at least {3 * LEAST_ROWS}"):
        ExportSpec(**wish).check_data(None)
    ExportSpec(**wish).check_data(DATA)


def test_what_needs_no_rows_asks_for_none() -> None:
    ExportSpec(formats=["onnx", "tflite"], precisions=["fp32", "int8-dynamic", "weight-only"]).check_data(None)


@pytest.mark.parametrize("n", [0, 1, LEAST_ROWS, 3 * LEAST_ROWS - 1])
def test_too_few_rows(n: int) -> None:
    with pytest.raises(DataError, match=f"{n} rows of data: {LEAST_ROWS} are needed .* {3 * LEAST_ROWS} in all"):
        divide_rows(n)


@pytest.mark.parametrize("n", [3 * LEAST_ROWS, 1000, 20_000])
def test_parts_share_no_row(n: int) -> None:
    parts = divide_rows(n)
    every = np.concatenate([parts.ranges, parts.design, parts.held_out])
    assert len(np.unique(every)) == len(every) and every.min() >= 0 and every.max() < n
    assert min(map(len, (parts.ranges, parts.design, parts.held_out))) >= LEAST_ROWS
    np.testing.assert_array_equal(parts.held_out, divide_rows(n).held_out)
    assert not np.array_equal(parts.held_out, divide_rows(n, seed=1).held_out)


def test_the_report_is_what_the_rows_say() -> None:
    """Agreement, rates and cost, computed here from torch and the artifacts alone."""
    case = exported("vectors")
    found, parts = case.reports["onnx"], divide_rows(ROWS)
    held_out = case.data[parts.held_out]
    with torch.no_grad():
        exact = np.stack([a.numpy() for a in network("vectors")(torch.tensor(held_out))])
    assert (found.design, found.held_out, found.measure) == (len(parts.design), len(held_out), "agreement")
    assert found.forms[0].precision == "fp32"
    assert len({(f.format, f.precision) for f in found.forms}) == len(found.forms) == 8
    for form in found.forms:
        bundle = case.bundles[form.format]
        assert form.bytes == bundle.manifest.artifact(form.artifact).bytes
        engine = edgeexit.load(bundle, artifact=form.artifact, warmup=0)
        records = engine.record(held_out)
        agree = (records.outputs.argmax(-1) == exact.argmax(-1)).mean(1)
        assert [e.agreement for e in form.exits] == pytest.approx(agree.tolist())
        assert all(e.accuracy is None for e in form.exits)  # no labels were given
        assert form.point == f"{form.format}-{form.precision}" and form.after is not None
        point = bundle.operating_point(form.point)
        assert point.artifact == form.artifact
        taken = replay(point.policy, records)
        assert list(form.after.rates) == pytest.approx((np.bincount(taken, minlength=3) / len(taken)).tolist())
        cost = np.array([e.macs for e in bundle.manifest.exits], float)
        assert form.after.cost == pytest.approx(float(cost[taken].mean() / cost[-1]), rel=0.02)
        last = records.outputs[-1].argmax(-1)
        answered = records.outputs[taken, np.arange(len(taken))].argmax(-1)
        assert form.after.right == pytest.approx(float((answered == last).mean()))


def test_a_loss_beyond_the_allowed_is_refused() -> None:
    found = exported("vectors").reports["onnx"]
    refuse_drop(found, 0.999)
    worst = _with_agreement(found, "int8", 0.9)
    refuse_drop(worst, 0.11)
    with pytest.raises(
        ExportMismatch, match=r"onnx-fused-int8: exit 'exit0' answers otherwise on 10\.00 points .*9 all"
    ):
        refuse_drop(worst, 0.09)


def test_float_is_not_refused_for_what_it_is() -> None:
    refuse_drop(_with_agreement(exported("vectors").reports["onnx"], "fp32", 0.5), 0.999)


def test_accuracy_counts_where_there_are_labels() -> None:
    found = exported("vectors").reports["onnx"]
    forms = []
    for form in found.forms:
        right = 0.8 if form.precision == "fp32" else 0.78
        forms.append(replace(form, exits=tuple(replace(e, accuracy=right, agreement=0.5) for e in form.exits)))
    labelled = replace(found, forms=tuple(forms))
    refuse_drop(labelled, 0.021)
    with pytest.raises(ExportMismatch, match=r"loses 2\.00 points"):
        refuse_drop(labelled, 0.019)


def _with_agreement(found: Refit, precision: str, share: float) -> Refit:
    forms = (
        replace(f, exits=tuple(replace(e, agreement=share) for e in f.exits)) if f.precision == precision else f
        for f in found.forms
    )
    return replace(found, forms=tuple(forms))
