"""Arrays on their way into a model file and out: other axes, quantized numbers; and the manifest's words for it."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.bundle.codec import from_json, to_json
from edgeexit.bundle.manifest import Manifest, Port
from edgeexit.engine.layouts.ports import Ported, into, out_of
from edgeexit.errors import BundleError

NHWC = (0, 2, 3, 1)
X = np.random.default_rng(0).standard_normal((2, 3, 5, 4)).astype(np.float32)


def test_axes_go_as_the_order_says_and_come_back() -> None:
    port = Port("image", "float32", NHWC)
    file = into(port)(X)
    assert file.shape == (2, 5, 4, 3) and file.flags.c_contiguous
    assert all(file[n, h, w, c] == X[n, c, h, w] for n, c, h, w in np.ndindex(*X.shape))
    back = out_of(port, "float32")(file)
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, X)


@pytest.mark.parametrize("order", [(0, 3, 1, 2), (0, 2, 3, 1), (0, 1, 3, 2), (0, 3, 2, 1), (0, 1, 2, 3)])
def test_any_order_comes_back(order: tuple[int, ...]) -> None:
    """(0, 3, 1, 2) and (0, 2, 3, 1) are not their own inverse."""
    port = Port("image", "float32", order)
    file = into(port)(X)
    assert file.shape == tuple(X.shape[i] for i in order)
    np.testing.assert_array_equal(out_of(port, "float32")(file), X)


def test_numbers_are_rounded_to_the_nearest_and_cut_off() -> None:
    change = into(Port("x", "int8", scale=0.5, zero_point=3))
    x = np.array([[0.0, 0.5, -0.5, 0.7, 0.8, 61.9, 62.0, 62.6, 1e30, -65.5, -66.0, -1e30, np.inf, -np.inf]], np.float32)
    found = change(x)
    assert found.dtype == np.int8
    assert found.tolist() == [[3, 4, 2, 4, 5, 127, 127, 127, 127, -128, -128, -128, 127, -128]]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_every_integer_comes_back_exactly(dtype: str) -> None:
    info = np.iinfo(dtype)
    every = np.arange(info.min, info.max + 1).astype(dtype)[None]
    port = Port("x", dtype, scale=0.0371, zero_point=0 if dtype == "int16" else 5)
    floats = out_of(port, "float32")(every)
    assert floats.dtype == np.float32
    np.testing.assert_array_equal(into(port)(floats), every)


def test_dequantized_is_what_the_format_says() -> None:
    port = Port("y", "int8", scale=0.25, zero_point=-3)
    found = out_of(port, "float32")(np.array([[-128, -3, 0, 127]], np.int8))
    np.testing.assert_array_equal(found, np.array([[-31.25, 0, 0.75, 32.5]], np.float32))


def test_quantized_and_turned_at_once() -> None:
    port = Port("image", "int8", NHWC, 0.05, -7)
    file = into(port)(X)
    assert (file.dtype, file.shape) == (np.int8, (2, 5, 4, 3))
    back = out_of(port, "float32")(file)
    assert np.abs(back - X).max() <= 0.05 / 2 * 1.001


class Doubles:
    """A model file that gives its input back, and once more as floats."""

    inputs, outputs = ("a", "b"), ("cut", "y")

    def run(self, values: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        self.given = list(values)
        return [values[0], values[1]]


def test_only_named_tensors_are_changed(tiny: Path) -> None:
    """Cut tensors pass as they are: no numbers are lost between stages."""
    manifest: Manifest = from_json(json.loads((tiny / "manifest.json").read_text()))
    spec = manifest.exits[0].answer
    inner = Doubles()
    inner.outputs = ("cut", spec.name)
    port = Port(spec.name, "int8", scale=0.5, zero_point=1)
    cut, answer = np.array([[9]], np.int8), np.array([[9]], np.int8)
    found = Ported(inner, [port], manifest).run([cut, answer])
    assert inner.given[0] is cut and inner.given[1] is answer
    assert found[0] is cut
    assert found[1].dtype == np.float32 and found[1].tolist() == [[4.0]]


# --- manifest ----------------------------------------------------------------------------------------------


@pytest.fixture
def manifest(tiny: Path) -> dict[str, Any]:
    """Of the TFLite bundle: with ports, own cuts and one input per call."""
    found: dict[str, Any] = json.loads((tiny.parent / "tiny-tflite.edgeexit" / "manifest.json").read_text())
    return found


def artifact(m: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(a for a in m["artifacts"] if a["name"] == "tflite-chain-int8")
    return found


def test_round_trip(manifest: dict[str, Any]) -> None:
    found = from_json(manifest)
    assert from_json(to_json(found)) == found
    a = found.artifact("tflite-chain-int8")
    assert a.batch == "one" and found.batch == "dynamic"
    assert a.cuts is not None and {t.dtype for t in a.cuts} == {"int8"}
    image = next(p for p in a.ports if p.name == "image")
    assert (image.dtype, image.order) == ("int8", NHWC) and image.scale is not None and image.zero_point is not None


def test_fields_may_be_absent(manifest: dict[str, Any]) -> None:
    for a in manifest["artifacts"]:
        del a["ports"], a["cuts"], a["batch"]
    assert all((a.ports, a.cuts, a.batch) == ((), None, None) for a in from_json(manifest).artifacts)


def _port(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda m: artifact(m)["ports"][0].update(changes)


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "batch of many": (lambda m: artifact(m).update(batch="dynamic"), "batch"),
    "batch of a number": (lambda m: artifact(m).update(batch=1), "batch"),
    "cuts of text": (lambda m: artifact(m).update(cuts="f0"), "cuts"),
    "a cut without a dtype": (lambda m: artifact(m)["cuts"][0].pop("dtype"), "dtype"),
    "ports of nothing": (lambda m: artifact(m).update(ports=None), "ports"),
    "too many ports": (lambda m: artifact(m).update(ports=artifact(m)["ports"] * 400), "0 to 512"),
    "a port twice": (lambda m: artifact(m)["ports"].append(artifact(m)["ports"][0]), "port 'image' stands twice"),
    "a port of nobody": (_port(name="z"), "port 'z' is no input, state or exit's tensor"),
    "a port of a cut": (lambda m: _port(name=artifact(m)["cuts"][0]["name"])(m), "is no input, state or exit's tensor"),
    "another dtype": (_port(dtype="int4"), "dtype"),
    "a float with a scale": (_port(dtype="float32"), "float32 with a scale"),
    "a scale alone": (_port(zero_point=None), "come together"),
    "a zero point alone": (_port(scale=None), "come together"),
    "scale 0": (_port(scale=0), "scale: expected a number from"),
    "scale NaN": (_port(scale=float("nan")), "scale"),
    "scale beyond floats": (_port(scale=10**400), "scale"),
    "a scale that is no float32": (_port(scale=1e-320), "scale"),
    "a scale whose inverse is no float32": (_port(scale=1e39), "scale"),
    "a fraction as zero point": (_port(zero_point=1.5), "a whole number"),
    "a huge zero point": (_port(zero_point=10**30), "to 2147483647"),
    "an order too short": (_port(order=[0, 2, 1]), "orders 3 axes wrongly"),
    "an order that moves the batch": (_port(order=[1, 0, 2, 3]), "orders 4 axes wrongly"),
    "an axis twice": (_port(order=[0, 1, 1, 2]), "order: expected no value twice"),
    "an axis that is not there": (_port(order=[0, 1, 2, 4]), "does not name every axis once"),
    "an axis below 0": (_port(order=[0, -1, 2, 3]), r"order\[1\]: expected a whole number from 0 to 15"),
    "an axis of truth": (_port(order=[False, True, 2, 3]), r"order\[0\]: expected a whole number"),
    "no axes": (_port(order=[]), "order"),
    "a hundred axes": (_port(order=list(range(100))), "order"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(manifest: dict[str, Any], case: str) -> None:
    change, message = REFUSED[case]
    change(manifest)
    with pytest.raises(BundleError, match=message):
        from_json(manifest)


def test_nothing_but_a_bundle_error_comes_out(manifest: dict[str, Any]) -> None:
    odd: list[Any] = [
        None,
        True,
        -1,
        1.5,
        10**400,
        1e308,
        5e-324,
        "",
        "\x00",
        "x" * 600,
        [],
        {},
        [[]],
        [None],
        [9] * 99,
    ]
    rng = random.Random(2)
    refused = 0
    for _ in range(800):
        document = copy.deepcopy(manifest)
        own = artifact(document)
        where = rng.choice([own, rng.choice(own["ports"]), rng.choice(own["cuts"])])
        where[rng.choice([k for k in where if k not in ("models", "vectors", "calibration", "check")])] = rng.choice(
            odd
        )
        try:
            from_json(document)
        except BundleError as e:
            assert 0 < len(str(e)) < 1000
            refused += 1
    assert refused > 400
