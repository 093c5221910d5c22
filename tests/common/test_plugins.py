"""Engines, policies, scores and tasks of other distributions: installed, found by entry point, checked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeexit
from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.codec import from_json, to_json
from edgeexit.bundle.tasks import task_of
from edgeexit.common import plugins
from edgeexit.engine import backends
from edgeexit.errors import BackendMissing, BundleError, DataError, PolicyError
from edgeexit.policy.policies import Threshold, policy_from_dict
from edgeexit.policy.scores import score_named
from edgeexit.records.base import replay

SOURCE = """
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from edgeexit.bundle.layouts import Layout
from edgeexit.bundle.tasks import Task, Uncalibrated
from edgeexit.errors import BundleError
from edgeexit.policy.base import PolicyDefaults
from edgeexit.policy.policies import fixed_exit
from edgeexit.policy.scores import Score
from edgeexit_runtimes.onnx import OnnxBackend

class Abacus(OnnxBackend):
    def version(self):
        return "abacus 1"

class NoEngine:
    def check(self): ...

class Fails:
    def __init__(self): raise RuntimeError("no beads")
    from_dict = None

@dataclass(frozen=True)
class Every(PolicyDefaults):
    kind: ClassVar[str] = "every"
    needs_labels: ClassVar[bool] = False
    score: ClassVar[str] = "gap"
    exits: ClassVar[None] = None
    temperatures: ClassVar[None] = None
    at_least: float
    def stop(self, scores, labels=()):
        return np.min(np.stack(scores), 0) >= self.at_least
    def accepts(self, score):
        return score >= 0.5
    def to_dict(self):
        return {"kind": "every", "at_least": self.at_least}
    @classmethod
    def from_dict(cls, table):
        return cls(float(table["at_least"]))

class NoPolicy:
    @classmethod
    def from_dict(cls, table):
        return cls()

class Boom:
    @classmethod
    def from_dict(cls, table):
        raise RuntimeError("boom")

gap = Score("gap", "answer", lambda z: np.ptp(z, -1) / (1 + np.ptp(z, -1)), "range of z / (1 + it)")
other_name = Score("else", "answer", lambda z: z[..., 0], "")
blind = Score("blind", "answer", lambda z: np.zeros(z.shape[:-1], np.float32), "")
no_score = len

def check(manifest, at):
    if manifest.provenance.get("sorted"):
        raise BundleError(f"{at}: sorted already")

def first(manifest, artifact):
    return Uncalibrated(fixed_exit(0, len(manifest.exits), artifact.score or "maxprob"), "sorting needs one look")

sorting = Task("sorting", default_score="margin", preferred_layout="chain", checks="edgeexit_abacus:check",
               uncalibrated="edgeexit_abacus:first")
no_task = {}
ring = Layout("ring", "edgeexit.engine.layouts.chain:Chain", "runtime", "exits", default=False)
"""
ENTRIES = {
    "edgeexit.backends": {"abacus": "Abacus", "dice": "NoEngine", "fails": "Fails", "gone": "Gone"},
    "edgeexit.policies": {"every": "Every", "vague": "NoPolicy", "boom": "Boom", "gone": "Gone"},
    "edgeexit.scores": {"gap": "gap", "blind": "blind", "another": "other_name", "len": "no_score", "gone": "Gone"},
    "edgeexit.layouts": {"ring": "ring", "bare": "no_task", "gone": "Gone"},
    "edgeexit.tasks": {"sorting": "sorting", "nothing": "no_task", "gone": "Gone"},
}
Install = Callable[[str, Mapping[str, Mapping[str, str]]], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution of one empty module on the path."""

    def put(name: str, entries: Mapping[str, Mapping[str, str]]) -> None:
        site = tmp_path / name
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{name}.py").write_text(SOURCE)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"[{g}]\n" + "".join(f"{k} = {name}:{v}\n" for k, v in e.items()) for g, e in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(site)
        plugins._entries.cache_clear()

    yield put
    plugins._entries.cache_clear()
    for name in [n for n in sys.modules if n.startswith("edgeexit_abacus")]:
        del sys.modules[name]


