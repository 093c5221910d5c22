"""`edgeexit compare`, and the library call behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeexit
from edgeexit.bench.compare import compare
from edgeexit.calibrate.metrics.reliability import reliability
from edgeexit.calibrate.metrics.uncertainty import accuracy_drop, auroc
from edgeexit.errors import DataError

onnx = pytest.importorskip("onnx")
CLASSES, WIDTH = 4, 6


def heads(path: Path, count: int) -> Path:
    """Linear heads h0, h1, ... near one teacher, so that they are mostly right and mostly agree."""
    from onnx import TensorProto, helper

    weights, nodes, outputs = [], [], []
    for k in range(count):
        w = teacher() + 0.4 * np.random.default_rng(10 + k).standard_normal((WIDTH, CLASSES))
        weights.append(onnx.numpy_helper.from_array(w.astype(np.float32), f"w{k}"))
        nodes.append(helper.make_node("MatMul", ["x", f"w{k}"], [f"h{k}"]))
        outputs.append(helper.make_tensor_value_info(f"h{k}", TensorProto.FLOAT, ["n", CLASSES]))
    entry = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])]
    graph = helper.make_graph(nodes, "g", entry, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def teacher() -> Any:
    return np.random.default_rng(0).standard_normal((WIDTH, CLASSES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plain (one head), three (heads that answer together), and data."""
    home = tmp_path_factory.mktemp("compare")
    edgeexit.export(heads(home / "one.onnx", 1), home / "plain.edgeexit", exits=["h0"])
    edgeexit.export(heads(home / "three.onnx", 3), home / "three.edgeexit", exits=["h0+h1+h2"])
    rng = np.random.default_rng(1)
    x = rng.standard_normal((600, WIDTH)).astype(np.float32)
    y = (x @ teacher() + 0.5 * rng.standard_normal((600, CLASSES))).argmax(1)
    np.savez(home / "test.npz", x=x, y=y)
    np.savez(home / "noise.npz", x=x + rng.standard_normal(x.shape).astype(np.float32), y=y)
    np.savez(home / "outside.npz", x=(0.1 * rng.standard_normal((300, WIDTH))).astype(np.float32))
    np.savez(home / "unlabelled.npz", x=x)
    return home


def command(folder: Path, *more: Any) -> tuple[Any, ...]:
    return ("compare", folder / "plain.edgeexit", folder / "three.edgeexit", "--data", folder / "test.npz",
            "--outside", f"small={folder / 'outside.npz'}", "--corrupted", f"noise={folder / 'noise.npz'}", "--n", 5,
            *more)  # fmt: skip


