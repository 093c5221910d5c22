"""The example package with an engine of its own, ncnn, whose networks continue after an exit."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import ncnn
import numpy as np
import pytest

import edgeexit
from edgeexit.bench.verify import verify
from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.files import describe
from edgeexit.bundle.manifest import Artifact, Port, StateSpec, TensorSpec
from edgeexit.common import plugins
from edgeexit.engine import backends
from edgeexit.errors import BackendMissing, BundleError, DataError
from edgeexit.policy.policies import Threshold
from example_packages import run_with, write_metadata
from test_examples import shape

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "extending" / "ncnn_engine"
PARAM = """7767517
14 17
Input         x    0 1 x
Counted       c0   1 1 x n0
InnerProduct  w0   1 1 n0 f0 0=8 2=32 9=1
Split         s0   1 3 f0 f00 f01 f02
InnerProduct  h0   1 1 f00 y0 0=3 2=24
Counted       c1   1 1 f01 n1
InnerProduct  w1   1 1 n1 f1 0=8 2=64 9=1
Split         s1   1 2 f1 f10 f11
InnerProduct  h1   1 1 f10 y1 0=3 2=24
Counted       c2   1 1 f11 n2
InnerProduct  w2   1 1 n2 a2 0=8 2=64
BinaryOp      add  2 1 a2 f02 s2 0=0
ReLU          r2   1 1 s2 f2
InnerProduct  h2   1 1 f2 y2 0=3 2=24
"""
"""The network of the tiny bundle, with a layer in each stage that counts its calls. Stage 2 reads a blob of stage 0."""
ORDER = ("w0", "h0", "w1", "h1", "w2", "h2")
X = np.random.default_rng(1).standard_normal((40, 4)).astype(np.float32)


def weights() -> bytes:
    """Those of `data/make_tiny.py`, as ncnn has them: a flag for float32 and (outputs, inputs) of each layer."""
    rng = np.random.default_rng(0)
    shapes = {"w0": (4, 8), "w1": (8, 8), "w2": (8, 8), "h0": (8, 3), "h1": (8, 3), "h2": (8, 3)}
    tables = {name: (rng.standard_normal(s) * 0.8).astype(np.float32) for name, s in shapes.items()}
    return b"".join(bytes(4) + np.ascontiguousarray(tables[name].T).tobytes() for name in ORDER)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The package's module, with its metadata on the path."""
    write_metadata(FOLDER, tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.syspath_prepend(FOLDER)
    plugins._entries.cache_clear()
    yield importlib.import_module("edgeexit_ncnn")
    plugins._entries.cache_clear()
    del sys.modules["edgeexit_ncnn"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stages that ncnn computed, in order: their counting layers append to it."""
    log: list[int] = []

    class Counted(ncnn.Layer):  # type: ignore[misc]
        def __init__(self, stage: int) -> None:
            super().__init__()
            self.one_blob_only, self.stage = True, stage

        def forward(self, bottom: Any, top: Any, option: Any) -> int:
            log.append(self.stage)
            top.clone_from(bottom, option.blob_allocator)
            return 0

    class CountingNet(ncnn.Net):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.counted: list[Counted] = []
            self.register_custom_layer("Counted", self.create, lambda layer: None)

        def create(self) -> Counted:
            self.counted.append(Counted(len(self.counted)))
            return self.counted[-1]

    monkeypatch.setattr(ncnn, "Net", CountingNet)
    return log


def write_network(folder: Path, param: str = PARAM, data: bytes | None = None) -> Path:
    folder.joinpath("model.bin").write_bytes(weights() if data is None else data)
    folder.joinpath("model.param").write_text(param)
    return folder / "model.param"


def add_ncnn(path: Path, layout: str = "resume", **changes: Any) -> Bundle:
    """The tiny bundle with the network for ncnn, named `ncnn`, beside its other artifacts."""
    bundle = Bundle.open(path)
    files = {"ncnn/model.param": PARAM.encode(), "ncnn/model.bin": weights()}
    model, data = (describe(name, content) for name, content in files.items())
    chain = bundle.manifest.artifact("onnx-chain-fp32")
    artifact = replace(
        Artifact("ncnn", "ncnn", layout, "fp32", None, (1.0,) * 3, (model,), (data,), chain.vectors, cuts=()), **changes
    )
    manifest = replace(bundle.manifest, artifacts=(*bundle.manifest.artifacts, artifact))
    return bundle.rewrite({f.path: files[f.path] for f in artifact.files if f.path in files}, manifest)


@pytest.fixture
def bundle(module: ModuleType, calls: list[int], copy: Path) -> Bundle:
    pytest.importorskip("onnxruntime")
    return add_ncnn(copy)


def test_every_exit_answers_as_in_onnx(bundle: Bundle) -> None:
    ours, theirs = (edgeexit.load(bundle, artifact=a).record(X) for a in ("ncnn", "onnx-chain-fp32"))
    np.testing.assert_allclose(ours.outputs, theirs.outputs, rtol=0, atol=1e-5)
    (result,) = verify(bundle, "ncnn")
    assert result.passed and result.exits_agree == result.inputs, result


def test_an_exit_continues_where_the_one_before_stopped(bundle: Bundle, calls: list[int]) -> None:
    """Each stage is computed once, and none behind the exit that answers."""
    for k in range(3):
        engine = edgeexit.load(bundle, artifact="ncnn", exit=k, warmup=0)
        calls.clear()
        assert engine.run(X[0]).exit == k
        assert calls == [*range(k + 1)]


def test_it_continues_from_the_cached_blobs(bundle: Bundle, module: ModuleType, calls: list[int]) -> None:
    """A new extractor computes the earlier stages again; and the caller may fill the array anew meanwhile."""
    (network,) = module.NcnnBackend().load(bundle.path / "ncnn/model.param", 1)
    x = X[:1].copy()
    extractor = network.start([x])
    x[:] = 100.0
    network.extract(extractor, "y0")
    resumed = network.extract(extractor, "y2")
    assert calls == [0, 1, 2]
    np.testing.assert_array_equal(resumed, network.extract(network.start([X[:1]]), "y2"))
    assert calls == [0, 1, 2] * 2


def test_stage_times_are_of_stages_that_are_computed(bundle: Bundle, calls: list[int]) -> None:
    engine = edgeexit.load(bundle, artifact="ncnn", warmup=0)
    calls.clear()
    assert len(engine.profile(2)) == 3 and min(engine.seconds or ()) > 0
    assert calls == [0, 1, 2] * 3


def test_deadlines(bundle: Bundle, calls: list[int]) -> None:
    engine = edgeexit.load(bundle, artifact="ncnn", exit=-1)
    engine.use_profile((1e-6, 1e-6, 1000.0))
    calls.clear()
    decision = engine.run(X[0], deadline_s=100.0)
    assert (decision.exit, decision.reason, decision.late) == (1, "deadline", False) and calls == [0, 1]
    assert engine.run(X[0], deadline_s=1e5).exit == 2


@pytest.mark.parametrize("batch", [None, "one"])
def test_a_batch_is_run_one_by_one(bundle: Bundle, batch: str | None, copy: Path) -> None:
    artifacts = [replace(a, batch=batch) if a.name == "ncnn" else a for a in bundle.manifest.artifacts]
    bundle = bundle.rewrite({}, replace(bundle.manifest, artifacts=tuple(artifacts)))
    policy = Threshold((0.8, 0.8))
    ours, theirs = (edgeexit.load(bundle, artifact=a, policy=policy) for a in ("ncnn", "onnx-chain-fp32"))
    ran, expected = ours.run_batch(X), theirs.run_batch(X)
    np.testing.assert_array_equal(ran.exits, expected.exits)
    np.testing.assert_allclose(ran.outputs, expected.outputs, rtol=0, atol=1e-5)
    assert len(set(ran.exits.tolist())) == 3


def test_layout_all_runs_on_the_same_file(module: ModuleType, calls: list[int], copy: Path) -> None:
    """The engine knows nothing of the layout."""
    engine = edgeexit.load(add_ncnn(copy, "all"), artifact="ncnn", warmup=0)
    assert engine.record(X[:2]).exits == 3 and calls == [0, 1, 2] * 2


def test_a_stream(bundle: Bundle, calls: list[int]) -> None:
    """As of a chain; of a network without states no input waits for a deeper stage."""
    stream = edgeexit.load(bundle, artifact="ncnn", exit=0, warmup=0).stream()
    calls.clear()
    assert [stream.step(x).exit for x in X[:2]] == [0, 0] and calls == [0, 0]
    assert stream.waiting == (0, 0, 0)


def test_network_takes_one_float_input(bundle: Bundle, module: ModuleType) -> None:
    (network,) = module.NcnnBackend().load(bundle.path / "ncnn/model.param", 1)
    for x in (X[:2], X[:1].astype(np.float64), X[0]):
        with pytest.raises(DataError, match=r"ncnn takes 'x' as float32\[1, ...\], one input per call; found float"):
            network.run([x])


@pytest.mark.parametrize(
    ("param", "data", "message"),
    [
        ("garbage", None, r"not an ncnn .param file: expected b'7767517' at its start, found b'garbage'"),
        (PARAM.replace("ReLU ", "Bogus"), None, "ncnn cannot load it or its weights model.bin"),
        (PARAM.replace("14 17", "140 17"), None, "ncnn cannot load it"),
        (PARAM, weights()[:-4], "ncnn cannot load it"),
        (PARAM.replace("1 1 f11 n2", "1 1 f1 n2"), None, "several layers read blob 'f1'; expected a Split layer"),
    ],
)
def test_files_that_are_none(
    module: ModuleType, calls: list[int], tmp_path: Path, param: str, data: bytes | None, message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        module.NcnnBackend().load(write_network(tmp_path, param, data), 1)


def test_missing_weights(module: ModuleType, tmp_path: Path) -> None:
    path = write_network(tmp_path)
    path.with_suffix(".bin").unlink()
    with pytest.raises(BundleError, match=r"its weights model\.bin are missing"):
        module.NcnnBackend().load(path, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ports": (Port("x", "float32"),)}, "layout resume takes an ncnn network without ports, found a Ported"),
        ({"data": ()}, "ncnn/model.bin is not in its data, so its sha256 is not checked"),
    ],
)
def test_artifacts_that_are_refused(
    module: ModuleType, calls: list[int], copy: Path, changes: dict[str, Any], message: str
) -> None:
    bundle = add_ncnn(copy, **changes)
    (bundle.path / "ncnn/model.bin").write_bytes(weights())
    with pytest.raises(BundleError, match=message):
        edgeexit.load(bundle, artifact="ncnn")


def test_states_are_refused(bundle: Bundle) -> None:
    m = bundle.manifest
    state = StateSpec(TensorSpec("h", "float32", (1, 4)), "next_h")
    first = replace(m.stages[0], inputs=("x", "h"), outputs=(*m.stages[0].outputs, "next_h"), states=(state,))
    artifact = replace(m.artifact("ncnn"), vectors=None)
    m = replace(m, batch="one", stages=(first, *m.stages[1:]), artifacts=(artifact,), policies={}, default_policy=None)
    with pytest.raises(BundleError, match="the file of stage 0 gives no state 'next_h'"):
        edgeexit.load(bundle.update(lambda now: ({}, m)), artifact="ncnn")


def test_changed_files_are_refused(bundle: Bundle) -> None:
    for name in ("model.param", "model.bin"):
        path = bundle.path / "ncnn" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + b"1")
        with pytest.raises(BundleError, match=f"{name} was changed"):
            Bundle.open(bundle.path)
        path.write_bytes(whole)


def test_without_ncnn(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(BackendMissing, match=r"'ncnn' artifacts need ncnn .*: pip install ncnn"):
        backends.get("ncnn")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the example has run."""
    for name in ("pnnx", "onnx_ir", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    folder = tmp_path_factory.mktemp("ncnn")
    write_metadata(FOLDER, folder / "site")
    done = run_with(FOLDER, folder, FOLDER / "ncnn_engine.py")
    assert done.returncode == 0, done.stderr
    folder.joinpath("printed.txt").write_text(done.stdout)
    return folder


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = run_with(FOLDER, folder, "-m", "edgeexit", *arguments)
    assert done.returncode == 0, done.stderr
    return done


def test_it_prints_what_the_readme_shows(converted: Path) -> None:
    shown = re.findall(r"```text\n(.*?)```", (FOLDER / "README.md").read_text(), re.S)
    printed = (converted / "printed.txt").read_text()
    assert shape(printed) == shape(shown[0])
    assert all(float(e) <= 1e-5 for e in re.findall(r"from ONNX (\S+) of", printed))


def test_the_command_line_runs_it(converted: Path) -> None:
    name = "digits-ncnn.edgeexit"
    assert re.search(r"ncnn-resume-fp32 +passed", command(converted, "verify", name).stdout)
    ran = command(converted, "run", name, "--input", "digits.npy", "--row", "2", "--deadline-ms", "1000").stdout
    assert re.search(r"exit \d of 0..2 .* MACs\nncnn-resume-fp32, operating point balanced", ran), ran
    timed = command(converted, "bench", name, "--n", "2").stdout
    assert len(re.findall(r"^ncnn-resume-fp32", timed, re.M)) == 3
