"""TFLite files on the engine of this machine: `ai_edge_litert`, or its predecessor `tflite_runtime`."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edgeexit
from edgeexit import Threshold, fixed_exit
from edgeexit.bench.verify import verify
from edgeexit.bundle.bundle import Bundle
from edgeexit.engine import backends
from edgeexit.errors import BundleError, DataError, PolicyError
from edgeexit_runtimes.litert import LitertBackend, LitertRunnable

if (missing := LitertBackend().check()) is not None:
    pytest.skip(missing, allow_module_level=True)

X = 2 * np.random.default_rng(2).standard_normal((12, 2, 6, 5)).astype(np.float32)
PRECISIONS = ("fp32", "int8")


@pytest.fixture
def path(tiny: Path) -> Path:
    """The bundle that `make_tiny_tflite.py` made: 3 exits, pictures of 2 x 6 x 5, 3 classes. Do not change it."""
    return tiny.parent / "tiny-tflite.edgeexit"


@pytest.fixture
def bundle(path: Path) -> Bundle:
    return Bundle.open(path)


def model(bundle: Bundle, artifact: str, k: int = 0) -> Path:
    return bundle.file(bundle.manifest.artifact(artifact).models[k])


unverified = pytest.mark.skipif(
    LitertBackend().version().startswith("tflite-runtime"),
    reason="tflite-runtime reads files unchecked, and dies of damaged ones; there the bundle's checksums refuse them",
)


def stages(bundle: Bundle, precision: str = "fp32") -> Sequence[LitertRunnable]:
    return LitertBackend().load(model(bundle, f"tflite-chain-{precision}"), threads=1)


def test_every_artifact_verifies(bundle: Bundle) -> None:
    """The vectors were made by another engine, perhaps: within the tolerance that the manifest states."""
    found = verify(bundle)
    assert {v.artifact for v in found} == {
        f"tflite-{layout}-{p}" for layout in ("fused", "chain", "prefix") for p in PRECISIONS
    }
    assert all(v.passed for v in found), found


@pytest.mark.parametrize("precision", PRECISIONS)
def test_fused_chain_and_prefix_answer_alike_at_every_exit(bundle: Bundle, precision: str) -> None:
    engines = {
        w: edgeexit.load(bundle, artifact=f"tflite-{w}-{precision}", warmup=0) for w in ("fused", "chain", "prefix")
    }
    for k in range(3):
        found: dict[str, NDArray[Any]] = {}
        for layout, engine in engines.items():
            engine.policy = fixed_exit(k, 3)
            one_by_one = [engine.run(x) for x in X]
            assert {d.exit for d in one_by_one} == {k}
            found[layout] = np.stack([d.output for d in one_by_one])
            np.testing.assert_array_equal(engine.run_batch(X).outputs, found[layout])
        for layout in ("chain", "prefix"):
            near = 0.0 if precision == "int8" else 1e-5
            np.testing.assert_allclose(found[layout], found["fused"], rtol=near, atol=near)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_thresholds_leave_at_the_same_exits(bundle: Bundle, precision: str) -> None:
    chain = edgeexit.load(bundle, artifact=f"tflite-chain-{precision}", warmup=0)
    scores = np.sort(chain.record(X).scores("maxprob")[:-1], axis=1)
    gaps = np.diff(scores, axis=1)[:, 3:-3].argmax(1) + 3
    policy = Threshold(tuple(float(s[i] + s[i + 1]) / 2 for s, i in zip(scores, gaps, strict=True)))
    chain.policy = policy
    fused = edgeexit.load(bundle, artifact=f"tflite-fused-{precision}", policy=policy, warmup=0)
    taken = [chain.run(x).exit for x in X]
    assert len(set(taken)) > 1
    assert [fused.run(x).exit for x in X] == taken
    assert chain.run_batch(X).exits.tolist() == taken


@pytest.mark.parametrize("layout", ["fused", "chain", "prefix"])
def test_answers_that_are_not_finite(bundle: Bundle, layout: str) -> None:
    """Inputs that are finite, and too large for the network's sums."""
    engine = edgeexit.load(bundle, artifact=f"tflite-{layout}-fp32", warmup=0)
    huge = np.full((2, 6, 5), 3e38, np.float32)
    huge.ravel()[::2] *= -1
    for k in range(3):
        engine.policy = fixed_exit(k, 3)
        with pytest.raises(DataError, match=rf"tflite-{layout}-fp32: .*exit {k} \('exit{k}'\)"):
            engine.run(huge)
        with pytest.raises(DataError, match=rf"exit {k} \('exit{k}'\)"):
            engine.run_batch(np.stack([X[0], huge]))
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(DataError, match=r"input 'image' holds .* at \[0, 1, 5, 4\]"):
            engine.run(np.where(np.arange(60).reshape(2, 6, 5) == 59, np.float32(value), X[0]))


def test_int8_answers_near_float(bundle: Bundle) -> None:
    exact, coarse = (edgeexit.load(bundle, artifact=f"tflite-chain-{p}", warmup=0).record(X) for p in PRECISIONS)
    assert np.abs(coarse.outputs - exact.outputs).max() <= 0.1 * np.abs(exact.outputs).max()
    assert not np.array_equal(coarse.outputs, exact.outputs)


