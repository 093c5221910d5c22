"""Bad input is one line that starts with `error:`, exit code 1, nothing on standard output, no traceback."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

Cli = Callable[..., Any]
X = np.random.default_rng(9).standard_normal((60, 4)).astype(np.float32)
Y = np.arange(60) % 3


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return saved(tmp_path / "val.npz", x=X, y=Y)


@pytest.fixture
def row(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", X[0])
    return tmp_path / "x.npy"


def make_records(path: Path, **changes: Any) -> Path:
    """Outputs of 3 exits over 200 rows with 4 classes; `None` drops an array."""
    rng = np.random.default_rng(11)
    labels = rng.integers(0, 4, 200)
    logits = rng.standard_normal((3, 200, 4)).astype(np.float32)
    logits[:, np.arange(200), labels] += np.array([[1.0], [2.0], [3.0]], np.float32)
    arrays = {"logits": logits, "labels": labels, "cost": np.array([1.0, 2.0, 4.0]), **changes}
    return saved(path, **{n: a for n, a in arrays.items() if a is not None})


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    return make_records(tmp_path / "recorded.npz")


# --- bundles -----------------------------------------------------------------------------------------------

ON_A_BUNDLE: list[tuple[str, ...]] = [
    ("inspect",),
    ("verify",),
    ("bench", "--n", "1"),
    ("run", "--input", "x.npy"),
    ("calibrate", "--data", "x.npz", "--budget", "0.5"),
    ("sweep", "--data", "x.npz", "--out", "o"),
]


@pytest.mark.parametrize("command", ON_A_BUNDLE, ids=lambda c: c[0])
def test_what_is_no_bundle(
    cli: Cli, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    name, *options = command
    assert "none.edgeexit: no such bundle" in cli(name, "none.edgeexit", *options).error
    (tmp_path / "empty").mkdir()
    assert "not a bundle, it has no manifest.json" in cli(name, "empty", *options).error
    (tmp_path / "text").write_text("hello")
    assert "not a bundle folder nor a readable .zip" in cli(name, "text", *options).error
    (copy / "artifacts/onnx-fused-fp32/model.onnx").write_bytes(b"x")
    assert "truncated?" in cli(name, copy, *options).error
    (copy / "manifest.json").write_text('{"format": "edgeexit",\n "schema": 9}')
    assert "schema 9; this version of EdgeExit knows 1" in cli(name, copy, *options).error
    assert not (tmp_path / "o").exists()


# --- run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--policy", "fast"), "no operating point 'fast'; it holds: half-fused, half-chain"),
        (("--artifact", "tflite"), "no artifact 'tflite' in tiny"),
        (("--artifact", "all"), "it is for calibration, run fused or chain"),
        (("--artifact", "chain", "--policy", "half-fused"), "calibrated on onnx-fused-fp32"),
        (("--exit", "3"), "there is no exit 3; the model has exits 0 to 2"),
        (("--exit", "-1"), "--exit"),
        (("--exit", "0", "--policy", "half-fused"), "exclude each other"),
        (("--exit", "0", "--budget", "0.5"), "exclude each other"),
        (("--budget", "1MACs"), "below the first exit's"),
        (("--budget", "fast"), "expected a fraction of the last exit's cost"),
        (("--deadline-ms", "0"), "a deadline is a positive number of seconds, found 0"),
        (("--deadline-ms", "-5"), "positive number of seconds"),
        (("--deadline-ms", "nan"), "positive number of seconds"),
        (("--deadline-ms", "soon"), "'soon' is not a valid float"),
        (("--threads", "0"), "--threads"),
        (("--row", "3"), "no row 3"),
        (("--frobnicate",), "--frobnicate"),
    ],
)
def test_run_options(cli: Cli, tiny: Path, row: Path, options: tuple[str, ...], message: str) -> None:
    assert message in cli("run", tiny, "--input", row, *options).error


def test_run_needs_an_input(cli: Cli, tiny: Path) -> None:
    assert cli("run", tiny).error == "run takes either --input FILE or --example NUMBER"
    assert "no example 9, it ships 0 to" in cli("run", tiny, "--example", "9").error
    assert "Missing argument 'BUNDLE'" in cli("run").error
    assert "No such command 'walk'" in cli("walk").error


def npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def huge() -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": (10**14, 4)})
    return out.getvalue()


INPUTS: dict[str, tuple[str, bytes, str]] = {
    "wrong shape": ("x.npy", npy(X[0, :3]), "has shape (1, 3); the model takes ('batch', 4)"),
    "many": ("x.npy", npy(X), "holds 60 rows; --row picks one"),
    "wrong dtype": ("x.npy", npy(X[0].astype(np.complex64)), "is complex64; the model takes float32"),
    "NaN": ("x.npy", npy(X[0] * np.nan), "holds NaN"),
    "objects": ("x.npy", npy(np.array([{}], object)), "text, or objects that need pickle"),
    "text": ("x.npy", b"1.0, 2.0, 3.0\n", "not a plain .npy array of numbers"),
    "empty": ("x.npy", b"", "not a plain .npy array of numbers"),
    "half": ("x.npy", npy(X[0])[:-4], "not a plain .npy array of numbers"),
    "claims much": ("x.npy", huge(), "not a plain .npy array of numbers"),
    "archive as npy": ("x.npy", npz(x=X[0]), "name it .npz"),
    "text as npz": ("x.npz", b"hello", "not a plain .npz"),
    "objects in npz": ("x.npz", npz(x=np.array([{}], object)), "object arrays, which need pickle"),
    "other names": ("x.npz", npz(a=X[0], b=X[0]), "needs x; it holds a, b"),
    "text as a picture": ("x.png", b"hello", "error"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_run_inputs(cli: Cli, tiny: Path, tmp_path: Path, case: str) -> None:
    name, raw, message = INPUTS[case]
    (tmp_path / name).write_bytes(raw)
    found = cli("run", tiny, "--input", tmp_path / name)
    assert message in "error: " + found.error


def test_run_input_that_is_not_there(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "none.npy", tmp_path):
        assert f"{path}: no such file" in cli("run", tiny, "--input", path).error


# --- calibrate ---------------------------------------------------------------------------------------------

TARGETS: list[tuple[tuple[Any, ...], str]] = [
    ((), "exactly one target of budget, accuracy, accuracy_drop, selective, guarantee; found none"),
    (("--budget", 0.5, "--accuracy", 0.5), "exactly one target"),
    (("--budget", 0), "budget '0': expected a fraction of the last exit's cost (0.3, 30%), MACs (4MMACs) or"),
    (("--budget", 2), "a budget is a fraction"),
    (("--budget", "nan"), "expected a fraction"),
    (("--guarantee", "disagreement<=0.01@0.99"), "needs at least 459 calibration rows"),
    (("--guarantee", "disagreement<=0.5"), "expected LOSS<=ALPHA@CONFIDENCE"),
    (("--guarantee", "disagreement<=0.5@0.9", "--budget", 0.5), "exactly one target"),
    (("--budget", 0.5, "--pass-rate", 0.2), "--pass-rate goes with --policy window"),
    (("--budget", 0.5, "--policy", "window", "--artifact", "chain"), "go together"),
    (("--selective", "cov@0.1"), "go together"),
    (("--budget", 0.5, "--mode", "paper", "--policy", "shared"), "--mode goes with --policy eero"),
    (("--budget", 0.5, "--policy", "eero", "--beta", 0), "beta must be a positive number"),
    (("--budget", 0.01), "the least feasible budget is 0.2"),
    (("--accuracy", 1.5), "a fraction in (0, 1]"),
    (("--accuracy-drop", -0.1), "a fraction in [0, 1)"),
    (("--accuracy-drop", 1), "a fraction in [0, 1)"),
    (("--budget", 0.5, "--policy", "luck"), "'luck' is not one of"),
    (("--budget", 0.5, "--score", "luck"), "unknown score 'luck'"),
    (("--budget", 0.5, "--design", 0), "cannot be split"),
    (("--budget", 0.5, "--design", 1), "cannot be split"),
    (("--budget", 0.5, "--design", "nan"), "cannot be split"),
    (("--budget", 0.5, "--design", "inf"), "cannot be split"),
    (("--budget", 0.5, "--seed", -1), "--seed"),
    (("--budget", "half"), "budget 'half': expected a fraction"),
]


@pytest.mark.parametrize(("options", "message"), TARGETS)
def test_targets(cli: Cli, copy: Path, data: Path, recorded: Path, options: tuple[Any, ...], message: str) -> None:
    before = (copy / "manifest.json").read_bytes()
    assert message in cli("calibrate", copy, "--data", data, *options).error
    assert message in cli("calibrate", "--records", recorded, *options).error
    assert (copy / "manifest.json").read_bytes() == before


def test_accuracy_out_of_reach(cli: Cli, copy: Path, data: Path, recorded: Path) -> None:
    found = cli("calibrate", copy, "--data", data, "--accuracy", 0.999).error
    assert "accuracy of 0.999 is out of reach on 30 design rows; the best reachable, one standard" in found
    assert "out of reach" in cli("calibrate", "--records", recorded, "--accuracy", 1).error


@pytest.mark.parametrize(
    ("artifact", "options", "message"),
    [
        ("fused", ("--policy", "patience"), "'patience' needs layout chain"),
        ("fused", ("--score", "margin"), "holds score 'maxprob', the policy wants 'margin'"),
        ("all", (), "it is for calibration, run fused or chain"),
        ("prefix", (), "answers at a fixed exit only"),
    ],
)
def test_points_that_could_not_run_are_not_made(
    cli: Cli, copy: Path, data: Path, artifact: str, options: tuple[str, ...], message: str
) -> None:
    before = (copy / "manifest.json").read_bytes()
    options = ("--artifact", artifact, "--budget", "0.7", *options)
    assert message in cli("calibrate", copy, "--data", data, *options).error
    assert (copy / "manifest.json").read_bytes() == before


def test_calibrate_names(cli: Cli, copy: Path, data: Path) -> None:
    for name in ("../x", "a b", ".x", "a/b"):
        assert cli("calibrate", copy, "--data", data, "--budget", 0.5, "--name", name).error
    assert sorted(p.name for p in copy.parent.iterdir()) == ["tiny.edgeexit", "val.npz"]
    assert sorted(p.name for p in (copy / "policies").iterdir()) == ["half-chain.json", "half-fused.json"]


def test_calibrate_a_zip(cli: Cli, tiny: Path, data: Path, tmp_path: Path) -> None:
    path = shutil.make_archive(str(tmp_path / "tiny"), "zip", tiny)
    assert "unzip it first" in cli("calibrate", path, "--data", data, "--budget", 0.5).error
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


@pytest.mark.parametrize("command", [("calibrate", "--budget", "0.5"), ("sweep", "--out", "out")])
def test_what_to_work_on(
    cli: Cli, tiny: Path, data: Path, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    name, *options = command
    message = f"{name} takes a BUNDLE with --data, or --records without a bundle"
    for arguments in ((), (tiny,), (tiny, "--records", recorded), ("--data", data)):
        assert message in cli(name, *arguments, *options).error
    assert not (tmp_path / "out").exists()


def test_out_goes_with_records(cli: Cli, copy: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.json"
    assert "--out goes with --records" in cli("calibrate", copy, "--data", data, "--budget", 0.5, "--out", out).error


DATA: dict[str, tuple[dict[str, Any], str]] = {
    "no x": ({"pictures": X}, "needs 'x' for the model's inputs; it holds pictures"),
    "nothing": ({}, "it holds nothing"),
    "wrong shape": ({"x": X[:, :3], "y": Y}, "has shape (60, 3)"),
    "one number": ({"x": np.float32(1), "y": Y}, "is a single number"),
    "NaN": ({"x": X * np.nan, "y": Y}, "holds NaN"),
    "text": ({"x": np.array(["a"] * 60), "y": Y}, "is <U1; the model takes float32"),
    "no rows": ({"x": X[:0], "y": Y[:0]}, "at least 1"),
    "one row": ({"x": X[:1], "y": Y[:1]}, "cannot be split"),
    "labels for other rows": ({"x": X, "y": Y[:50]}, "one per row; found int64 (50,) for 60 rows"),
    "one label": ({"x": X, "y": np.int64(1)}, "one per row; found int64 ()"),
    "labels with fractions": ({"x": X, "y": Y / 2}, "y must be whole numbers"),
    "labels out of range": ({"x": X, "y": Y + 1}, "labels reach from 1 to 3, classes are 0 to 2"),
    "negative labels": ({"x": X, "y": Y - 1}, "labels reach from -1 to 1"),
    "labels in columns": ({"x": X, "y": Y[:, None]}, "labels must be whole numbers of shape (60,)"),
    "objects": ({"x": X, "y": np.array([{}] * 60, object)}, "object arrays, which need pickle"),
    "infinite": ({"x": X * np.inf, "y": Y}, "input 'x' holds -inf at [0, 0]"),
}


@pytest.mark.parametrize("case", DATA)
def test_data(cli: Cli, copy: Path, tmp_path: Path, case: str) -> None:
    arrays, message = DATA[case]
    path = saved(tmp_path / "bad.npz", **arrays)
    assert message in cli("calibrate", copy, "--data", path, "--budget", 0.7).error
    assert message in cli("sweep", copy, "--data", path, "--out", tmp_path / "out").error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [("calibrate", "--budget", "0.5"), ("sweep", "--out", "out")])
def test_data_files(
    cli: Cli, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    name, *options = command
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "cut.npz").write_bytes(npz(x=X, y=Y)[:-50])
    for path, message in (
        ("none.npz", "no such file"),
        (".", "cannot be read"),
        ("text.npz", "not a plain .npz"),
        ("cut.npz", "not a plain .npz"),
    ):
        assert message in cli(name, tiny, "--data", path, *options).error
        assert message in cli(name, "--records", path, *options).error


LOGITS = np.random.default_rng(0).standard_normal((3, 200, 4)).astype(np.float32)
RECORDS: dict[str, tuple[dict[str, Any], str]] = {
    "no logits": ({"logits": None}, "needs exactly one of 'logits' and 'probs'"),
    "both": ({"probs": LOGITS}, "needs exactly one of 'logits' and 'probs'"),
    "no cost": ({"cost": None}, "'cost' (exits,)"),
    "cost for other exits": ({"cost": np.array([1.0, 2.0])}, "3 growing positive numbers"),
    "cost that falls": ({"cost": np.array([1.0, 3.0, 2.0])}, "growing positive"),
    "cost of nothing": ({"cost": np.array([0.0, 1.0, 2.0])}, "growing positive"),
    "NaN cost": ({"cost": np.array([1.0, np.nan, 2.0])}, "growing positive"),
    "text cost": ({"cost": np.array(["a", "b", "c"])}, "'cost' must be numbers, found <U1"),
    "static cost for other exits": ({"static_cost": np.ones(2)}, "'static_cost' must be 3 positive numbers"),
    "NaN static cost": ({"static_cost": np.array([1, 2, np.nan])}, "'static_cost' must be 3 positive numbers"),
    "text static cost": ({"static_cost": np.array(["a", "b", "c"])}, "'static_cost' must be numbers"),
    "labels out of range": ({"labels": np.full(200, 4)}, "labels reach from 4 to 4, classes are 0 to 3"),
    "negative labels": ({"labels": np.full(200, -1)}, "labels reach from -1"),
    "labels for other rows": ({"labels": np.zeros(199, int)}, "shape (200,), found int64 (199,)"),
    "labels with fractions": ({"labels": np.zeros(200)}, "whole numbers"),
    "one exit": ({"logits": LOGITS[:1], "cost": np.array([1.0])}, "exits >= 2"),
    "one class": ({"logits": LOGITS[..., :1]}, "classes >= 2"),
    "flat": ({"logits": LOGITS[0]}, "found shape (200, 4)"),
    "no rows": ({"logits": LOGITS[:, :0], "labels": None}, "no rows"),
    "NaN": ({"logits": LOGITS * np.nan}, "must be finite"),
    "text": ({"logits": np.full((3, 200, 4), "a")}, "must be finite float32"),
    "logits as probs": ({"logits": None, "probs": LOGITS}, "are they logits?"),
    "objects": ({"cost": np.array([1, 2, {}], object)}, "object arrays"),
}


@pytest.mark.parametrize("case", RECORDS)
def test_records(cli: Cli, tmp_path: Path, case: str) -> None:
    changes, message = RECORDS[case]
    path = make_records(tmp_path / "bad.npz", **changes)
    assert message in cli("calibrate", "--records", path, "--budget", 0.5).error
    assert message in cli("sweep", "--records", path, "--out", tmp_path / "out").error
    assert not (tmp_path / "out").exists()


# --- sweep -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--policies", "luck"), "unknown policy 'luck'; a sweep knows: maxprob"),
        (("--policies", "maxprob,luck"), "unknown policy 'luck'"),
        (("--budgets", "a,b"), "expected numbers separated by commas"),
        (("--budgets", "0.5,2"), "fractions of the last exit's cost in (0, 1]"),
        (("--budgets", "0"), "in (0, 1]"),
        (("--budgets", "nan"), "in (0, 1]"),
        (("--budgets", ","), "in (0, 1]"),
        (("--alphas", "a"), "expected numbers separated by commas"),
        (("--alphas", "0.1,1"), "alpha and delta must lie in (0, 1)"),
        (("--delta", "0"), "alpha and delta must lie in (0, 1)"),
        (("--design", "1.5"), "cannot be split"),
        (("--seed", "-1"), "--seed"),
        (("--design-data", "none.npz"), "none.npz: no such file"),
    ],
)
def test_sweep_options(cli: Cli, recorded: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    out = tmp_path / "out"
    assert message in cli("sweep", "--records", recorded, "--out", out, *options).error
    assert not out.exists()


def test_sweep_needs_a_place(cli: Cli, recorded: Path) -> None:
    assert "Missing option '--out'" in cli("sweep", "--records", recorded).error
    assert cli("sweep", "--records", recorded, "--out", recorded, "--budgets", "1", "--policies", "fixed").error


def test_sweep_on_the_design_rows(cli: Cli, recorded: Path, tmp_path: Path) -> None:
    other = make_records(tmp_path / "other.npz", cost=np.array([1.0, 2.0, 5.0]))
    arguments = ("sweep", "--records", recorded, "--design-data", other, "--out", tmp_path / "out")
    assert "must come from one artifact" in cli(*arguments).error


# --- killed ------------------------------------------------------------------------------------------------

STOPPED = """
import os, signal, sys
which, after, *arguments = sys.argv[1:]
left = int(after)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it as ignored
from edgeexit.engine.layouts.fused import Fused
real = Fused.all_exits
def all_exits(self, inputs):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), getattr(signal, which))
    return real(self, inputs)
