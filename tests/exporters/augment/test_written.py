"""What becomes of fitted exits at the end: a bundle, one without a layout, or at least a file of theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_models import Net, save
from rounding_nets import Encoder, rows

import edgeexit
from edgeexit.bench.verify import verify
from edgeexit.errors import ExportMismatch, ModelError
from edgeexit_exporters.augment.flow import augment
from edgeexit_exporters.source.source import Source
from edgeexit_exporters.source.torch_source import from_torch

OPTIONS: dict[str, Any] = {"drop": 0.6, "mask": "attention_mask", "candidates": 3, "exits": 2, "anyway": True}


@pytest.fixture(scope="module")
def encoder() -> Source:
    """In the fused graph, its answer differs by 4e-6 of the largest; elsewhere it is equal to the bit."""
    return from_torch(Encoder(30.0).eval(), single=True)


def test_a_transformer_gets_all_its_layouts(encoder: Source, tmp_path: Path) -> None:
    """Its rounding is more than the 1e-6 that smaller networks keep to, as it is between optimisation levels."""
    found = augment(encoder, rows(400), None, tmp_path / "a.edgeexit", **OPTIONS)
    assert found.bundle is not None and not found.left_out
    assert {a.layout for a in found.bundle.manifest.artifacts} == {"fused", "chain", "prefix", "all"}
    errors = {a.layout: a.check.max_error[-1] for a in found.bundle.manifest.artifacts if a.check is not None}
    assert 1e-6 < errors["fused"] < 1e-4 and errors["chain"] == errors["prefix"] == 0
    assert all(v.passed for v in verify(found.bundle))


def test_a_layout_that_fails_leaves_the_others(encoder: Source, tmp_path: Path) -> None:
    said: list[str] = []
    options = {**OPTIONS, "tolerance": 1e-6, "progress": said.append}
    found = augment(encoder, rows(400), None, tmp_path / "a.edgeexit", **options)
    assert found.bundle is not None
    assert [a.layout for a in found.bundle.manifest.artifacts] == ["chain", "prefix", "all"]
    assert list(found.left_out) == ["onnx-fused-fp32"] and "tolerance 1e-06" in found.left_out["onnx-fused-fp32"]
    start = "warning: no onnx-fused-fp32 in the bundle, the other layouts are: onnx-fused-fp32: exit"
    assert any(line.startswith(start) for line in said)
    assert found.bundle.manifest.provenance["left_out"] == found.left_out
    engine = edgeexit.load(found.bundle, policy="augmented")
    assert engine.artifact.layout == "chain"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.edgeexit"]


def test_an_asked_for_layout_that_fails_is_an_error_that_keeps_the_exits(encoder: Source, tmp_path: Path) -> None:
    saved = tmp_path / "a-exits.onnx"
    for path in (saved, tmp_path / "a-exits-2.onnx"):
        options = {**OPTIONS, "tolerance": 1e-6, "layouts": ("fused", "chain")}
        with pytest.raises(ExportMismatch, match=r"onnx-fused-fp32: .* is saved: edgeexit export .*exits") as e:
            augment(encoder, rows(400), None, tmp_path / "a.edgeexit", **options)
        assert path.is_file() and str(path) in str(e.value) and not (tmp_path / "a.edgeexit").exists()
    bundle = edgeexit.export(saved, tmp_path / "b.edgeexit")
    assert len(bundle.manifest.exits) >= 2 and bundle.manifest.exits[0].name == "edgeexit_augment_exit0"


def test_layouts_that_decide_nothing_are_refused_before_the_work(encoder: Source, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"layouts prefix, all: none of them decides .*; add fused or chain"):
        augment(encoder, rows(10), None, tmp_path / "a", layouts=("prefix", "all"), progress=pytest.fail)
    with pytest.raises(ModelError, match=r"--tolerance -1.0: expected a number above 0"):
        augment(encoder, rows(10), None, tmp_path / "a", tolerance=-1.0, progress=pytest.fail)


def parted(folder: Path) -> Path:
    """A classifier of 3 classes whose Softmax is written in parts."""
    net = Net()
    net.op("MatMul", ["x", net.weight("w0", 6, 24)], "a0")
    net.op("Relu", ["a0"], "f0")
    net.op("MatMul", ["f0", net.weight("w1", 24, 24, scale=0.3)], "a1")
    net.op("Relu", ["a1"], "f1")
    net.weight("head_z", 24, 3, scale=3)
    net.head("f1", 24, "z")
    net.op("ReduceMax", ["z"], "top", axes=[-1], keepdims=1)
    net.op("Sub", ["z", "top"], "shifted")
    net.op("Exp", ["shifted"], "powers")
    net.op("ReduceSum", ["powers", net.ints("last", -1)], "total", keepdims=1)
    net.op("Div", ["powers", "total"], "y")
    return save(net.model({"x": ["batch", 6]}, {"y": ["batch", 3]}, opset=17), folder)


def test_heads_of_a_softmax_in_parts_learn_sharp_targets(tmp_path: Path) -> None:
    """Taken for logits, its answers would be near-uniform targets, and its scores between 1/3 and 0.58."""
    x = {"x": np.random.default_rng(0).standard_normal((800, 6)).astype(np.float32)}
    path = parted(tmp_path)
    bundles = {}
    for outputs in ("auto", "logits"):
        found = augment(path, x, None, tmp_path / outputs, drop=0.2, outputs=outputs, anyway=True)
        assert found.bundle is not None
        bundles[outputs] = found.bundle
    kinds = {outputs: [e.kind for e in b.manifest.exits] for outputs, b in bundles.items()}
    assert kinds["auto"][-1] == "probs" and kinds["logits"][-1] == "logits" and kinds["auto"][0] == "logits"
    first = {}
    for outputs, bundle in bundles.items():
        engine = edgeexit.load(bundle, artifact="chain", warmup=0)
        engine.policy = edgeexit.fixed_exit(0, engine.exits)
        first[outputs] = float(np.median(engine.run_batch(x).scores))
    assert first["auto"] > 0.8 and first["logits"] < 0.6


def test_not_worth_it_writes_no_bundle_unless_asked(tmp_path: Path) -> None:
    """A first exit as good as the last: stopping there always is cheaper."""
    rng = np.random.default_rng(0)
    net = Net()
    net.op("MatMul", ["x", net.weight("w0", 6, 32)], "f0")
    net.op("MatMul", ["f0", net.weight("w1", 32, 32)], "f1")
    net.head("f1", 32, "y")
    path = save(net.model({"x": ["batch", 6]}, {"y": ["batch", 3]}), tmp_path)
    x = {"x": rng.standard_normal((600, 6)).astype(np.float32)}
    found = augment(path, x, None, tmp_path / "a", drop=0.1)
    assert found.verdict is not None and found.verdict.worth is False and found.text.startswith("Not worth it: exit 0")
    assert found.bundle is None and found.point is not None and not (tmp_path / "a").exists()
    kept = augment(path, x, None, tmp_path / "a", drop=0.1, anyway=True)
    assert kept.bundle is not None and kept.text.startswith("Not worth it") and (tmp_path / "a").is_dir()
