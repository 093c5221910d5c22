"""The bundle inside the package: opened by name, with inputs to try, and never changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgeexit
from edgeexit.bench.verify import verify
from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.shipped import is_shipped, locate, shipped_names
from edgeexit.engine import backends
from edgeexit.engine.backends import Backend

LIMIT = 220_000


def test_is_small() -> None:
    assert shipped_names() == ["digits"]
    assert sum(f.bytes for f in Bundle.open("digits").manifest.files) < LIMIT


def test_answers_its_examples(onnx: Backend) -> None:
    engine = edgeexit.load("digits")
    assert engine.point is not None and engine.point.name == "balanced"
    decisions = [engine.run(x) for x in engine.examples()]
    assert {d.exit for d in decisions} == {0, 1, 2}
    assert [d.name for d in decisions] == ["0", "1", "8", "3", "4", "3", "6", "7"]
    assert all(v.passed for v in verify(engine.bundle))


def test_a_path_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_shipped(locate("digits")) and locate(Path("digits")) == locate("digits")
    assert locate("./digits/") == locate("digits")
    assert locate("digits.edgeexit") == Path("digits.edgeexit")
    assert locate(tmp_path / "digits") == tmp_path / "digits"
    (tmp_path / "digits").mkdir()
    assert locate("digits") == Path("digits")
    with pytest.raises(edgeexit.BundleError, match=r"not a bundle, it has no manifest\.json"):
        Bundle.open("digits")


def test_unknown_names_list_what_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(edgeexit.BundleError, match=r"no such bundle; .* makes one; shipped inside the package: digits"):
        Bundle.open("digit")
    with pytest.raises(edgeexit.BundleError, match=r"makes one$"):
        Bundle.open(tmp_path / "digit")


def test_is_read_only() -> None:
    bundle = Bundle.open("digits")
    with pytest.raises(edgeexit.BundleError, match="part of the installed package; copy this folder"):
        bundle.update(lambda now: ({}, now.manifest))


def test_examples_that_do_not_fit(onnx: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = edgeexit.load("digits")
    monkeypatch.setattr(Bundle, "arrays", lambda self, spec: {"input_0": np.array(1.0)})
    with pytest.raises(edgeexit.BundleError, match="needs rows of every input"):
        engine.examples()


@pytest.fixture
def onnx() -> Backend:
    try:
        return backends.get("onnx")
    except edgeexit.BackendMissing as e:
        pytest.skip(str(e))
