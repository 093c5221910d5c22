"""What decides where nothing is asked for: one rule for `load`, whichever artifact, and it says which point and why."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeexit
from edgeexit import Bundle, OperatingPoint, Patience, Threshold, fixed_exit, load
from edgeexit.bundle.codec import from_json, to_json
from edgeexit.engine import backends
from edgeexit.errors import BackendMissing, BundleError, PolicyError
from edgeexit.governor import Governor, GovernorSettings
from edgeexit.testing import FakeReader

pytest.importorskip("onnxruntime")

FUSED, CHAIN = "onnx-fused-fp32", "onnx-chain-fp32"
X = np.random.default_rng(7).standard_normal((50, 4)).astype(np.float32)


def point(name: str, artifact: str | None, threshold: float = 0.5) -> OperatingPoint:
    return OperatingPoint(name, Threshold((threshold, threshold)), artifact)


@pytest.fixture
def bare(copy: Path) -> Bundle:
    """The bundle without operating points."""
    bundle = Bundle.open(copy)
    return bundle.rewrite({}, replace(bundle.manifest, policies={}))


def test_the_first_point_becomes_the_default(bare: Bundle) -> None:
    assert load(bare.path).point is None
    bundle = bare.with_operating_point(point("a", CHAIN))
    assert bundle.manifest.default_policy == "a" and Bundle.open(bare.path).manifest == bundle.manifest
    engine = load(bare.path)
    assert engine.artifact.name == CHAIN, "the default's own artifact, though the fused one comes first"
    assert engine.point == point("a", CHAIN) and engine.policy == Threshold((0.5, 0.5))
    assert engine.policy_source == "operating point a, the bundle's default"


def test_a_second_point_changes_nothing_unless_asked(bare: Bundle) -> None:
    bundle = bare.with_operating_point(point("a", FUSED))
    before = [load(bundle).run(x).exit for x in X]
    for name, artifact in (("b", FUSED), ("A", FUSED), ("0", CHAIN)):
        bundle = bundle.with_operating_point(point(name, artifact, 0.9))
    assert load(bundle.path).point == point("a", FUSED)
    assert [load(bundle.path).run(x).exit for x in X] == before
    bundle = bundle.with_operating_point(point("a", FUSED, 0.7))  # replaced, and still the default
    assert load(bundle.path).policy_source == "operating point a, the bundle's default"
    assert load(bundle.path).policy == Threshold((0.7, 0.7))
    bundle = bundle.with_operating_point(point("c", FUSED), default=True)
    assert load(bundle.path).point == point("c", FUSED)
    bundle = bundle.with_operating_point(point("c", FUSED), default=False)
    assert bundle.manifest.default_policy is None
    assert load(bundle.path).point == point("a", FUSED, 0.7)
    assert load(bundle.path).policy_source == (
        f"operating point a, the first of 4 stored for {FUSED}, none of which is the bundle's default"
    )


def test_artifacts_follow_their_own_points(bare: Bundle) -> None:
    bundle = bare.with_operating_point(point("f", FUSED, 0.6)).with_operating_point(point("c", CHAIN, 0.7))
    fused, chain = (load(bundle, artifact=a) for a in ("fused", CHAIN))
    assert fused.point == point("f", FUSED, 0.6) and chain.point == point("c", CHAIN, 0.7)
    assert fused.policy_source == "operating point f, the bundle's default"
    assert chain.policy_source == (
        f"operating point c, the only one stored for {CHAIN}; the bundle's default, f, is of {FUSED}"
    )
    prefix = load(bundle, artifact="prefix")
    assert prefix.point is None and prefix.run(X[0]).exit == 2
    assert prefix.policy_source == (
        "no operating point for this artifact, so the last exit answers (`edgeexit calibrate` makes one); "
        f"the bundle's default, f, is of {FUSED}"
    )


def test_an_old_bundle_follows_its_first_point(tiny: Path) -> None:
    """Without the field, as bundles were before it."""
    assert Bundle.open(tiny).manifest.default_policy is None
    engine = load(tiny)
    assert engine.artifact.name == FUSED and engine.point == Bundle.open(tiny).operating_point("half-fused")
    assert engine.policy_source == f"operating point half-fused, the only one stored for {FUSED}"
    assert 0 in {engine.run(x).exit for x in X}, "it leaves early"
    assert load(tiny, artifact="chain").point == Bundle.open(tiny).operating_point("half-chain")


def test_no_point_at_all(bare: Bundle) -> None:
    engine = load(bare.path)
    assert engine.point is None and {engine.run(x).exit for x in X} == {2}
    assert engine.policy_source == (
        "no operating point for this artifact, so the last exit answers (`edgeexit calibrate` makes one)"
    )


@pytest.mark.parametrize("artifact", ["fused", "chain", "prefix"])
def test_a_fixed_exit_is_asked_for(tiny: Path, artifact: str) -> None:
    for k in (0, 1, 2):
        for asked in (k, k - 3):
            engine = load(tiny, artifact=artifact, exit=asked, warmup=0)
            assert {engine.run(x).exit for x in X[:5]} == {k}
            assert engine.point is None and engine.policy_source == f"exit {asked} as asked"
    for wrong in (3, -4):
        with pytest.raises(PolicyError, match=f"there is no exit {wrong}; the model has exits 0 to 2"):
            load(tiny, artifact=artifact, exit=wrong)
    with pytest.raises(PolicyError, match="exit is a whole number"):
        load(tiny, exit=1.0)  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="exclude each other"):
        load(tiny, exit=1, policy="half-fused")


def test_the_source_follows_the_policy(tiny: Path) -> None:
    engine = load(tiny, policy="half-fused")
    assert engine.policy_source == "operating point half-fused"
    engine.policy = fixed_exit(0, 3)
    assert engine.point is None and engine.policy_source == "a policy 'threshold' of the caller"
    engine.follow(Bundle.open(tiny).operating_point("half-fused"))
    assert engine.policy_source == "operating point half-fused"
    assert load(tiny, policy=fixed_exit(1, 3)).policy_source == "a policy 'threshold' of the caller"


def test_engines_that_are_not_here(bare: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default is of an artifact that cannot run: the next point's artifact, and it is said."""
    m = bare.manifest
    strange = replace(m.artifacts[0], name="abacus-fused-fp32", format="abacus")
    bundle = bare.rewrite({}, replace(m, artifacts=(strange, *m.artifacts)))
    bundle = bundle.with_operating_point(point("far", "abacus-fused-fp32"))
    engine = load(bundle)
    assert engine.artifact.name == FUSED and engine.point is None
    assert engine.policy_source.endswith(
        "; the bundle's default, far, is of abacus-fused-fp32, whose engine is not installed here"
    )
    engine = load(bundle.with_operating_point(point("near", CHAIN)))
    assert engine.artifact.name == CHAIN and engine.point == point("near", CHAIN)
    assert "the bundle's default, far, is of abacus-fused-fp32, whose engine is not installed" in engine.policy_source
    with pytest.raises(BackendMissing, match="abacus"):
        load(bundle, artifact="abacus-fused-fp32")
    monkeypatch.setattr(backends, "BACKENDS", {})
    with pytest.raises(BackendMissing, match="no engine for format"):
        load(bundle)