@pytest.fixture
def abacus(install: Install) -> None:
    install("edgeexit_abacus", ENTRIES)


def of_format(bundle: Bundle, name: str) -> Bundle:
    return bundle.rewrite(
        {}, replace(bundle.manifest, artifacts=tuple(replace(a, format=name) for a in bundle.manifest.artifacts))
    )


def test_an_engine(abacus: None, copy: Path) -> None:
    pytest.importorskip("onnxruntime")
    engine = edgeexit.load(of_format(Bundle.open(copy), "abacus"), artifact="chain")
    assert engine.backend.version() == "abacus 1" and engine.run(np.zeros(4, np.float32)).exit == engine.exits - 1


def test_the_doctor_lists_engines(abacus: None) -> None:
    pytest.importorskip("click")
    from edgeexit.cli.doctor import _registered_engines

    parts = {p["name"]: p for p in _registered_engines()}
    assert parts["abacus"]["version"] == "abacus 1" and parts["abacus"]["for"] == "run bundles of format abacus"
    assert parts["fails"]["version"] is None and "no beads" in parts["fails"]["problem"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dice", "for format 'dice', of edgeexit.backends, is a NoEngine without version"),
        ("fails", "failed: RuntimeError: no beads"),
        ("gone", r"'edgeexit_abacus:Gone' \(edgeexit_abacus 1.0\), cannot be loaded: AttributeError"),
        ("nobody", "no engine for format 'nobody'; this version runs: onnx, tflite"),
    ],
)
def test_engines_that_are_none(abacus: None, name: str, message: str) -> None:
    with pytest.raises(BackendMissing, match=message):
        backends.get(name)


def test_a_policy_and_its_score(abacus: None, tiny: Path) -> None:
    """Read from its table, run, in a batch and replayed alike; its answers reach the decisions."""
    pytest.importorskip("onnxruntime")
    policy = policy_from_dict({"kind": "every", "at_least": 0.7})
    assert policy_from_dict(policy.to_dict()) == policy and policy.score == "gap"
    engine = edgeexit.load(tiny, artifact="chain", policy=policy)
    x = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    runs = [engine.run(row) for row in x]
    batch, taken = engine.run_batch(x), replay(policy, engine.record(x))
    assert [r.exit for r in runs] == batch.exits.tolist() == taken.tolist() and len(set(taken.tolist())) > 1
    assert {r.reason for r in runs} == {"confident", "last"}
    assert [r.accepted for r in runs] == [r.score >= 0.5 for r in runs]
    with pytest.raises(PolicyError, match="'every' needs layout chain"):
        edgeexit.load(tiny, artifact="fused", policy=policy)
    engine.policy = Threshold((0.7, 0.7), "gap")
    found = engine.run(x[0])
    assert found.score == pytest.approx(float(engine.record(x[:1]).scores("gap")[found.exit, 0]), abs=1e-6)


