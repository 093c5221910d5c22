"""`export --format --precision`: what cannot be made is one line, before or after the work, and leaves no bundle."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

Cli = Callable[..., Any]
NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_spec = {"x": ("float32", ("batch", 4))}
        self.layers = nn.ModuleList([nn.Linear(n, 8) for n in (4, 8)])
        self.heads = nn.ModuleList([nn.Linear(8, 3) for _ in range(2)])

    def forward(self, x):
        a = torch.relu(self.layers[0](x))
        b = torch.relu(self.layers[1](a))
        return 4 * self.heads[0](a), 4 * self.heads[1](b)

def make():
    torch.manual_seed(0)
    return Net().eval()
"""
X = np.random.default_rng(5).standard_normal((120, 4)).astype(np.float32)


def data(**arrays: Any) -> Path:
    np.savez("cal.npz", **arrays)
    return Path("cal.npz")


@pytest.fixture
def export(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`edgeexit export` of a small torch module, or of another `source`, to a bundle here."""
    (tmp_path / "small_net.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(*options: Any, source: str = "small_net:make") -> Any:
        return cli("export", source, "--out", "b.edgeexit", *options)

    return run


def refused(ran: Any) -> str:
    """The line of an error that comes after steps were shown."""
    *steps, last = ran.err.splitlines()
    assert ran.code == 1 and ran.out == "" and last.startswith("error: ")
    assert "Traceback" not in ran.err and not any(s.startswith("error") for s in steps)
    return str(last[len("error: ") :])


def _with(value: float, where: tuple[int, ...] = (7, 1)) -> np.ndarray:  # type: ignore[type-arg]
    x = X.copy()
    x[where] = value
    return x


BAD: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "NaN": ({"x": _with(np.nan)}, ("the data for input", "'x'", "NaN")),
    "infinite": ({"x": _with(np.inf)}, ("the data for input", "'x'", "inf at [7, 1]")),
    "another shape": ({"x": X[:, :3]}, ("data for input 'x'", "has shape (n, 3), expected (n, 4)")),
    "too many axes": ({"x": X[:, :, None]}, ("data for input 'x'", "has shape (n, 4, 1), expected (n, 4)")),
    "another dtype": ({"x": X.astype(np.float64)}, ("calibration data", "'x'", "float64", "float32")),
    "another name": ({"z": X}, ("x", "z")),
    "no rows": ({"x": X[:0]}, ("the data holds [0] rows",)),
    "too few to read": ({"x": X[:31]}, ("31 rows", "at least 32 are needed")),
    "too few to divide": ({"x": X[:95]}, ("95 rows of data", "96 in all")),
    "constant": ({"x": np.full_like(X, 2)}, ("is 2 everywhere", "no range can be read")),
    "one row over and over": ({"x": np.repeat(X[:1], 120, 0)}, ("all 120 rows are the same",)),
    "labels for other rows": ({"x": X, "y": np.zeros(119, np.int64)}, ("119 classes", "120 rows")),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("format", ["onnx", pytest.param("tflite", marks=pytest.mark.slow)])
def test_calibration_data(export: Callable[..., Any], case: str, format: str) -> None:
    arrays, words = BAD[case]
    error = refused(export("--format", format, "--precision", "int8", "--data", data(**arrays)))
    assert all(w in error for w in words), error
    assert not Path("b.edgeexit").exists()


ODD: dict[str, tuple[dict[str, Any], str]] = {
    "no rows": ({"x": X[:0]}, "the data holds [0] rows; expected one count of at least 1"),
    "NaN": ({"x": _with(np.nan, (1, 2))}, "the data for input 'x' holds NaN"),
    "one number": ({"x": np.float32(3)}, "the data for input 'x' is a single number"),
    "fewer classes": ({"x": X, "y": np.zeros(119, np.int64)}, "119 classes (y) for 120 rows of data"),
}


@pytest.mark.parametrize("case", ODD)
def test_data_that_is_only_compared_on(export: Callable[..., Any], case: str) -> None:
    """ONNX in float reads a few rows and no classes, yet says what is wrong with them."""
    arrays, message = ODD[case]
    assert message in refused(export("--data", data(**arrays)))
    assert not Path("b.edgeexit").exists()


def test_classes_that_the_network_lacks_are_named_before_the_work(export: Callable[..., Any]) -> None:
    ran = export("--precision", "int8", "--data", data(x=X, y=np.arange(120) % 5))
    assert refused(ran) == "classes (y) reach from 0 to 4; the network answers 0 to 2"
    assert "quantizing" not in ran.err


def test_a_network_that_answers_nan_is_told_as_such(export: Callable[..., Any]) -> None:
    Path("nan_net.py").write_text(
        NET.replace("return 4 * self.heads[0](a),", "return self.heads[0](a) * float('nan'),")
    )
    assert "of the source model answers NaN" in refused(export(source="nan_net:make"))
    assert not Path("b.edgeexit").exists()


def test_a_network_that_fails_on_the_data_is_one_line(export: Callable[..., Any]) -> None:
    looks_up = (
        "x = x + nn.functional.embedding(x.abs().long(), self.layers[1].weight).mean((1, 2))[:, None]\n        a ="
    )
    Path("picky_net.py").write_text(NET.replace("a =", looks_up, 1))
    error = refused(export("--data", data(x=X * 1000), source="picky_net:make"))
    assert error.startswith("the model does not run on example inputs (x float32[1, 4]): ")
    assert "Gather" in error and "out of data bounds" in error


def test_a_function_that_fails_is_one_line(export: Callable[..., Any]) -> None:
    Path("failing_net.py").write_text("def make():\n    raise RuntimeError('no card')\n")
    error = refused(export(source="failing_net:make"))
    assert error == "failing_net:make: making the network failed: RuntimeError: no card"


WISHES: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown format": (("--format", "coreml"), "unknown format 'coreml'; known: onnx, tflite"),
    "unknown precision": (("--precision", "int4"), "unknown precision 'int4'; known: fp32, int8"),
    "int16x8 for ONNX": (("--precision", "int16x8"), "precision 'int16x8' is not made for onnx; it is for tflite"),
    "no format": (("--format", ","), "no format asked for"),
    "entropy for both": (("--format", "onnx,tflite", "--ranges", "entropy"), "are for format onnx alone"),
    "a drop above 1": (("--precision", "int8", "--max-drop", "5"), "max_drop is a fraction in [0, 1), found 5.0"),
}


@pytest.mark.parametrize("case", WISHES)
def test_wishes(export: Callable[..., Any], case: str) -> None:
    options, message = WISHES[case]
    assert message in export(*options, "--data", data(x=X)).error
    assert not Path("b.edgeexit").exists()


def test_int8_without_data(export: Callable[..., Any]) -> None:
    assert "precision int8 needs calibration rows (--data): at least 96" in export("--precision", "int8").error


def test_a_bare_onnx_does_not_become_tflite(export: Callable[..., Any]) -> None:
    """The reason is given, and what to do instead."""
    assert export().code == 0
    chain = "b.edgeexit/artifacts/onnx-all-fp32/model.onnx"
    error = refused(export("--format", "tflite", "--overwrite", source=chain))
    assert error.startswith("TFLite files are made from torch modules")
    assert "onnx2tf" in error and "give the torch module, or export --format onnx" in error
    assert Path(chain).exists()  # what was there is still there


@pytest.mark.slow
@pytest.mark.skipif(find_spec("litert_torch") is None, reason="the TFLite export tools are not installed")
def test_one_command_makes_both_and_says_what_it_cost(export: Callable[..., Any]) -> None:
    labels = X.argmax(1) % 3
    options = ("--format", "onnx,tflite", "--precision", "fp32,int8", "--data", data(x=X, y=labels), "--json")
    found = export(*options, "--layouts", "fused,chain")
    assert found.code == 0, found.err
    report = found.json["refit"]
    assert [f["artifact"] for f in report["forms"]] == [
        f"{f}-fused-{p}" for p in ("fp32", "int8") for f in ("onnx", "tflite")
    ]
    assert all(0 <= e["accuracy"] <= 1 for f in report["forms"] for e in f["exits"])
    # nothing allowed: either every exit kept its accuracy to the row, or there is no bundle
    strict = export(*options, "--layouts", "fused", "--max-drop", "0", "--overwrite")
    lost = any(
        e["accuracy"] < report["forms"][0]["exits"][k]["accuracy"]
        for f in report["forms"] if f["precision"] == "int8" for k, e in enumerate(f["exits"])
    )  # fmt: skip
    assert (strict.code == 1) == lost
