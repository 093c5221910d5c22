"""`verify` passes a whole bundle and sees what checksums cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeexit.bench.verify import verify
from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.files import describe
from edgeexit.bundle.manifest import Artifact
from edgeexit.common.files import npz_bytes, read_npz
from edgeexit.engine.inputs import relative_error
from edgeexit.errors import BundleError

pytest.importorskip("onnxruntime")

FUSED, CHAIN, PREFIX, ALL = (f"onnx-{layout}-fp32" for layout in ("fused", "chain", "prefix", "all"))


def changed(copy: Path, artifact: str, change: Callable[[Artifact], Artifact], files: dict[str, bytes]) -> Bundle:
    """The bundle with one artifact changed, and a manifest that agrees with it."""
    bundle = Bundle.open(copy)
    artifacts = tuple(change(a) if a.name == artifact else a for a in bundle.manifest.artifacts)
    bundle.rewrite(files, replace(bundle.manifest, artifacts=artifacts))
    return Bundle.open(copy)


def with_model(copy: Path, artifact: str, k: int, raw: bytes) -> Bundle:
    bundle = Bundle.open(copy)
    spec = describe(bundle.manifest.artifact(artifact).models[k].path, raw)

    def change(a: Artifact) -> Artifact:
        return replace(a, models=(*a.models[:k], spec, *a.models[k + 1 :]))

    return changed(copy, artifact, change, {spec.path: raw})


def with_vectors(copy: Path, artifact: str, **arrays: Any) -> Bundle:
    bundle = Bundle.open(copy)
    vectors = bundle.manifest.artifact(artifact).vectors
    assert vectors is not None
    kept = {n: a for n, a in {**bundle.arrays(vectors), **arrays}.items() if a is not None}
    raw = npz_bytes(**kept)
    spec = describe("vectors/other.npz", raw)
    return changed(copy, artifact, lambda a: replace(a, vectors=spec), {spec.path: raw})


def other_weights(raw: bytes) -> bytes:
    """The same graph with one weight changed: a model that somebody trained again."""
    data = bytearray(raw)
    weights = np.random.default_rng(0).standard_normal((4, 8)) * 0.8  # w0 of make_tiny.py
    at = data.index(weights.astype(np.float32).tobytes())
    data[at : at + 16] = np.ones(4, np.float32).tobytes()
    return bytes(data)


def test_a_whole_bundle(tiny: Path) -> None:
    found = verify(Bundle.open(tiny))
    assert [v.artifact for v in found] == [FUSED, CHAIN, PREFIX, ALL]
    for v in found:
        assert v.passed is True and v.reason == "" and v.inputs == 8 and v.tolerance == 1e-4
        assert max(v.max_error) < 1e-5 and len(v.max_error) == 3
    assert [v.exits_agree for v in found] == [8, 8, None, None]
    assert [v.artifact for v in verify(Bundle.open(tiny), CHAIN)] == [CHAIN]


@pytest.mark.parametrize("artifact", [FUSED, CHAIN, PREFIX, ALL])
def test_other_weights(copy: Path, artifact: str) -> None:
    raw = (copy / Bundle.open(copy).manifest.artifact(artifact).models[0].path).read_bytes()
    bundle = with_model(copy, artifact, 0, other_weights(raw))
    found = {v.artifact: v for v in verify(bundle)}
    assert [a for a, v in found.items() if not v.passed] == [artifact]
    assert "exit 'y0' differs by" in found[artifact].reason and "tolerance 1e-04" in found[artifact].reason
    assert found[artifact].max_error[0] > 1e-2


def test_a_stage_of_another_exit(copy: Path) -> None:
    raw = (copy / f"artifacts/{PREFIX}/exit_1.onnx").read_bytes()
    with pytest.raises(BundleError, match=f"artifact {PREFIX}: the model file gives no 'y0'"):
        verify(with_model(copy, PREFIX, 0, raw))


def test_not_a_model(copy: Path) -> None:
    with pytest.raises(BundleError, match=r"stage_1\.onnx: onnxruntime cannot load it"):
        verify(with_model(copy, CHAIN, 1, b"no model"))


def test_wrong_exits(copy: Path) -> None:
    """Outputs as they should be, decisions not: a fused graph whose comparison was turned round."""
    vectors = Bundle.open(copy).manifest.artifact(FUSED).vectors
    assert vectors is not None
    exits = Bundle.open(copy).arrays(vectors)["exits"]
    found = verify(with_vectors(copy, FUSED, exits=2 - exits), FUSED)[0]
    moved = int((exits != 2 - exits).sum())
    assert moved > 3
    assert found.passed is False and found.exits_agree == 8 - moved
    assert found.reason == f"{moved} of 8 inputs left at another exit than expected"


def test_an_output_of_minus_infinity() -> None:
    """A masked class is -inf on both sides, which is no error."""
    masked = np.array([[1.0, -np.inf, 2.0]], np.float32)
    assert relative_error(masked, masked) == 0
    assert relative_error(masked + np.float32(0.2), masked) == pytest.approx(0.1)
    assert relative_error(np.array([[1.0, 0.0, 2.0]], np.float32), masked) == float("inf")


def test_outputs_of_another_shape(copy: Path) -> None:
    found = verify(with_vectors(copy, CHAIN, output_1=np.zeros((8, 5), np.float32)), CHAIN)[0]
    assert found.passed is False and found.max_error[1] == float("inf")


DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "no thresholds": ({"thresholds": None}, "lacks 'thresholds'"),
    "no input": ({"input_0": None}, "lacks 'input_0'"),
    "no output": ({"output_2": None}, "lacks 'output_2'"),
    "thresholds": ({"thresholds": np.zeros(5, np.float32)}, r"'thresholds' has shape \(5,\), expected \(2,\)"),
    "exits": ({"exits": np.zeros((8, 3), np.int64)}, r"'exits' has shape \(8, 3\), expected \(8,\)"),
    "score": ({"score": np.array(["maxprob"])}, "'score' has shape"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_vectors(copy: Path, case: str) -> None:
    arrays, message = DAMAGED[case]
    with pytest.raises(BundleError, match=message):
        verify(with_vectors(copy, CHAIN, **arrays), CHAIN)


def test_no_vectors(copy: Path) -> None:
    bundle = changed(copy, ALL, lambda a: replace(a, vectors=None), {})
    found = verify(bundle, ALL)[0]
    assert found.passed is None and found.reason == "ships no vectors"


def test_a_format_for_another_device(copy: Path) -> None:
    bundle = changed(copy, ALL, lambda a: replace(a, format="abacus"), {})
    found = verify(bundle, ALL)[0]
    assert found.passed is None and "no engine for format 'abacus'" in found.reason


def test_the_vectors_tell_apart(tiny: Path) -> None:
    """Vectors that all leave at one exit would test little."""
    document = json.loads((tiny / "manifest.json").read_text())
    for path in {a["vectors"]["path"] for a in document["artifacts"]}:
        arrays = read_npz(tiny / path)
        assert set(arrays["exits"].tolist()) == {0, 1, 2}
        s, t = arrays["scores"][:, :2], arrays["thresholds"]
        first = np.where((s >= t).any(1), (s >= t).argmax(1), 2)
        np.testing.assert_array_equal(first, arrays["exits"])
        assert np.abs(s - t).min() > 1e-4


@pytest.mark.parametrize("artifact", [FUSED, CHAIN, PREFIX, ALL])
def test_answers_that_are_not_finite(copy: Path, artifact: str) -> None:
    """Whatever the vectors say: NaN is no answer that anything could agree with."""
    raw = (copy / Bundle.open(copy).manifest.artifact(artifact).models[0].path).read_bytes()
    weights = (np.random.default_rng(0).standard_normal((4, 8)) * 0.8).astype(np.float32).tobytes()
    broken = raw.replace(weights, np.full(32, np.nan, np.float32).tobytes())
    with_model(copy, artifact, 0, broken)
    wrong = np.full((8, 3), np.nan, np.float32)
    bundle = with_vectors(copy, artifact, output_0=wrong, output_1=wrong, output_2=wrong)
    found = verify(bundle, artifact)[0]
    assert found.passed is False
    if artifact == FUSED:  # whose own score of NaN says 1, or goes on
        assert "has a NaN score at exit 0 ('y0')" in found.reason or "exit 'y0' answers with NaN" in found.reason
    else:
        assert "exit 'y0' answers with NaN at [0, 0]" in found.reason and "to vector 0" in found.reason