def test_a_score_that_hides_nan(abacus: None, tiny: Path) -> None:
    """The first exit that answers with NaN is named, not the last."""
    pytest.importorskip("onnxruntime")
    engine = edgeexit.load(tiny, artifact="chain", policy=Threshold((2.0, 2.0), "blind"))

    class Nan:
        def __init__(self, inner: Any) -> None:
            self.inner, self.inputs, self.outputs = inner, inner.inputs, inner.outputs

        def run(self, values: Any) -> Any:
            return [a * np.nan for a in self.inner.run(values)]

    first, *rest = engine.driver.models  # type: ignore[attr-defined]
    engine.driver.models = [Nan(first), *rest]  # type: ignore[attr-defined]
    for call in (lambda: engine.run(np.zeros(4, np.float32)), lambda: engine.run_batch(np.zeros((2, 4), np.float32))):
        with pytest.raises(DataError, match="exit 0"):
            call()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("vague", "policy kind 'vague', of edgeexit.policies, gives a NoPolicy without 'kind'"),
        ("boom", "failed to read its table: RuntimeError: boom"),
        ("gone", "cannot be loaded: AttributeError"),
        ("nobody", "unknown policy kind 'nobody'; known: threshold"),
    ],
)
def test_policies_that_are_none(abacus: None, kind: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        policy_from_dict({"kind": kind})
    with pytest.raises(PolicyError, match="policy table of kind 'every' is damaged: 'at_least'"):
        policy_from_dict({"kind": "every"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("another", "'another' of group edgeexit.scores is Score"),
        ("len", "expected an `edgeexit.policy.scores.Score`"),
        ("gone", "cannot be loaded: AttributeError"),
        ("nobody", "unknown score 'nobody'; known: maxprob"),
    ],
)
def test_scores_that_are_none(abacus: None, name: str, message: str) -> None:
    for ask in (score_named, lambda name: Threshold((0.5,), name)):
        with pytest.raises(PolicyError, match=message):
            ask(name)


def test_a_task(abacus: None, copy: Path) -> None:
    """Its rows decide what is preferred and what decides; a task of no distribution classifies."""
    pytest.importorskip("onnxruntime")
    bundle = Bundle.open(copy)
    bundle = bundle.rewrite({}, replace(bundle.manifest, task="sorting", policies={}, default_policy=None))
    engine = edgeexit.load(bundle)
    assert engine.artifact.layout == "chain" and engine.default_score == "margin"
    assert engine.policy.fixed == 0 and engine.policy_source.endswith("so sorting needs one look")
    with pytest.raises(BundleError, match="manifest: sorted already"):
        from_json(to_json(replace(bundle.manifest, provenance={"sorted": True})))
    assert task_of(replace(bundle.manifest, task="keyword spotting")).name == "classification"
    for name, message in (("nothing", "is a dict; expected"), ("gone", "cannot be loaded: AttributeError")):
        with pytest.raises(BundleError, match=message):
            task_of(replace(bundle.manifest, task=name))


def test_a_layout(abacus: None, copy: Path) -> None:
    """Read from a manifest, run by its driver, and preferred where it comes first."""
    pytest.importorskip("onnxruntime")
    manifest = Bundle.open(copy).manifest
    chain = next(a for a in manifest.artifacts if a.layout == "chain")
    bundle = Bundle.open(copy).rewrite({}, replace(manifest, artifacts=(replace(chain, layout="ring"),), policies={}))
    assert from_json(to_json(bundle.manifest)).artifacts[0].layout == "ring"
    engine = edgeexit.load(bundle)
    assert engine.artifact.layout == "ring" and engine.run(np.zeros(4, np.float32)).exit == engine.exits - 1
    assert engine.seconds is not None and len(engine.seconds) == engine.exits


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bare", "'bare' of group edgeexit.layouts is a dict; expected a edgeexit.bundle.layouts.Layout"),
        ("gone", "cannot be loaded: AttributeError"),
        ("nobody", "layout: expected one of fused, chain, prefix, all, decoder, found 'nobody'"),
    ],
)
def test_layouts_that_are_none(abacus: None, tiny: Path, name: str, message: str) -> None:
    table = to_json(Bundle.open(tiny).manifest)
    table["artifacts"][0]["layout"] = name
    with pytest.raises(BundleError, match=message):
        from_json(table)


def test_two_distributions_of_one_name(abacus: None, install: Install) -> None:
    install("edgeexit_abacus2", {"edgeexit.scores": {"gap": "gap"}})
    with pytest.raises(PolicyError, match=r"registered as .*edgeexit_abacus2? 1.0\).* uninstall one"):
        score_named("gap")


def test_known_names_scan_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def scan(group: str, name: str) -> None:
        raise AssertionError(f"{group} {name}")

    monkeypatch.setattr(plugins, "_entries", scan)
    score_named("maxprob")
    policy_from_dict(Threshold((0.5,)).to_dict())
    backends.get("onnx")
