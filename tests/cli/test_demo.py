"""`edgeexit demo` trains, exports, calibrates and measures, and what it leaves works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeexit.bench.verify import verify
from edgeexit.bundle.bundle import Bundle

pytest.importorskip("onnxruntime", reason="runs the exported network")
pytest.importorskip("torch", reason="trains a network")
pytest.importorskip("onnxscript", reason="exports a torch network")
pytest.importorskip("matplotlib", reason="draws figures")


@pytest.mark.slow
def test_demo(cli: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = cli("demo", "--out", out, "--json").json
    adaptive, *_, last = found["rows"]
    assert adaptive["name"] == "adaptive (balanced)" and adaptive["cost"] < last["cost"]
    assert adaptive["accuracy"] > last["accuracy"] - 0.02 and min(found["trained_accuracy"]) > 0.8
    bundle = Bundle.open(out / "digits.edgeexit")
    assert bundle.manifest.default_policy == "balanced" and all(v.passed for v in verify(bundle))
    left = {"digits.edgeexit", "report.html", "sweep.csv", "sweep.json", "sweep.png", "promises.csv", "promises.png"}
    assert {p.name for p in out.iterdir()} == left | {"val.npz", "test.npz"}
    assert cli("run", out / "digits.edgeexit", "--input", out / "test.npz", "--row", 7).code == 0