def test_points_of_recorded_outputs(bare: Bundle) -> None:
    """They belong to no artifact: one that cannot follow them goes on to the next point."""
    bundle = bare.with_operating_point(OperatingPoint("p", Patience(1)))
    fused, chain = load(bundle), load(bundle, artifact="chain")
    assert fused.artifact.name == FUSED and fused.point is None and "no operating point" in fused.policy_source
    assert chain.point is not None and chain.point.name == "p"
    assert load(bundle.with_operating_point(point("f", FUSED))).point == point("f", FUSED)


def test_a_default_that_cannot_be_followed_is_refused(bare: Bundle) -> None:
    bundle = bare.with_operating_point(OperatingPoint("two", Threshold((0.5,)), FUSED))
    with pytest.raises(PolicyError, match=r"'two', .* where none is named, cannot be followed: the policy"):
        load(bundle)
    assert load(bundle, exit=-1).run(X[0]).exit == 2
    assert load(bundle, artifact="chain").point is None
    (bundle.path / "policies/two.json").write_text("{}")
    with pytest.raises(PolicyError, match=r"policies/two\.json: operating point of schema None"):
        load(bundle)


def test_a_damaged_point_is_in_nobodys_way(bare: Bundle) -> None:
    bundle = bare.with_operating_point(point("a", FUSED)).with_operating_point(point("b", FUSED), default=False)
    (bundle.path / "policies/b.json").write_text("{}")
    assert load(bundle).point == point("a", FUSED)


