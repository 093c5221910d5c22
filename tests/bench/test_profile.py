"""Device profiles: `edgeexit bench --save` and what uses them; profiles of other content or machines are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import edgeexit
from edgeexit.bench.profile import SCHEMA, ArtifactTimes, Profile, model_hashes, use_profile
from edgeexit.common.environment import environment
from edgeexit.engine.engine import Engine
from edgeexit.errors import DataError, PolicyError


@pytest.fixture
def engine(tiny: Path) -> Engine:
    return edgeexit.load(tiny, artifact="chain", exit=-1, warmup=2)


def profile_of(engine: Engine, /, **changes: object) -> Profile:
    times = {"seconds": (1e-3,) * 3, "ahead": (2e-3,) * 3, "n": 5, "engine": engine.backend.version()}
    entry = ArtifactTimes(**({**times, "files": model_hashes(engine.artifact)} | changes))  # type: ignore[arg-type]
    return Profile(engine.bundle.manifest.name, environment(threads=1), {engine.artifact.name: entry})


def test_a_profile_of_this_artifact_is_used(engine: Engine, tmp_path: Path) -> None:
    profile_of(engine).write(tmp_path / "p.json")
    times = use_profile(engine, tmp_path / "p.json")
    assert engine.seconds == times.seconds == (1e-3,) * 3
    assert [engine.driver.times.predicted(k) for k in range(3)] == list(times.ahead)


def test_a_profile_of_another_content_is_refused(engine: Engine, tmp_path: Path) -> None:
    path, before = tmp_path / "p.json", engine.seconds
    first, *rest = model_hashes(engine.artifact).items()
    for changes, message in (
        (
            {"files": dict([(first[0], "0" * 64), *rest])},
            r"another content of .*sha256 000000000000\.\.\., in this bundle",
        ),
        ({"files": dict(rest)}, r"had sha256 none \(no such file\)"),
        ({"files": dict([first, *rest, ("more.onnx", "1" * 64)])}, r"in this bundle it has none \(no such file\)"),
        ({"files": {"x" * 10_000: ["y"] * 1000}}, "another content"),
        ({"files": None}, "lack n, engine or files"),
        ({"engine": "onnxruntime 0.1"}, r"measured with 'onnxruntime 0\.1', this is"),
    ):
        profile_of(engine, **changes).write(path)
        with pytest.raises(DataError, match=message) as refusal:
            use_profile(engine, path)
        assert "run `edgeexit bench --save` again" in str(refusal.value) and len(str(refusal.value)) < 500
    assert engine.seconds == before


def test_a_profile_without_hashes_is_refused(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"schema": 1, "bundle": "tiny", "artifacts": {}}')
    with pytest.raises(DataError, match=r"schema 1, which does not say which artifact .* expected schema 2: run"):
        use_profile(engine, tmp_path / "p.json")


def test_a_profile_of_times_that_are_none(engine: Engine, tmp_path: Path) -> None:
    before = engine.seconds
    for seconds, ahead in (("[1" + "0" * 400 + ", 1, 1]", "[1, 1, 1]"), ("[1, 1, 1]", "[]"), ("[1, 1]", "[1, 1]")):
        document = {"schema": SCHEMA, "bundle": engine.bundle.manifest.name, "environment": environment(threads=1)}
        what = json.dumps({"n": 1, "engine": engine.backend.version(), "files": model_hashes(engine.artifact)})
        entry = f'{{"{engine.artifact.name}": {{"seconds": {seconds}, "ahead": {ahead}, {what[1:]}}}'
        (tmp_path / "p.json").write_text(json.dumps(document)[:-1] + f', "artifacts": {entry}}}')
        with pytest.raises(PolicyError, match="positive times"):
            use_profile(engine, tmp_path / "p.json")
    assert engine.seconds == before


def test_a_profile_of_another_machine_is_refused_in_few_words(engine: Engine, tmp_path: Path) -> None:
    mine, name = environment(threads=1), engine.bundle.manifest.name
    for where, artifacts, message in (
        (mine | {"device": "x" * 100_000}, {}, "measured on device"),
        (mine | {"threads": 4}, {}, "measured on threads 4"),
        (mine, {"a" * 100_000: 1}, "no times of"),
    ):
        document = {"schema": SCHEMA, "bundle": name, "environment": where, "artifacts": artifacts}
        (tmp_path / "p.json").write_text(json.dumps(document))
        with pytest.raises(DataError, match=message) as found:
            use_profile(engine, tmp_path / "p.json")
        assert len(str(found.value)) < 600
