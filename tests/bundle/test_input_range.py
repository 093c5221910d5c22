"""Ranges of inputs: what is stored of calibration rows, and what then counts as unusual."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

import edgeexit
from edgeexit.bundle.input_range import InputRange, UnusualInput, measure
from edgeexit.calibrate.on_bundle import calibrate_artifact
from edgeexit.errors import BundleError

INK = InputRange(0.0, 16.0, 14.0, 3.0, 7.0, 5.0, 6.0, 1000)


def row(low: float, high: float, mean: float) -> np.ndarray:
    """64 numbers of these two and one more, of that mean."""
    x = np.full((1, 1, 8, 8), mean, np.float32)
    x.flat[0], x.flat[1] = low, high
    x.flat[2] += 2 * mean - low - high
    return x


@pytest.mark.parametrize(
    ("values", "unusual"),
    [
        ((0, 16, 5), None),
        ((-15, 31, 5), None),  # beyond the range by less than its width
        ((0, 255, 128), "its numbers are from 0 to 255; on 1000 calibration rows they are from 0 to 16"),
        ((-17, 16, 5), "its numbers are from -17"),
        ((0, 1, 0.5), "at least 14 above the smallest"),
        ((0, 16, 11), r"its mean is 11; .* 3 to 7 \(dark and light inverted\?\)"),
        ((0, 16, 0.5), r"its mean is 0.5; .* 3 to 7$"),
        ((0, np.inf, 5), "from 0 to inf"),
        ((-np.inf, np.inf, 5), "from -inf to inf"),
    ],
)
def test_unusual(values: tuple[float, float, float], unusual: str | None) -> None:
    x = row(*values) if np.isfinite(values).all() else np.array([*values], np.float32)
    found = INK.unusual(x)
    if unusual is None:
        assert found is None
    else:
        assert found is not None and re.search(unusual, found), found


def test_few_rows_say_nothing() -> None:
    assert dataclasses.replace(INK, rows=29).unusual(row(0, 255, 80)) is None


def test_rows_like_those_measured_are_usual() -> None:
    rng = np.random.default_rng(0)
    for make in (
        lambda n: rng.standard_normal((n, 40)),
        lambda n: rng.random((n, 3, 8, 8)) * rng.random((n, 1, 1, 1)),  # dark and bright pictures
        lambda n: np.ones((n, 7)),  # a mask that never masked
        lambda n: np.zeros((n, 4)),
        lambda n: (r := rng.standard_normal((n, 99))) - r.mean(1, keepdims=True),  # means are rounding
    ):
        known = measure(make(300).astype(np.float32))
        assert known is not None
        strange = [why for x in make(2000).astype(np.float32) if (why := known.unusual(x)) is not None]
        assert len(strange) <= 2, strange  # one in ten times the calibration rows, where the dimmest has no floor


def test_measured_numbers() -> None:
    x = np.array([[0, 2, 4], [1, 1, 10]], np.float32)
    assert measure(x) == InputRange(0, 10, 4, 2, 4, 3, pytest.approx(float(x.std())), 2)
    assert measure(x.astype(np.int64)) is None and measure(x[:0]) is None and measure(np.array([[np.inf]])) is None


def test_calibration_stores_ranges_and_runs_name_what_is_outside(copy: Path) -> None:
    pytest.importorskip("onnxruntime")
    x = np.random.default_rng(3).standard_normal((400, 4)).astype(np.float32)
    engine = edgeexit.load(copy, warmup=0)
    assert engine.run(x[0] * 1000).unusual is None and engine.run_batch(x).unusual is None  # nothing is known yet
    calibrate_artifact(engine, {"x": x}, None, data={}, accuracy=0.9, name="p")
    opened = edgeexit.Bundle.open(copy)
    known = opened.manifest.ranges["x"]
    assert known == measure(x) and known.rows == 400
    engine = edgeexit.load(copy, policy="p", warmup=0)
    assert all(engine.run(r).unusual is None for r in x[:50])
    with pytest.warns(UnusualInput, match=r"input 'x' is far outside .* from 0 to 1000"):
        found = engine.run(np.array([0, 0, 1000, 0], np.float32))
    assert found.unusual is not None and "400 calibration rows" in found.unusual
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert engine.run(np.array([0, 0, 1000, 0], np.float32)).unusual is not None
        many = engine.run_batch(np.stack([x[0], x[1] * 1000]))
    assert many.unusual is not None and many.unusual.tolist() == [False, True]


def test_class_names(copy: Path) -> None:
    pytest.importorskip("onnxruntime")
    engine = edgeexit.load(copy, warmup=0)
    x = np.random.default_rng(3).standard_normal((20, 4)).astype(np.float32)
    found = [engine.run(r) for r in x]
    assert [d.name for d in found] == ["abc"[d.label] for d in found] and type(found[0].name) is str
    many = engine.run_batch(x)
    assert many.names is not None and many.names.tolist() == ["abc"[k] for k in many.labels]
    path = copy / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "labels": None}))
    engine = edgeexit.load(copy, warmup=0)
    assert engine.run(x[0]).name is None and engine.run_batch(x).names is None


def test_round_trip_and_hostile_fields() -> None:
    assert InputRange.from_dict(json.loads(json.dumps(INK.to_dict()))) == INK
    for change in (
        {"low": 17},
        {"rows": 0},
        {"std": -1},
        {"mean": None},
        {"high": True},
        {"span": 10**400},
        {"rows": 1.5},
    ):
        with pytest.raises(BundleError, match=r"^m[.:]"):
            InputRange.from_dict({**INK.to_dict(), **change}, "m")