Fused.all_exits = all_exits
sys.argv = ["edgeexit", *arguments]
from edgeexit.cli import main
main()
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("which", ["SIGINT", "SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("command", ["calibrate", "sweep"])
def test_stopped_while_recording(copy: Path, data: Path, tmp_path: Path, which: str, command: str) -> None:
    options = ("--budget", "0.5") if command == "calibrate" else ("--out", tmp_path / "out")
    before = contents(tmp_path)
    arguments = [sys.executable, "-c", STOPPED, which, "30", command, copy, "--data", data, *options]
    found = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=60)
    assert contents(tmp_path) == before
    assert found.stdout == ""
    if which == "SIGINT":
        assert found.returncode == 130
        assert found.stderr.strip() == "stopped; nothing was left half-written"
    else:
        assert found.returncode == -getattr(signal, which)


def test_a_full_disk_is_one_line(
    cli: Cli, copy: Path, data: Path, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(tmp_path)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in cli("calibrate", copy, "--data", data, "--budget", 0.5).error
    out = tmp_path / "p.json"
    assert "No space left" in cli("calibrate", "--records", recorded, "--budget", 0.5, "--out", out).error
    assert contents(tmp_path) == before


def test_damaged_calibration_is_one_line(cli: Cli, copy: Path) -> None:
    """A bundle whose checksums hold, but whose files are not what they should be."""
    from edgeexit.bundle.bundle import Bundle
    from edgeexit.bundle.files import describe

    for arrays in ({"agreement": np.zeros((5, 2), np.float32)}, {"other": X}, {"agreement": np.array(["a"])}):
        raw = npz(**arrays)
        document = json.loads((copy / "manifest.json").read_text())
        path = document["artifacts"][0]["calibration"]["path"]
        spec = describe(path, raw)
        (copy / path).write_bytes(raw)
        document["artifacts"][0]["calibration"].update(sha256=spec.sha256, bytes=spec.bytes)
        (copy / "manifest.json").write_text(json.dumps(document))
        assert Bundle.open(copy)
        assert "needs 'agreement' (n, 3)" in cli("inspect", copy).error
        assert cli("inspect", copy, "--json").code == 1


def test_deadline_is_in_milliseconds(cli: Cli, tiny: Path, row: Path) -> None:
    document = cli("run", tiny, "--input", row, "--deadline-ms", 0.0001, "--json").json
    assert document["late"] is True and document["exit"] == 0
    assert math.isfinite(document["score"])
