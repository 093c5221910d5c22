"""The command around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("scipy")
from onnx_models import Net, save

STRANGER = Path(__file__).parents[2] / "models/bundles/digits.edgeexit/artifacts/onnx-prefix-fp32/exit_2.onnx"
DIGITS = Path(__file__).parents[2] / "models/edgeexit_models/data/optdigits.npz"


def test_list(cli: Any) -> None:
    found = cli("augment", STRANGER, "--list")
    assert found.code == 0 and "of the network" in found.out and "picture" in found.out
    document = cli("augment", STRANGER, "--list", "--json").json
    assert document["macs"] > 3_000_000 and document["places"][0]["macs"] < document["places"][-1]["macs"]


def test_whole(cli: Any, tmp_path: Path) -> None:
    with np.load(DIGITS) as file:
        np.savez(tmp_path / "d.npz", x=file["x_train"][:1500, None].astype(np.float32), y=file["y_train"][:1500])
        np.savez(tmp_path / "t.npz", x=file["x_test"][:500, None].astype(np.float32), y=file["y_test"][:500])
    out = tmp_path / "a.edgeexit"
    options = ("--data", tmp_path / "d.npz", "--out", out, "--drop", 0.03, "--candidates", 3,
               "--test", tmp_path / "t.npz")  # fmt: skip
    found = cli("augment", STRANGER, *options)
    assert found.code == 0 and found.out.startswith("Worth it: ") and "Forced to its last exit" in found.out
    assert "rows that nothing was chosen on" in found.out and f"wrote {out}" in found.out
    document = cli("augment", STRANGER, *options, "--overwrite", "--json").json
    assert document["worth"] is True and document["verdict"]["cost"] < 0.5 and document["exact"]
    assert document["left_out"] == {} and document["bundle"] == str(out)
    assert "Test, 500 rows, once:" in found.out and "in hindsight" in found.out
    assert document["test"]["verdict"]["n"] == 500 and document["test"]["verdict"]["accuracy"] > 0.9
    assert "time: medians of 200 rounds" in found.out and document["rounds"] == 200
    assert document["environment"]["engine"].startswith("onnxruntime") and document["environment"]["threads"] == 1
    hindsight = document["test"]["hindsight"]
    assert hindsight["0.05"] <= hindsight["0.02"] and document["test"]["verdict"]["exit_rates"]
    assert cli("inspect", out).code == 0
    assert "exists already" in cli("augment", STRANGER, *options).error


def test_a_mask_is_noted_at_the_places(cli: Any, tmp_path: Path) -> None:
    net = Net()
    net.op("MatMul", ["x", net.weight("w0", 4, 8)], "a")
    net.op("MatMul", ["a", net.weight("w1", 8, 8)], "b")
    net.op("Unsqueeze", ["mask", net.ints("two", 2)], "wide")
    net.op("Mul", ["b", "wide"], "kept")
    net.op("MatMul", ["kept", net.weight("w2", 8, 8)], "c")
    net.op("ReduceMean", ["c", net.ints("one", 1)], "mean", keepdims=0)
    net.head("mean", 8, "y")
    model = save(net.model({"x": ["batch", "time", 4], "mask": ["batch", "time"]}, {"y": ["batch", 3]}), tmp_path)
    bare = cli("augment", model, "--list", "--json").json["places"]
    assert [(p["name"], p["mask"]) for p in bare] == [("kept", None)]
    places = cli("augment", model, "--list", "--mask", "mask", "--json").json["places"]
    assert [(p["name"], p["mask"]) for p in places] == [("a", "mask"), ("kept", "mask")]
    assert "'musk' cannot be set aside" in cli("augment", model, "--list", "--mask", "musk").error
    rng = np.random.default_rng(0)
    shift = np.where(rng.random((60, 5)) < 0.5, 0, -np.float32(1e4)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=rng.standard_normal((60, 5, 4)).astype(np.float32), mask=shift)
    options = ("--data", tmp_path / "d.npz", "--out", tmp_path / "a.edgeexit", "--mask", "mask", "--pool", "last")
    refused = cli("augment", model, *options)
    assert refused.code == 1 and "An additive mask (0 and -inf) is not supported" in refused.err


def test_refused(cli: Any, tmp_path: Path) -> None:
    assert "takes --data and --out, or --list alone" in cli("augment", STRANGER).error
    assert "no such file" in cli("augment", tmp_path / "none.onnx", "--list").error


def test_the_answer_is_any_tensor_and_its_kind_is_told(cli: Any, tmp_path: Path) -> None:
    net = Net()
    net.op("MatMul", ["x", net.weight("w0", 6, 24)], "f0")
    net.op("Relu", ["f0"], "f1")
    net.op("MatMul", ["f1", net.weight("w1", 24, 24)], "f2")
    net.head("f2", 24, "logits")
    net.op("Sigmoid", ["logits"], "y")
    net.head("f2", 24, "unused")  # leads on to no output
    model = save(net.model({"x": ["batch", 6]}, {"y": ["batch", 3]}), tmp_path)
    told = cli("augment", model, "--list")
    assert told.code == 0 and "note: exit 'y' gives numbers from" in told.err and "taken for logits" in told.err
    for more in (("--outputs", "probs"), ("--output", "logits"), ("--output", "unused")):
        found = cli("augment", model, "--list", *more)
        assert found.code == 0 and "note:" not in found.err and "f1" in found.out
    assert "exit 'nought' is not a tensor of the graph" in cli("augment", model, "--list", "--output", "nought").error
    refused = cli("augment", model, "--list", "--output", "logits", "--outputs", "probs").error
    assert "--outputs probs: exit 'logits' gives no probabilities, but numbers from" in refused


def test_not_worth_it_says_how_to_write_it_anyway(cli: Any, tmp_path: Path) -> None:
    net = Net()
    net.op("MatMul", ["x", net.weight("w0", 6, 32)], "f0")
    net.op("MatMul", ["f0", net.weight("w1", 32, 32)], "f1")
    net.head("f1", 32, "y")
    model = save(net.model({"x": ["batch", 6]}, {"y": ["batch", 3]}), tmp_path)
    x = np.random.default_rng(0).standard_normal((600, 6)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x)
    out = tmp_path / "a.edgeexit"
    options = ("--data", tmp_path / "d.npz", "--out", out, "--drop", 0.1)
    found = cli("augment", model, *options, "--test", tmp_path / "d.npz")
    assert found.code == 0 and found.out.startswith("Not worth it: exit 0 alone") and not out.exists()
    assert "No bundle was written; --anyway writes it." in found.out and "wrote" not in found.out
    assert "was not measured, as no bundle was written" in found.err
    document = cli("augment", model, *options, "--json").json
    assert document["worth"] is False and document["bundle"] is None and not out.exists()
    assert f"wrote {out}" in cli("augment", model, *options, "--anyway").out and out.is_dir()