@pytest.mark.parametrize("wrong", ["none", "", "../a", 5, [], {}, True])
def test_a_manifest_with_a_wrong_default(tiny: Path, wrong: Any) -> None:
    document = to_json(Bundle.open(tiny).manifest)
    assert "default_policy" not in document
    with pytest.raises(BundleError, match="default_policy"):
        from_json({**document, "default_policy": wrong})
    assert from_json({**document, "default_policy": None}).default_policy is None
    named = from_json({**document, "default_policy": "half-chain"})
    assert named.default_policy == "half-chain" and to_json(named)["default_policy"] == "half-chain"


def test_the_default_point_of_a_bundle(bare: Bundle) -> None:
    assert bare.default_point() is None and bare.default_point(FUSED) is None
    bundle = bare
    for name, artifact in (("a", CHAIN), ("b", FUSED), ("c", FUSED), ("d", None)):
        bundle = bundle.with_operating_point(point(name, artifact))

    def names(artifact: str | None = None) -> list[str]:
        return [p.name for p in bundle.points_for(artifact)]

    assert names() == ["a", "b", "c", "d"] and names(FUSED) == ["b", "c", "d"] and names(CHAIN) == ["a", "d"]
    bundle = bundle.with_operating_point(point("c", FUSED), default=True)
    assert names() == ["c", "a", "b", "d"] and names(FUSED) == ["c", "b", "d"] and names(CHAIN) == ["a", "d"]


def test_a_point_of_no_artifact_is_not_stored(bare: Bundle) -> None:
    with pytest.raises(BundleError, match="no artifact 'onnx-fused-int4'"):
        bare.with_operating_point(point("a", "onnx-fused-int4"))


def test_a_zip_follows_its_default(bare: Bundle, tmp_path: Path) -> None:
    import shutil

    bare.with_operating_point(point("a", CHAIN))
    assert load(shutil.make_archive(str(tmp_path / "tiny"), "zip", bare.path)).point == point("a", CHAIN)


def test_the_governor_goes_down_from_the_default(tiny: Path) -> None:
    from edgeexit.monitor import Reading

    engine = load(tiny)
    assert engine.point is not None
    governor = Governor(engine, FakeReader(Reading(load_per_cpu=0.1)), GovernorSettings())
    assert governor.ladder.steps[-1].point == engine.point
    governor.step()
    assert engine.point is not None and engine.point.name == "half-fused"
    governor.stop()
    assert engine.policy_source == f"operating point half-fused, the only one stored for {FUSED}"


def test_the_packages_first_example(tmp_path: Path) -> None:
    """What `help(edgeexit)` shows first runs as it stands and leaves early."""
    lines = [line.strip() for line in (edgeexit.__doc__ or "").splitlines() if line.startswith("    ")]
    script = "\n".join([*lines, "print(decision.exit, decision.reason)"])
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == "0 confident\n", done.stderr


def test_bundles_that_ship(tiny: Path) -> None:
    """Where a bundle has operating points, it names its default, and that is what runs."""
    folder = tiny.parents[2] / "models/bundles"
    if not folder.is_dir():
        pytest.skip("the repository's bundles are not here")
    for path in sorted(folder.iterdir()):
        m = json.loads((path / "manifest.json").read_text())
        assert (m.get("default_policy") is not None) == bool(m["policies"]), path
