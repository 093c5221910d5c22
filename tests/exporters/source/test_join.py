"""Exits of several outputs: heads that answer together, and learned scores, in every layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import nn

import edgeexit
from edgeexit import Threshold, fixed_exit
from edgeexit.bench.verify import verify
from edgeexit.calibrate.guarantees.conformal import conformal_sets
from edgeexit.errors import DataError, ModelError, PolicyError
from edgeexit.policy.policies import Window

CLASSES = 4


class Grouped(nn.Module):
    """Exit 0: one head with a learned score; exit 1: three heads with one, too."""

    def __init__(self, positions: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        shape: tuple[int | str, ...] = ("batch", "time", 6) if positions else ("batch", 6)
        self.input_spec = {"x": ("float32", shape)}
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 8)
        self.early = nn.Linear(8, CLASSES)
        self.late = nn.ModuleList([nn.Linear(8, CLASSES) for _ in range(3)])
        self.doubt = nn.ModuleList([nn.Linear(8, 1) for _ in range(2)])

    def forward(self, x):  # type: ignore[no-untyped-def]
        a = torch.relu(self.first(x))
        b = torch.relu(self.second(a))
        heads = tuple(head(b) for head in self.late)
        return (
            {"output": self.early(a), "score": torch.sigmoid(self.doubt[0](a))},
            {"output": heads, "score": torch.sigmoid(self.doubt[1](b)).flatten(1).mean(1)},
        )


def inputs(n: int = 40, *shape: int) -> NDArray[np.float32]:
    return (3 * np.random.default_rng(0).standard_normal((n, *shape, 6))).astype(np.float32)


def expected(x: NDArray[np.float32], positions: bool = False) -> dict[str, NDArray[np.float32]]:
    """Answers, spread and learned scores, in torch."""
    with torch.no_grad():
        early, late = Grouped(positions).eval()(torch.from_numpy(x))
        p = torch.stack([h.softmax(-1) for h in late["output"]]).double()
        mean = p.mean(0)
        spread = 0.5 * (p - mean).abs().sum(-1).mean(0)
        found = {
            "answer_0": early["output"].softmax(-1),  # as exit 1 gives probabilities, so does the engine here
            "answer_1": mean,
            "spread": spread.reshape(len(x), -1).mean(1),
            "learned_0": early["score"].reshape(len(x), -1).mean(1),
            "learned_1": late["score"],
        }
    return {k: v.numpy().astype(np.float32) for k, v in found.items()}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> edgeexit.Bundle:
    return edgeexit.export(Grouped(), tmp_path_factory.mktemp("join") / "b.edgeexit", score="learned")


@pytest.mark.parametrize("layout", ["fused", "chain", "prefix"])
def test_every_layout_gives_answer_and_uncertainty(bundle: edgeexit.Bundle, layout: str) -> None:
    x = inputs()
    want = expected(x)
    engine = edgeexit.load(bundle, artifact=layout, warmup=0)
    for k in (0, 1):
        engine.policy = fixed_exit(k, 2, "learned")
        for i, row in enumerate(x):
            found = engine.run(row)
            np.testing.assert_allclose(found.output, want[f"answer_{k}"][i], atol=1e-5)
            assert found.score == pytest.approx(want[f"learned_{k}"][i], abs=1e-5)
            assert found.uncertainty == (None if k == 0 else pytest.approx(want["spread"][i], abs=1e-5))
        many = engine.run_batch(x)
        if k == 0:
            assert many.uncertainties is None or np.isnan(many.uncertainties).all()
        else:
            assert many.uncertainties is not None
            np.testing.assert_allclose(many.uncertainties, want["spread"], atol=1e-5)


def test_fused_chain_and_replay_decide_alike_on_the_learned_score(bundle: edgeexit.Bundle) -> None:
    x = inputs()
    want = expected(x)
    level = float(np.sort(want["learned_0"])[19:21].mean())
    policy = Threshold((level,), "learned")
    taken = np.where(want["learned_0"] >= level, 0, 1)
    for layout in ("fused", "chain"):
        engine = edgeexit.load(bundle, artifact=layout, policy=policy, warmup=0)
        assert [engine.run(row).exit for row in x] == taken.tolist()
        assert engine.run_batch(x).exits.tolist() == taken.tolist()
        assert edgeexit.replay(policy, engine.record(x)).tolist() == taken.tolist()
    assert {0, 1} == set(taken)


def test_records_hold_what_the_exits_gave(bundle: edgeexit.Bundle) -> None:
    x = inputs()
    want = expected(x)
    records = edgeexit.load(bundle, artifact="chain", warmup=0).record(x)
    assert records.kind == "probs" and records.score_names == ("maxprob", "entropy", "margin", "learned")
    np.testing.assert_allclose(records.scores("learned"), [want["learned_0"], want["learned_1"]], atol=1e-5)
    with pytest.raises(PolicyError, match="not every exit gave a score 'ensemble'"):
        records.scores("ensemble")


def test_the_bundle_ships_and_verifies_all_outputs(bundle: edgeexit.Bundle, tmp_path: Path) -> None:
    exit = bundle.manifest.exits[1]
    assert exit.members == 3 and [t.shape for t in exit.outputs[1:]] == [("batch",)] * 2
    vectors = bundle.arrays(bundle.manifest.artifacts[0].vectors)  # type: ignore[arg-type]
    assert {"uncertainty_1", "learned_0", "learned_1"} < set(vectors) and "uncertainty_0" not in vectors
    assert all(v.passed for v in verify(bundle))
    vectors["uncertainty_1"] = vectors["uncertainty_1"] + np.float32(0.01)
    path = bundle.manifest.artifacts[0].vectors.path  # type: ignore[union-attr]
    raw = edgeexit.common.files.npz_bytes(**vectors)
    changed = [
        edgeexit.bundle.manifest.Artifact(**{**vars(a), "vectors": edgeexit.bundle.files.describe(path, raw)})
        for a in bundle.manifest.artifacts
    ]
    manifest = edgeexit.bundle.manifest.Manifest(**{**vars(bundle.manifest), "artifacts": tuple(changed)})
    again = verify(bundle.rewrite({path: raw}, manifest), "onnx-chain-fp32")
    assert again[0].passed is False and "'exit1' differs by 1.00e-02" in again[0].reason


def test_one_exit_of_several_heads(tmp_path: Path) -> None:
    class Two(nn.Module):
        input_spec = {"x": ("float32", ("batch", 6))}  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.heads = nn.ModuleList([nn.Linear(6, CLASSES), nn.Linear(6, CLASSES)])

        def forward(self, x):  # type: ignore[no-untyped-def]
            return (tuple(h(x) for h in self.heads),)

    bundle = edgeexit.export(Two(), tmp_path / "two.edgeexit", score="ensemble")
    assert len(bundle.manifest.exits) == 1
    assert [v.reason for v in verify(bundle)] == [""] * 4
    x = inputs()
    for layout in ("fused", "chain"):
        engine = edgeexit.load(bundle, artifact=layout, policy=fixed_exit(0, 1, "ensemble"), warmup=0)
        found = [engine.run(row) for row in x]
        assert all(d.reason == "last" and d.score == pytest.approx(1 - d.uncertainty, abs=1e-6) for d in found)
        records = engine.record(x)
        assert records.exits == 1
        np.testing.assert_allclose(records.scores("ensemble")[0], [d.score for d in found], atol=1e-6)
    engine = edgeexit.load(bundle, artifact="chain", policy=Window((), (), 0.8, "ensemble"), warmup=0)
    assert [engine.run(r).accepted for r in x] == (records.scores("ensemble")[0] >= np.float32(0.8)).tolist()
    batch = engine.run_batch(x)
    assert batch.accepted is not None and batch.accepted.any() and not batch.accepted.all()


def test_positions_are_averaged(tmp_path: Path) -> None:
    bundle = edgeexit.export(Grouped(positions=True), tmp_path / "b", score="learned")
    x = inputs(5, 7)
    want = expected(x, positions=True)
    engine = edgeexit.load(bundle, artifact="fused", policy=fixed_exit(1, 2, "learned"), warmup=0)
    for i, row in enumerate(x):
        found = engine.run(row)
        assert found.output.shape == (7, CLASSES)
        assert found.uncertainty == pytest.approx(want["spread"][i], abs=1e-5)
        assert found.score == pytest.approx(want["learned_1"][i], abs=1e-5)


def onnx_file(path: Path, opset: int, softmax: bool = False, sigmoid: bool = True) -> Path:
    """y0; y1 and y2, which may answer together; s0 and s1 `(batch, 1)`."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []

    def linear(source: str, name: str, a: int, b: int) -> None:
        weights.append(onnx.numpy_helper.from_array(rng.standard_normal((a, b)).astype(np.float32), f"w_{name}"))
        nodes.append(helper.make_node("MatMul", [source, f"w_{name}"], [name]))

    linear("x", "h", 6, 8)
    nodes.append(helper.make_node("Relu", ["h"], ["a"]))
    linear("a", "y0", 8, CLASSES)
    linear("a", "b", 8, 8)
    for name in ("y1", "y2"):
        linear("b", f"{name}_logits", 8, CLASSES)
        nodes.append(helper.make_node("Softmax" if softmax else "Identity", [f"{name}_logits"], [name]))
    for name, source in (("s0", "a"), ("s1", "b")):
        linear(source, f"{name}_raw", 8, 1)
        nodes.append(helper.make_node("Sigmoid" if sigmoid else "Identity", [f"{name}_raw"], [name]))
    out = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", CLASSES]) for n in ("y0", "y1", "y2")]
    out += [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 1]) for n in ("s0", "s1")]
    entry = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])]
    graph = helper.make_graph(nodes, "g", entry, out, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
@pytest.mark.parametrize("softmax", [False, True])
def test_any_onnx_file_may_group_its_outputs(tmp_path: Path, opset: int, softmax: bool) -> None:
    source = onnx_file(tmp_path / "m.onnx", opset, softmax)
    bundle = edgeexit.export(source, tmp_path / "b", exits=["y0", "y1+y2"], scores=["s0", "s1"], score="learned")
    exit = bundle.manifest.exits[1]
    assert (exit.name, exit.members, exit.kind) == ("y1+y2", 2, "probs")
    for a in bundle.manifest.artifacts:
        assert a.check is not None and max(a.check.max_error) < 1e-5
    assert all(v.passed for v in verify(bundle))


def test_an_exact_name_wins_over_a_group(tmp_path: Path) -> None:
    source = onnx_file(tmp_path / "m.onnx", 18)
    model = onnx.load(source)
    for name in ("y1", "y2"):
        for node in model.graph.node:
            node.output[:] = [n.replace(name, f"y0+{name}") for n in node.output]
            node.input[:] = [n.replace(name, f"y0+{name}") if n.startswith(name) else n for n in node.input]
    del model.graph.output[1:]
    model.graph.output.append(helper.make_tensor_value_info("y0+y1", TensorProto.FLOAT, ["n", CLASSES]))
    onnx.save(model, source)
    bundle = edgeexit.export(source, tmp_path / "b", exits=["y0", "y0+y1"])
    assert [e.members for e in bundle.manifest.exits] == [1, 1]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "score without learned": ({"exits": ["y0", "y1+y2"], "score": "learned"}, "needs a learned score of every exit"),
    "ensemble of one head": ({"exits": ["y0", "y1+y2"], "score": "ensemble"}, "exit 'y0' has none"),
    "too few scores": ({"exits": ["y0", "y1"], "scores": ["s0"]}, "1 learned scores for 2 exits"),
    "unknown head": ({"exits": ["y0", "y1+y7"]}, "'y7' is not a tensor of the graph"),
    "head twice": ({"exits": ["y0", "y1+y1"]}, "different ones"),
    "unknown score": ({"exits": ["y0", "y1"], "scores": ["s0", "s7"]}, "'s7' is not a tensor"),
    "shapes": ({"exits": ["y0", "y1+b"]}, "must be of one shape; found y1 float32"),
    "not in [0, 1]": ({"exits": ["y0", "y1"], "scores": ["s0", "y1"]}, "end it with a Sigmoid"),
    "torch": ({"source": Grouped(), "scores": ["s0", "s1"]}, "returns its scores with its exits"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str) -> None:
    options, words = REFUSED[case]
    source = options.get("source") or onnx_file(tmp_path / "m.onnx", 18)
    with pytest.raises(ModelError, match=words.replace("[", r"\[")):
        edgeexit.export(source, tmp_path / "b", **{k: v for k, v in options.items() if k != "source"})
    assert not (tmp_path / "b").exists()


def test_heads_of_two_kinds_are_refused(tmp_path: Path) -> None:
    source = onnx_file(tmp_path / "m.onnx", 18, softmax=True)
    with pytest.raises(ModelError, match="some heads end in a Softmax and some do not"):
        edgeexit.export(source, tmp_path / "b", exits=["y0", "y1+y2_logits"])


def test_policies_on_scores_an_exit_does_not_give_are_refused(bundle: edgeexit.Bundle) -> None:
    engine = edgeexit.load(bundle, artifact="chain", warmup=0)
    with pytest.raises(PolicyError, match=r"exit 'exit0' of .* gives no score 'ensemble'"):
        engine.policy = fixed_exit(1, 2, "ensemble")


def test_recorded_scores_come_from_files_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {"logits": rng.standard_normal((2, 9, 3)), "cost": [1.0, 2.0]}
    np.savez(tmp_path / "r.npz", learned=rng.random((2, 9)), uncertainty=np.full((2, 9), 0.25), **arrays)
    records = edgeexit.Records.load(tmp_path / "r.npz")
    assert records.scores("ensemble").tolist() == [[0.75] * 9] * 2
    assert records.scores("learned").shape == (2, 9)
    assert records.take(np.array([1, 4])).scores("learned").shape == (2, 2)
    np.savez(tmp_path / "bad.npz", learned=np.full((2, 9), np.nan), **arrays)
    with pytest.raises(DataError, match=r"'learned' must lie in \[0, 1\], found NaN"):
        edgeexit.Records.load(tmp_path / "bad.npz")
    np.savez(tmp_path / "bad.npz", learned=np.ones((2, 8)), **arrays)
    with pytest.raises(DataError, match=r"must be \(2, 9\)"):
        edgeexit.Records.load(tmp_path / "bad.npz")


def test_sets_keep_their_promise_where_exits_give_logits_and_probabilities(bundle: edgeexit.Bundle) -> None:
    """What the engine hands the sets is of the kind that they were calibrated on."""
    x = inputs(900)
    labels = expected(x)["answer_1"].argmax(1)
    flip = np.random.default_rng(3).random(900) < 0.2
    labels = np.where(flip, (labels + 1) % CLASSES, labels)
    engine = edgeexit.load(bundle, artifact="chain", warmup=0)
    design, rest = engine.record(x, labels).split(1 / 3, seed=0)
    calibration, _ = rest.split(0.5, seed=0)
    engine.sets = conformal_sets(design, calibration, 0.3)
    for k in (0, 1):
        engine.policy = fixed_exit(k, 2)
        found = [engine.run(row) for row in x]
        assert all(abs(d.output.sum() - 1) < 1e-4 for d in found)
        kept = [d.prediction_set[y] for d, y in zip(found, labels, strict=True)]  # type: ignore[index]
        assert np.mean(kept) > 0.66


def test_a_nan_score_is_not_recorded_as_another_exits(tmp_path: Path) -> None:
    class Sometimes(Grouped):
        def forward(self, x):  # type: ignore[no-untyped-def]
            first, second = super().forward(x)
            bad = torch.where(x[:, 0] > 4, x[:, 0] * torch.nan, first["score"][:, 0])
            return {"output": first["output"], "score": bad}, second

    bundle = edgeexit.export(Sometimes(), tmp_path / "b", score="learned")
    x = inputs(400)
    assert (x[:, 0] > 4).any()
    with pytest.raises(DataError, match="has a NaN score at exit 0"):
        edgeexit.load(bundle, artifact="fused", warmup=0).record(x)
    with pytest.raises(DataError, match="'learned' must lie in"):
        edgeexit.load(bundle, artifact="chain", warmup=0).record(x)