def test_points_are_for_their_own_artifact(bundle: Bundle) -> None:
    for p in PRECISIONS:
        assert edgeexit.load(bundle, policy=f"tflite-{p}", warmup=0).artifact.name == f"tflite-fused-{p}"
    with pytest.raises(PolicyError, match="calibrated on tflite-fused-fp32; tflite-fused-int8 gives other scores"):
        edgeexit.load(bundle, artifact="tflite-fused-int8", policy="tflite-fp32", warmup=0)


def test_the_engine_says_which_it_is() -> None:
    name, version = backends.get("tflite").version().split(" ")
    assert name in ("ai-edge-litert", "tflite-runtime") and version[0].isdigit()


@pytest.mark.parametrize("wrong", [X[0, :1], X[0].transpose(1, 2, 0), X[0, :, :-1], X[:1, :, :, :1]], ids=str)
def test_inputs_of_other_shapes_are_refused(bundle: Bundle, wrong: NDArray[Any]) -> None:
    for layout in ("fused", "chain"):
        with pytest.raises(DataError, match="image"):
            edgeexit.load(bundle, artifact=f"tflite-{layout}-fp32", warmup=0).run(wrong)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_runnable_refuses_what_the_engine_takes_in_silence(bundle: Bundle, precision: str) -> None:
    first = stages(bundle, precision)[0]
    dtype = {"fp32": "float32", "int8": "int8"}[precision]
    right = np.zeros((1, 6, 5, 2), dtype)
    assert len(first.run([right])) == len(first.outputs)
    for wrong in (
        np.zeros((1, 2, 6, 5), dtype),  # channels first
        np.zeros((2, 6, 5, 2), dtype),
        np.zeros((6, 5, 2), dtype),
        np.zeros((1, 6, 5, 2, 1), dtype),
        right.astype("float64"),
        right.astype("uint8"),
    ):
        with pytest.raises(DataError, match=rf"LiteRT takes 'image' as {dtype}\[1, 6, 5, 2\], found {wrong.dtype}"):
            first.run([wrong])


def test_stages_come_in_order(bundle: Bundle) -> None:
    made = [[n for n in r.outputs if n.startswith("exit")] for r in stages(bundle)]
    assert made == [["exit0"], ["exit1"], ["exit2"]]


def test_results_are_not_overwritten_by_the_next_run(bundle: Bundle) -> None:
    first = stages(bundle)[0]
    rows = X.transpose(0, 2, 3, 1)
    kept = first.run([np.ascontiguousarray(rows[:1])])
    before = [a.copy() for a in kept]
    first.run([np.ascontiguousarray(rows[1:2])])
    for a, b in zip(kept, before, strict=True):
        np.testing.assert_array_equal(a, b)


@unverified
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9])
def test_truncated_files_are_refused(bundle: Bundle, tmp_path: Path, share: float) -> None:
    raw = model(bundle, "tflite-fused-int8").read_bytes()
    (tmp_path / "cut.tflite").write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(BundleError, match=r"cut\.tflite"):
        LitertBackend().load(tmp_path / "cut.tflite", threads=1)


@unverified
def test_a_header_with_nothing_behind_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.tflite").write_bytes(b"\x1c\x00\x00\x00TFL3" + bytes(60))
    with pytest.raises(BundleError, match=r"other\.tflite: LiteRT cannot load it"):
        LitertBackend().load(tmp_path / "other.tflite", threads=1)


@pytest.mark.parametrize("raw", [b"\x08\x00\x00\x00ONNX" + bytes(100), b"", b"TFL3", bytes(8)], ids=repr)
def test_what_is_no_tflite_file(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "other.tflite").write_bytes(raw)
    with pytest.raises(BundleError, match=r"other\.tflite: not a \.tflite file: expected b'TFL3' at byte 4, found"):
        LitertBackend().load(tmp_path / "other.tflite", threads=1)


def test_a_bundle_with_a_truncated_file_is_refused(path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(path, tmp_path / "b.edgeexit"))
    at = copy / "artifacts/tflite-chain-fp32/model.tflite"
    at.write_bytes(at.read_bytes()[:-1])
    with pytest.raises(BundleError, match="tflite-chain-fp32"):
        edgeexit.load(copy, artifact="tflite-chain-fp32", warmup=0)


def only(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """As if no other interpreter were installed."""
    real = importlib.import_module

    def imported(name: str) -> ModuleType:
        if name in modules:
            return ModuleType(name)
        if name.startswith(("ai_edge_litert", "tflite_runtime")):
            raise ImportError(f"No module named {name!r}")
        return real(name)

    monkeypatch.setattr("edgeexit_runtimes.litert.importlib.import_module", imported)


def test_tflite_runtime_with_numpy_2_is_said_before_it_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would import, and end in `_ARRAY_API not found` at its first interpreter."""
    only(monkeypatch, "tflite_runtime.interpreter")
    monkeypatch.setattr(np, "__version__", "2.4.6")
    assert LitertBackend().check() == "tflite-runtime 2.14 needs numpy below 2, found 2.4.6: pip install 'numpy<2'"
    monkeypatch.setattr(np, "__version__", "1.26.4")
    assert LitertBackend().check() is None


def test_litert_does_not_mind_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "ai_edge_litert.interpreter", "tflite_runtime.interpreter")
    monkeypatch.setattr(np, "__version__", "2.4.6")
    assert LitertBackend().check() is None


def test_without_an_interpreter_the_install_line_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch)
    said = LitertBackend().check()
    assert said is not None and "pip install 'edgeexit[tflite]'" in said
    assert "ai-edge-litert: No module" in said and "tflite-runtime: No module" in said