def test_figures_are_those_of_the_networks_answers(folder: Path, cli: Any, tmp_path: Path) -> None:
    found = cli(*command(folder, "--json", "--out", tmp_path / "figures.json"))
    assert found.code == 0 and json.loads((tmp_path / "figures.json").read_text()) == found.json
    plain, three = found.json["networks"]
    with np.load(folder / "test.npz") as file:
        x, y = file["x"], file["y"]
    with np.load(folder / "noise.npz") as file:
        noisy = file["x"]
    w = [teacher() + 0.4 * np.random.default_rng(10 + k).standard_normal((WIDTH, CLASSES)) for k in range(3)]

    def answers(rows: Any) -> Any:
        z = np.stack([rows @ v.astype(np.float32) for v in w])
        e = np.exp(z - z.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    p = answers(x)
    mean = p.mean(0)
    right = mean.argmax(1) == y
    table = reliability(mean, y)
    for key in ("accuracy", "nll", "brier", "ece"):
        assert three[key] == pytest.approx(getattr(table, key), abs=1e-5)
        assert plain[key] == pytest.approx(getattr(reliability(p[0], y), key), abs=1e-5)
    assert three["auroc"] == pytest.approx(auroc(mean.max(1), right), abs=1e-4)
    spread = np.abs(p - mean).sum(2).mean(0) / 2
    assert three["auroc_uncertainty"] == pytest.approx(auroc(-spread, right), abs=1e-4)
    assert plain["auroc_uncertainty"] is None and (plain["heads"], three["heads"]) == (1, 3)
    worse = answers(noisy).mean(0)
    drop = accuracy_drop((mean.max(1), right), [(worse.max(1), worse.argmax(1) == y)])
    assert three["auprc_drop"] == pytest.approx(drop.auprc, abs=1e-3)
    assert three["corrupted_accuracy"]["noise"] == pytest.approx((worse.argmax(1) == y).mean(), abs=1e-5)
    assert three["auroc_outside"]["small"] > 0.7
    assert (plain["parameters"], three["parameters"]) == (24, 72)
    assert plain["ratio"] == 1 and three["seconds"] > 0


def test_logits_after_heads_that_answer_together_are_softened_once(folder: Path, tmp_path: Path) -> None:
    edgeexit.export(heads(tmp_path / "three.onnx", 3), tmp_path / "mixed.edgeexit", exits=["h0+h1", "h2"])
    edgeexit.export(heads(tmp_path / "three.onnx", 3), tmp_path / "last.edgeexit", exits=["h2"])
    with np.load(folder / "test.npz") as data:
        x, y = data["x"], data["y"]
    engines = {name: edgeexit.load(tmp_path / f"{name}.edgeexit") for name in ("last", "mixed")}
    found = compare(engines, ({"x": x}, y), rounds=0)
    assert found[0].nll == pytest.approx(found[1].nll, rel=1e-4)
    assert found[0].ece == pytest.approx(found[1].ece, rel=1e-3)


def test_text(folder: Path, cli: Any) -> None:
    found = cli(*command(folder))
    head, plain, three, note = found.out.strip().splitlines()
    assert "against small" in head and "AUPRC drop" in head
    assert plain.startswith("plain") and "1.00 (1.00..1.00)" in plain and three.startswith("three")
    assert "600 rows of test.npz; n = 5 interleaved rounds" in note


def test_without_timing_and_streams(folder: Path, cli: Any) -> None:
    found = cli("compare", folder / "plain.edgeexit", "--data", folder / "test.npz", "--n", 0, "--json")
    (row,) = found.json["networks"]
    assert row["seconds"] is None and row["auprc_drop"] is None and row["auroc_outside"] == {}


def test_refused(folder: Path, cli: Any) -> None:
    plain, data = folder / "plain.edgeexit", folder / "test.npz"
    assert "comparing needs labels" in cli("compare", plain, "--data", folder / "unlabelled.npz").error
    assert "another bundle is called 'plain'" in cli("compare", plain, plain, "--data", data).error
    assert "expected NAME=FILE" in cli("compare", plain, "--data", data, "--outside", data).error
    assert "no such file" in cli("compare", plain, "--data", data, "--corrupted", "a=none.npz").error.lower()
    with pytest.raises(DataError, match="at least one network"):
        compare({}, (np.zeros((1, WIDTH), np.float32), np.zeros(1, int)))


def test_qute_from_the_command_line(folder: Path, cli: Any, tmp_path: Path) -> None:
    source = heads(tmp_path / "three.onnx", 3)
    bundle = tmp_path / "q.edgeexit"
    made = cli("export", source, "--exits", "h0+h1+h2", "--out", bundle, "--layouts", "fused,chain")
    assert made.code == 0 and "3 heads" in made.out
    for artifact in ("fused", "chain"):
        done = cli("calibrate", bundle, "--data", folder / "test.npz", "--policy", "qute", "--selective", "cov@0.05",
                   "--artifact", artifact, "--name", artifact)  # fmt: skip
        assert done.code == 0 and "accepted" in done.out and "coverage" in done.out
        ran = cli("run", bundle, "--input", folder / "test.npz", "--row", 0, "--policy", artifact, "--json")
        assert ran.json["accepted"] in (True, False) and 0 <= ran.json["uncertainty"] < 1
    text = cli("run", bundle, "--input", folder / "test.npz", "--row", 0, "--policy", "chain").out
    assert "uncertainty 0." in text and ("accepted" in text)
    assert "one exit, so there is nothing to choose" in cli(
        "calibrate", bundle, "--data", folder / "test.npz", "--budget", 0.5).error  # fmt: skip
    assert "3 heads" in cli("inspect", bundle).out
