"""What every command prints when all is well."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

import edgeexit
from edgeexit.cli import cli as group
from edgeexit.common.files import read_npz

pytest.importorskip("onnxruntime")

Cli = Callable[..., Any]
X = np.random.default_rng(9).standard_normal((60, 4)).astype(np.float32)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """60 rows with labels."""
    path = tmp_path / "val.npz"
    np.savez(path, x=X, y=np.random.default_rng(10).integers(0, 3, 60))
    return path


@pytest.fixture
def row(tmp_path: Path) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, X[0])
    return path


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """Outputs that grow surer and better from exit to exit."""
    rng = np.random.default_rng(11)
    labels = rng.integers(0, 4, 300)
    logits = rng.standard_normal((3, 300, 4)).astype(np.float32)
    logits[:, np.arange(300), labels] += np.array([[1.0], [2.0], [3.0]], np.float32)
    path = tmp_path / "recorded.npz"
    np.savez(path, logits=logits, labels=labels, cost=np.array([1.0, 2.0, 4.0]))
    return path


# --- help --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", sorted(group.commands))
def test_help(cli: Cli, command: str) -> None:
    found = cli(command, "--help")
    assert found.code == 0 and found.err == ""
    lines = found.out.splitlines()
    assert lines[0].startswith(f"Usage: edgeexit {command} [OPTIONS]")
    assert len(lines[2]) > 20 and "Options:" in found.out
    assert max(map(len, lines)) <= 100
    # every option says what it is for, but for those whose name does
    options = [p for p in group.commands[command].params if isinstance(p, click.Option)]
    assert {p.name for p in options if not p.help} <= {"seed"}


def test_no_command_is_help(cli: Cli) -> None:
    found, asked = cli(), cli("--help")
    assert found == asked
    assert found.code == 0 and found.err == "" and "First steps:" in found.out
    for command in group.commands:
        assert f"\n  {command} " in found.out


def test_version(cli: Cli) -> None:
    assert cli("--version").out == f"edgeexit, version {edgeexit.__version__}\n"


def test_installed_command(tiny: Path) -> None:
    code = "from edgeexit.cli import main; main()"
    found = subprocess.run([sys.executable, "-c", code, "inspect", tiny], capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("tiny: classification, 3 exits, x float32[batch,4], any number per call\n")


def test_nobody_reads_on(tiny: Path) -> None:
    """`edgeexit inspect ... | head -1` ends in silence."""
    code = "import sys; from edgeexit.cli import main; sys.stdout.reconfigure(line_buffering=True); main()"
    command = [sys.executable, "-c", code, "inspect", str(tiny), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


# --- inspect, verify, doctor, bench ------------------------------------------------------------------------


def test_inspect(cli: Cli, tiny: Path) -> None:
    found = cli("inspect", tiny)
    assert found.code == 0 and found.err == ""
    for text in ("56", "144", "232", "62.1 %", "onnx-chain-fp32", "half-fused", "made from: source tiny.onnx"):
        assert text in found.out


def test_inspect_json(cli: Cli, tiny: Path) -> None:
    found = cli("inspect", tiny, "--json")
    assert found.code == 0 and found.err == ""
    manifest = json.loads((tiny / "manifest.json").read_text())
    document = found.json
    assert {k: v for k, v in document.items() if k in manifest} == manifest
    assert document["operating_points"]["half-fused"]["policy"]["kind"] == "threshold"
    assert document["accuracy"]["n"] == 400 and document["accuracy"]["exits"][2] == 1


def test_what_a_bundle_says_cannot_move_the_cursor(cli: Cli, copy: Path) -> None:
    path = copy / "manifest.json"
    document = json.loads(path.read_text())
    document["provenance"]["source"] = "\x1b[2J\x1b]0;owned\x07"
    path.write_text(json.dumps(document))
    found = cli("inspect", copy)
    assert found.code == 0 and "\x1b" not in found.out and "\x07" not in found.out


def test_verify(cli: Cli, tiny: Path) -> None:
    found = cli("verify", tiny)
    assert found.code == 0 and found.err == ""
    assert found.out.count("passed") == 4 and "8 of 8" in found.out and "numpy" in found.out
    document = cli("verify", tiny, "--artifact", "onnx-chain-fp32", "--json").json
    assert document["passed"] is True and document["environment"]["threads"] == 1
    (only,) = document["artifacts"]
    assert only["artifact"] == "onnx-chain-fp32" and only["exits_agree"] == only["inputs"] == 8


def test_verify_fails(cli: Cli, copy: Path) -> None:
    from dataclasses import replace

    from edgeexit.bundle.bundle import Bundle
    from edgeexit.bundle.files import describe

    bundle = Bundle.open(copy)
    path = "artifacts/onnx-all-fp32/model.onnx"
    raw = bytearray((copy / path).read_bytes())
    at = raw.index((np.random.default_rng(0).standard_normal((4, 8)) * 0.8).astype(np.float32).tobytes())
    raw[at : at + 16] = np.ones(4, np.float32).tobytes()
    artifacts = tuple(
        replace(a, models=(describe(path, bytes(raw)),)) if a.layout == "all" else a for a in bundle.manifest.artifacts
    )
    bundle.rewrite({path: bytes(raw)}, replace(bundle.manifest, artifacts=artifacts))
    found = cli("verify", copy)
    assert found.code == 1
    assert found.out.count("FAILED") == 1 and "onnx-all-fp32: exit 'y0' differs by" in found.out
    document = cli("verify", copy, "--json").json
    assert document["passed"] is False
    assert [a["passed"] for a in document["artifacts"]] == [True, True, True, False]


def test_doctor(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    doctor_module = importlib.import_module("edgeexit.cli.doctor")  # edgeexit.cli.doctor is the command
    parts = [p for p in doctor_module.PARTS if p[0] in ("numpy", "onnxruntime")]  # importing torch takes seconds
    monkeypatch.setattr(doctor_module, "PARTS", [*parts, ("no_such_library", "nothing", "plots")])
    found = cli("doctor")
    assert found.code == 0 and found.err == ""
    assert np.__version__ in found.out and "pip install 'edgeexit[plots]'" in found.out
    document = cli("doctor", "--json").json
    assert document["can_run_bundles"] is True
    assert [p["version"] is None for p in document["parts"]] == [False, False, True]
    monkeypatch.setattr(doctor_module, "PARTS", [("onnxruntime_of_mars", "run ONNX bundles", "onnx")])
    assert cli("doctor").code == 1


def test_bench(cli: Cli, tiny: Path) -> None:
    found = cli("bench", tiny, "--n", 3)
    assert found.code == 0 and found.err == ""
    assert "n = 3 interleaved rounds" in found.out and "onnxruntime" in found.out
    document = cli("bench", tiny, "--n", 3, "--json").json
    timings = document["timings"]
    assert [(t["layout"], t["exit"]) for t in timings] == [
        (layout, k) for layout in ("fused", "chain", "prefix") for k in range(3)
    ]
    assert all(0 < t["p50"] <= t["p90"] and t["n"] == 3 for t in timings)
    assert timings[-1]["ratio"] == 1  # the single-exit network itself
    assert document["environment"]["engine"].startswith("onnxruntime ")


def test_bench_save_and_run_with_the_profile(cli: Cli, copy: Path, row: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    assert cli("bench", copy, "--n", 3, "--save", profile).code == 0
    options = ("--input", row, "--profile", profile, "--deadline-ms", 1000)
    assert cli("run", copy, *options).code == 0
    other = json.loads(profile.read_text())
    for times in other["artifacts"].values():
        times["files"] = dict.fromkeys(times["files"], "0" * 64)
    profile.write_text(json.dumps(other))
    found = cli("run", copy, *options)
    assert found.code == 1 and "another content" in found.err and "edgeexit bench --save" in found.err


# --- run ---------------------------------------------------------------------------------------------------


def test_run(cli: Cli, tiny: Path, row: Path) -> None:
    found = cli("run", tiny, "--input", row)
    assert found.code == 0 and found.err == ""
    assert "operating point half-fused" in found.out  # the only one stored for this artifact
    document = cli("run", tiny, "--input", row, "--json").json
    assert set(document) == {
        "exit", "label", "name", "score", "reason", "seconds", "macs", "late", "prediction_set", "uncertainty",
        "accepted", "unusual", "output", "artifact", "policy", "operating_point",
    }  # fmt: skip
    assert document["operating_point"] == "half-fused"
    assert document["name"] == "abc"[document["label"]] and len(document["output"]) == 3
    assert document["macs"] == (56, 144, 232)[document["exit"]] and document["late"] is None


@pytest.mark.parametrize("artifact", ["fused", "chain", "prefix", "onnx-chain-fp32"])
@pytest.mark.parametrize("k", [0, 1, 2])
def test_run_at_an_exit(cli: Cli, tiny: Path, row: Path, artifact: str, k: int) -> None:
    document = cli("run", tiny, "--input", row, "--exit", k, "--artifact", artifact, "--json").json
    assert document["exit"] == k and document["policy"] == f"exit {k} as asked"
    expected = edgeexit.load(tiny, artifact="all", warmup=0).record(X[:1]).outputs[k, 0]
    np.testing.assert_allclose(document["output"], expected, atol=1e-5)


def test_run_with_a_point_and_a_deadline(cli: Cli, tiny: Path, row: Path) -> None:
    document = cli("run", tiny, "--input", row, "--policy", "half-chain", "--deadline-ms", 5000, "--json").json
    assert document["artifact"] == "onnx-chain-fp32" and document["late"] is False
    expected = edgeexit.load(tiny, policy="half-chain").run(X[0])
    assert (document["exit"], document["reason"]) == (expected.exit, expected.reason)


def test_run_rows_of_a_file(cli: Cli, tiny: Path, data: Path, row: Path) -> None:
    wanted = cli("run", tiny, "--input", row, "--json").json["output"]
    assert cli("run", tiny, "--input", data, "--row", 0, "--json").json["output"] == wanted
    assert cli("run", tiny, "--input", data, "--row", 5, "--json").json["output"] != wanted


def test_run_from_a_zip(cli: Cli, tiny: Path, row: Path, tmp_path: Path) -> None:
    import shutil

    path = shutil.make_archive(str(tmp_path / "tiny"), "zip", tiny)
    assert cli("run", path, "--input", row, "--json").json["artifact"] == "onnx-fused-fp32"


# --- calibrate ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("artifact", ["fused", "chain"])
def test_calibrate_then_run(cli: Cli, copy: Path, data: Path, row: Path, artifact: str) -> None:
    found = cli("calibrate", copy, "--data", data, "--budget", 0.6, "--artifact", artifact, "--name", "mine")
    assert found.code == 0 and found.err == (
        "WARNING: 30 rows measure the accuracy to ±15.1 points only; about 1,800 would give ±2\n"
    )
    assert "expected cost" in found.out and "promise            none" in found.out
    assert "), last exit " in found.out and "below the last exit" in found.out
    assert "stored in" in found.out
    document = cli("run", copy, "--input", row, "--policy", "mine", "--json").json
    assert document["policy"] == "operating point mine" and document["artifact"] == f"onnx-{artifact}-fp32"
    point = json.loads((copy / "policies/mine.json").read_text())
    assert point["data"]["rows"] == 60 and point["data"]["file"] == "val.npz"
    assert point["expected"]["n"] == 30 and 0 < point["expected"]["cost"] <= 1
    scores = read_npz(copy / f"calibration/onnx-{artifact}-fp32.npz")
    assert scores["scores"].shape == scores["correct"].shape == scores["agreement"].shape == (60, 3)
    assert cli("verify", copy).code == 0
    assert cli("inspect", copy).out.count("mine") == 1


@pytest.mark.parametrize(
    "options",
    [
        ("--policy", "patience", "--accuracy-drop", 0.3),
        ("--policy", "shared", "--score", "margin", "--budget", 0.7),
        ("--policy", "fixed", "--budget", 0.7),
        ("--score", "entropy", "--accuracy", 0.1),
        ("--policy", "qexit", "--budget", 0.9),
        ("--policy", "window", "--selective", "cov@0.5", "--first", 0, "--pass-rate", 0.5),
        ("--policy", "eero", "--budget", "70%", "--mode", "survivors", "--spend", "all"),
        ("--guarantee", "disagreement<=0.9@0.9"),
        ("--guarantee", "accumulated_disagreement<=0.9@0.9"),
        ("--guarantee", "brier_gap<=0.9@0.8", "--method", "ucb", "--policy", "shared"),
    ],
)
def test_calibrated_points_run(cli: Cli, copy: Path, data: Path, row: Path, options: tuple[Any, ...]) -> None:
    found = cli("calibrate", copy, "--data", data, "--artifact", "chain", "--name", "p", "--json", *options)
    assert found.code == 0, found.err
    stored = {k: v for k, v in found.json.items() if k != "warnings"}
    assert stored == json.loads((copy / "policies/p.json").read_text())
    assert all(f"WARNING: {w}" in found.err for w in found.json["warnings"])
    assert cli("run", copy, "--input", row, "--policy", "p").code == 0


def test_calibrate_records(cli: Cli, recorded: Path, tmp_path: Path) -> None:
    out = tmp_path / "point.json"
    found = cli("calibrate", "--records", recorded, "--budget", 0.5, "--out", out, "--json")
    assert found.code == 0 and found.err.startswith("WARNING: ") and found.err.count("\n") == 1
    assert {**json.loads(out.read_text()), "warnings": found.json["warnings"]} == found.json
    assert found.json["artifact"] is None and found.json["asked"] == {"budget": 0.5}
    assert len(found.json["policy"]["thresholds"]) == 2
    tempered = cli("calibrate", "--records", recorded, "--budget", 0.5, "--temperature", "--json").json
    assert len(tempered["policy"]["temperatures"]) == 3


def test_a_failed_calibration_leaves_the_bundle_as_it_was(cli: Cli, copy: Path, data: Path) -> None:
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    asked = ("--temperature", "--guarantee", "accuracy_gap<=0.0001@0.99")
    assert "calibration rows" in cli("calibrate", copy, "--data", data, *asked).err
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


def test_what_calibration_replaces_is_said(cli: Cli, copy: Path, data: Path) -> None:
    once = cli("calibrate", copy, "--data", data, "--budget", 0.7, "--name", "mine")
    assert once.code == 0 and "replaced" not in once.err
    assert "'mine' was there before (of onnx-fused-fp32) and is replaced" in cli(
        "calibrate", copy, "--data", data, "--budget", 0.8, "--name", "mine").err  # fmt: skip
    cli("calibrate", copy, "--data", data, "--budget", 0.8, "--name", "other")
    gone = cli("calibrate", copy, "--data", data, "--budget", 0.8, "--temperature", "--name", "warm")
    assert gone.code == 0
    assert "dropped with the temperatures they were calibrated under: half-fused, mine, other" in gone.err


def test_calibrate_with_temperatures(cli: Cli, copy: Path, data: Path, row: Path) -> None:
    pytest.importorskip("onnx_ir")
    found = cli("calibrate", copy, "--data", data, "--budget", 0.6, "--temperature", "--name", "warm")
    assert found.code == 0
    assert found.err.startswith("exit 0: temperature ") and found.err.count("\n") == 5  # what it did, on the side
    document = cli("inspect", copy, "--json").json
    fused = document["artifacts"][0]["temperatures"]
    assert fused != [1, 1, 1] and document["artifacts"][1]["temperatures"] == [1, 1, 1]
    assert document["operating_points"]["warm"]["policy"]["temperatures"] == fused
    assert "half-fused" not in document["operating_points"]  # chosen under the old temperatures
    assert cli("verify", copy).code == 0
    assert cli("run", copy, "--input", row, "--policy", "warm").code == 0


# --- sweep -------------------------------------------------------------------------------------------------

KINDS = {
    "csv": "sweep.csv",
    "json": "sweep.json",
    "png": "sweep.png",
    "html": "report.html",
    "promises_csv": "promises.csv",
    "promises_png": "promises.png",
}


def check_report(out: Path) -> None:
    assert sorted(p.name for p in out.iterdir()) == sorted(KINDS.values())
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "report.html").read_text().lstrip().lower().startswith("<!doctype html>")
    header, *rows = (out / "sweep.csv").read_text().splitlines()
    assert "policy" in header and rows
    json.loads((out / "sweep.json").read_text(), parse_constant=lambda word: pytest.fail(word))


def test_sweep_records(cli: Cli, recorded: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "report"
    found = cli("sweep", "--records", recorded, "--out", out, "--budgets", "0.3,0.5,0.8")
    assert found.code == 0 and found.err == ""
    assert "daptive exits " in found.out.splitlines()[0]
    check_report(out)
    for name in KINDS.values():
        assert f"wrote {out / name}" in found.out
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    found = cli("sweep", "--records", recorded, "--out", out, "--budgets", "0.3,0.5,0.8", "--json")
    assert found.json["files"] == {kind: str(out / name) for kind, name in KINDS.items()}
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before  # the same again, byte for byte


def test_sweep_promises(cli: Cli, recorded: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    arguments = ("sweep", "--records", recorded, "--budgets", "0.5", "--json", "--out")
    found = cli(*arguments, tmp_path / "a", "--alphas", "0.3,0.05", "--delta", "0.2").json["promises"]
    assert {(p["alpha"], p["delta"]) for p in found if p["method"] == "ltt"} == {(0.05, 0.2), (0.3, 0.2)}
    assert {p["what"] for p in found} >= {"disagreement", "accuracy_gap", "accumulated_accuracy_gap"}
    none = cli(*arguments, tmp_path / "b", "--alphas", "").json
    assert none["promises"] == [] and not (tmp_path / "b" / "promises.csv").exists()


def test_sweep_a_bundle(cli: Cli, tiny: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "report"
    options = ("--policies", "maxprob,patience,fixed", "--budgets", "0.5,1", "--design-data", data, "--json")
    other = tmp_path / "test.npz"
    np.savez(other, x=X[::-1] + np.float32(0.01), y=np.arange(60) % 3)  # the very design rows would be refused
    document = cli("sweep", tiny, "--data", other, "--out", out, *options).json
    check_report(out)
    assert {r["policy"] for r in document["rows"]} == {"maxprob", "patience", "fixed"}
    assert document["data"]["held_out_rows"] == document["data"]["design_rows"] == 60
    assert document["environment"]["engine"].startswith("onnxruntime")
    for r in document["rows"]:
        assert r["cost"] is None or (0 < r["cost"] <= 1 and math.isclose(sum(r["exit_rates"]), 1))


# --- the default operating point ---------------------------------------------------------------------------


def test_one_default_for_run_and_load(cli: Cli, copy: Path, data: Path, row: Path) -> None:
    def followed(*options: Any) -> tuple[str, str]:
        document = cli("run", copy, "--input", row, "--json", *options).json
        artifact = options[1] if options else None
        engine = edgeexit.load(copy, artifact=artifact, warmup=0)
        assert engine.point is not None
        assert (engine.point.name, engine.artifact.name) == (document["operating_point"], document["artifact"])
        assert engine.policy_source == document["policy"]
        return document["operating_point"], document["policy"]

    def calibrated(*options: Any) -> str:
        found = cli("calibrate", copy, "--data", data, "--budget", 0.6, *options)
        assert found.code == 0, found.err
        return str(found.out.splitlines()[-1])

    assert followed() == ("half-fused", "operating point half-fused, the only one stored for onnx-fused-fp32")
    said = calibrated("--name", "second")
    assert said.startswith("the bundle names no default, so that its first operating point, 'half-fused', is it;")
    name, why = followed()
    assert name == "half-fused" and "the first of 2 stored for onnx-fused-fp32" in why
    assert calibrated("--name", "third", "--default") == (
        "'third' is the bundle's default: followed where no --policy is named"
    )
    assert followed() == ("third", "operating point third, the bundle's default")
    assert "stays 'third'; --default makes it 'own'" in calibrated("--name", "own", "--artifact", "chain")
    assert followed()[0] == "third"
    assert followed("--artifact", "chain")[0] == "half-chain"
    assert "names no default" in calibrated("--name", "third", "--no-default")
    assert followed()[0] == "half-fused"


def test_inspect_shows_the_default(cli: Cli, copy: Path) -> None:
    assert "half-fused (default)" in cli("inspect", copy).out  # named by nobody, the first
    bundle = edgeexit.Bundle.open(copy)
    bundle.with_operating_point(bundle.operating_point("half-chain"), default=True)
    found = cli("inspect", copy)
    assert found.out.count("(default)") == 1 and "half-chain (default)" in found.out
    document = cli("inspect", copy, "--json").json
    assert document["default_policy"] == document["default_point"] == "half-chain"


def test_a_default_that_goes_with_the_temperatures(cli: Cli, copy: Path, data: Path) -> None:
    pytest.importorskip("onnx_ir")
    asked = ("calibrate", copy, "--data", data, "--budget", 0.8)
    assert cli(*asked, "--default", "--name", "cold").code == 0
    found = cli(*asked, "--temperature", "--name", "warm")
    assert "dropped with the temperatures they were calibrated under: cold (the default), half-fused" in found.err
    assert "'warm' is the bundle's default" in found.out
    assert cli(*asked, "--temperature", "--seed", 3, "--no-default", "--name", "hot").code == 0
    m = edgeexit.Bundle.open(copy).manifest
    assert m.default_policy in (None, "warm") and "hot" in m.policies


def test_default_goes_with_a_bundle(cli: Cli, recorded: Path) -> None:
    assert "--default goes with a bundle" in cli("calibrate", "--records", recorded, "--budget", 0.5, "--default").error


@pytest.mark.slow
def test_eight_calibrations_at_once(cli: Cli, copy: Path, data: Path) -> None:
    """Every one that says "stored" is there afterwards, and the scores are whole."""
    command = [sys.executable, "-m", "edgeexit", "calibrate", str(copy), "--data", str(data)]
    artifacts = ("fused", "chain")
    started = [
        subprocess.Popen(
            [*command, "--budget", f"0.{5 + k // 2}", "--artifact", artifacts[k % 2], "--name", f"p{k}"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for k in range(8)
    ]  # fmt: skip
    for k, process in enumerate(started):
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0 and f"as 'p{k}'" in out, err
    found = cli("inspect", copy, "--json").json
    assert set(found["operating_points"]) == {"half-fused", "half-chain", *(f"p{k}" for k in range(8))}
    assert cli("verify", copy).code == 0
    assert [p.name for p in copy.parent.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("temperatures_first", [True, False])
def test_temperatures_and_points_at_once(
    cli: Cli, copy: Path, data: Path, monkeypatch: pytest.MonkeyPatch, temperatures_first: bool
) -> None:
    """Between a calibration's recording and its writing another one finishes: refused, and nothing is lost."""
    pytest.importorskip("onnx_ir")
    module = importlib.import_module("edgeexit.calibrate.on_bundle")
    real, asked = module.calibrate, ("calibrate", copy, "--data", data, "--budget", 0.8)
    warm = ("--temperature",)
    others = [(*asked, "--name", "other", *(warm if temperatures_first else ()))]

    def meanwhile(*a: Any, **k: Any) -> Any:
        if others:
            one = others.pop()
            done = subprocess.run(
                [sys.executable, "-m", "edgeexit", *map(str, one)], capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, done.stderr
        return real(*a, **k)

    monkeypatch.setattr(module, "calibrate", meanwhile)
    found = cli(*asked, "--name", "mine", *(() if temperatures_first else warm))
    assert found.code == 1 and "nothing was written" in found.err and "Traceback" not in found.err
    m = edgeexit.Bundle.open(copy).manifest
    assert "mine" not in m.policies and "half-chain" in m.policies
    assert cli("verify", copy).code == 0
