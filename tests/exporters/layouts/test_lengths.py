"""Exits of sequences with padding: lengths in every layout, scores over the valid positions alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import edgeexit
from edgeexit import Threshold, fixed_exit
from edgeexit.bench.verify import verify
from edgeexit.bundle.codec import from_json, to_json
from edgeexit.errors import BundleError, DataError, ModelError
from edgeexit.policy.scores import ANSWER_SCORES, score
from edgeexit.records.classification import Records

BINS, WIDTH, TOKENS, TIME = 6, 8, 5, 16


class Frames(nn.Module):
    """Two exits over frames; the time axis is halved. Padding is masked, so it changes no valid answer, and the answers
    in the padding are garbage that depends on it."""

    def __init__(self, extras: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.extras = extras
        self.input_spec = {"x": ("float32", ("batch", "time", BINS)), "x_lens": ("int64", ("batch",))}
        self.down = nn.Linear(2 * BINS, WIDTH)
        self.mix = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.early = nn.Linear(WIDTH, TOKENS)
        self.late = nn.ModuleList([nn.Linear(WIDTH, TOKENS) for _ in range(2 if extras else 1)])
        self.doubt = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor, x_lens: Tensor) -> list[dict[str, Tensor | tuple[Tensor, ...]]]:
        half = x.shape[1] // 2
        h = self.down(x[:, : 2 * half].reshape(x.shape[0], half, 2 * BINS))
        lens = x_lens // 2
        mask = (torch.arange(half)[None] < lens[:, None]).to(h.dtype)[..., None]
        g = torch.relu(self.mix((h * mask).transpose(1, 2)).transpose(1, 2)) + h
        late = [head(g) for head in self.late]
        exits: list[dict[str, Tensor | tuple[Tensor, ...]]] = [
            {"output": 3 * self.early(h), "lengths": lens},
            {"output": tuple(late) if self.extras else late[0], "lengths": lens},
        ]
        if self.extras:
            for exit, value in zip(exits, (h, g), strict=True):
                exit["score"] = torch.sigmoid(self.doubt(value))
        return exits


def rows(n: int = 12, seed: int = 0, time: int = TIME) -> dict[str, NDArray[np.generic]]:
    rng = np.random.default_rng(seed)
    return {
        "x": (2 * rng.standard_normal((n, time, BINS))).astype(np.float32),
        "x_lens": rng.integers(4, time + 1, n),
    }


def one(x: dict[str, NDArray[np.generic]], i: int) -> dict[str, NDArray[np.generic]]:
    return {k: v[i : i + 1] for k, v in x.items()}


def alone(x: dict[str, NDArray[np.generic]], i: int, extras: bool = False) -> list[NDArray[np.float32]]:
    """What torch gives for row i without its padding, per exit `(positions, tokens)`."""
    count = int(x["x_lens"][i])
    with torch.no_grad():
        exits = Frames(extras).eval()(torch.from_numpy(x["x"][i : i + 1, :count]), torch.tensor([count]))
    return [e["output"][0].numpy() for e in exits]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> edgeexit.Bundle:
    return edgeexit.export(Frames(), tmp_path_factory.mktemp("lengths") / "b.edgeexit", score="entropy")


@pytest.mark.parametrize("layout", ["fused", "chain", "prefix"])
def test_a_padded_input_is_answered_in_its_valid_positions(bundle: edgeexit.Bundle, layout: str) -> None:
    x = rows()
    engine = edgeexit.load(bundle, artifact=layout, warmup=0)
    for k in (0, 1):
        engine.policy = fixed_exit(k, 2, "entropy")
        for i in range(len(x["x"])):
            found, want = engine.run(one(x, i)), alone(x, i)[k]
            np.testing.assert_allclose(found.output, want, atol=2e-5)
            assert found.score == pytest.approx(float(score(want[None], "entropy")[0]), abs=2e-6)
        many = engine.run_batch(x)
        assert many.lengths is not None
        assert many.lengths.tolist() == (x["x_lens"] // 2).tolist()
        np.testing.assert_allclose(many.outputs[3, : many.lengths[3]], alone(x, 3)[k], atol=2e-5)


@pytest.mark.parametrize("layout", ["fused", "chain", "prefix"])
def test_lengths_beyond_the_input_are_refused(bundle: edgeexit.Bundle, layout: str) -> None:
    x = rows()
    x["x_lens"][7] = TIME + 3
    engine = edgeexit.load(bundle, artifact=layout, warmup=0)
    for call, row in (
        (lambda: engine.run(one(x, 7)), 0),
        (lambda: engine.run_batch(x), 7),
        (lambda: engine.record(x), 7),
    ):
        with pytest.raises(DataError, match=rf"'x_lens' is 19 for row {row}, and input 'x' has 16 along axis 1"):
            call()


@pytest.mark.parametrize("name", list(ANSWER_SCORES))
def test_scores_in_the_graph_and_in_numpy_are_the_same_whatever_the_padding_holds(name: str, tmp_path: Path) -> None:
    made = edgeexit.export(Frames(), tmp_path / "b.edgeexit", score=name, layouts=["fused", "chain"])
    x, other = rows(), rows(seed=1)
    other["x_lens"] = x["x_lens"].copy()
    other["x_lens"][0] = x["x_lens"][0] = 1  # no valid position at all
    for i, n in enumerate(x["x_lens"]):
        other["x"][i, :n] = x["x"][i, :n]
    found = {w: edgeexit.load(made, artifact=w, warmup=0).record(x).scores(name) for w in ("fused", "chain")}
    garbage = edgeexit.load(made, artifact="fused", warmup=0).record(other).scores(name)
    np.testing.assert_allclose(found["fused"], found["chain"], atol=1e-6)
    np.testing.assert_array_equal(found["fused"], garbage)
    assert found["chain"][:, 0].tolist() == [0, 0]
    whole = score(edgeexit.load(made, artifact="chain", warmup=0).record(x).outputs[0], name)
    assert not np.allclose(whole, found["chain"][0], atol=1e-3)  # padding would have counted


def test_fused_chain_and_replay_leave_alike(bundle: edgeexit.Bundle) -> None:
    x = rows(40)
    chain = edgeexit.load(bundle, artifact="chain", warmup=0)
    level = float(np.median(chain.record(x).scores("entropy")[0]))
    policy = Threshold((level,), "entropy")
    taken: list[int] = []
    for layout in ("chain", "fused"):
        engine = edgeexit.load(bundle, artifact=layout, policy=policy, warmup=0)
        taken = [engine.run(one(x, i)).exit for i in range(40)]
        assert engine.run_batch(x).exits.tolist() == taken
        assert edgeexit.replay(policy, engine.record(x)).tolist() == taken
    assert set(taken) == {0, 1}


def test_records_count_valid_positions_alone(bundle: edgeexit.Bundle) -> None:
    x = rows()
    records = edgeexit.load(bundle, artifact="chain", warmup=0).record(x)
    labels = np.full((len(x["x"]), TIME // 2), -7)
    for i, n in enumerate(x["x_lens"] // 2):
        labels[i, :n] = alone(x, i)[0].argmax(-1)
    labelled = edgeexit.load(bundle, artifact="chain", warmup=0).record(x, labels)
    assert labelled.correct[0].tolist() == [1.0] * len(labels)
    for i in range(len(labels)):
        first, last = (a.argmax(-1) for a in alone(x, i))
        assert records.correct[0, i] == pytest.approx((first == last).mean())
    kept = labelled.take(np.array([2, 5]))
    assert kept.lengths is not None and kept.lengths[1].tolist() == (x["x_lens"][[2, 5]] // 2).tolist()
    with pytest.raises(DataError, match=r"labels reach from -7 to"):
        Records(records.outputs, records.cost, labels)
    with pytest.raises(DataError, match="lengths reach from 0 to 9, there are 8 positions"):
        Records(records.outputs, records.cost, lengths=np.array([[0] * 12, [9] * 12]))


def test_heads_and_learned_scores_average_over_valid_positions(tmp_path: Path) -> None:
    made = edgeexit.export(Frames(extras=True), tmp_path / "b.edgeexit", score="learned")
    x = rows()
    for layout in ("fused", "chain"):
        engine = edgeexit.load(made, artifact=layout, policy=fixed_exit(1, 2, "learned"), warmup=0)
        for i in range(4):
            count = int(x["x_lens"][i])
            with torch.no_grad():
                exit = Frames(extras=True).eval()(torch.from_numpy(x["x"][i : i + 1, :count]), torch.tensor([count]))[1]
            p = torch.stack([h.softmax(-1) for h in exit["output"]])
            spread = 0.5 * (p - p.mean(0)).abs().sum(-1).mean(0)
            found = engine.run(one(x, i))
            assert found.score == pytest.approx(exit["score"].mean().item(), abs=1e-5)
            assert found.uncertainty == pytest.approx(spread.mean().item(), abs=1e-5)


def test_an_onnx_file_names_its_lengths(bundle: edgeexit.Bundle, tmp_path: Path) -> None:
    path = bundle.file(bundle.manifest.artifact("onnx-all-fp32").models[0])
    for lengths in (["exit0_lengths"], ["exit0_lengths", "exit1_lengths"]):
        made = edgeexit.export(
            path, tmp_path / f"{len(lengths)}.edgeexit", exits=["exit0", "exit1"], lengths=lengths, layouts=["chain"]
        )
        x = rows()
        found = edgeexit.load(made, policy=fixed_exit(1, 2), warmup=0).run(one(x, 2))
        np.testing.assert_allclose(found.output, alone(x, 2)[1], atol=2e-5)
    with pytest.raises(ModelError, match="3 lengths for 2 exits"):
        edgeexit.export(path, tmp_path / "c.edgeexit", exits=["exit0", "exit1"], lengths=["a", "b", "c"])
    with pytest.raises(ModelError, match="lengths 'nothing' is not a tensor"):
        edgeexit.export(path, tmp_path / "c.edgeexit", exits=["exit0", "exit1"], lengths=["nothing"])


@pytest.mark.parametrize("precision", ["int8-dynamic", "int8"])
def test_quantized_files_have_lengths_too(bundle: edgeexit.Bundle, tmp_path: Path, precision: str) -> None:
    path = bundle.file(bundle.manifest.artifact("onnx-all-fp32").models[0])
    many = rows(96, seed=3)
    made = edgeexit.export(
        path, tmp_path / "b.edgeexit", exits=["exit0", "exit1"], lengths=["exit0_lengths"], data=many,
        precisions=["fp32", precision], layouts=["fused", "chain"],
    )  # fmt: skip
    x = rows()
    found = {}
    for artifact in (f"onnx-chain-{precision}", f"onnx-fused-{precision}"):
        engine = edgeexit.load(made, artifact=artifact, policy=fixed_exit(1, 2), warmup=0)
        for i in range(4):
            output = engine.run(one(x, i)).output
            want = alone(x, i)[1]
            assert output.shape == want.shape
            np.testing.assert_allclose(output, want, atol=0.1 * np.abs(want).max())
        found[artifact] = engine.record(x).scores("maxprob")
        count = 9  # another time, odd
        short = {"x": x["x"][:1, :count], "x_lens": np.array([count])}
        assert engine.run(short).output.shape == (count // 2, TOKENS)
    np.testing.assert_allclose(*found.values(), atol=1e-5)
    point = made.operating_point(f"onnx-{precision}")
    assert point.expected["n"] > 0


def test_the_manifest_says_which_tensor_it_is_and_the_vectors_hold_it(bundle: edgeexit.Bundle) -> None:
    exit = bundle.manifest.exits[1]
    assert exit.lengths == exit.outputs[-1].name
    assert (exit.outputs[-1].dtype, exit.outputs[-1].shape) == ("int64", ("batch",))
    assert from_json(to_json(bundle.manifest)) == bundle.manifest
    assert all(v.passed for v in verify(bundle)), verify(bundle)
    arrays = bundle.arrays(bundle.manifest.artifacts[0].vectors)  # type: ignore[arg-type]
    assert len(set(arrays["lengths_1"].tolist())) > 2
    data = to_json(bundle.manifest)
    del data["exits"][0]["lengths"], data["exits"][0]["outputs"][-1]
    data["stages"][0]["outputs"].remove("exit0_lengths")
    with pytest.raises(BundleError):
        from_json(data)


def test_lengths_that_count_something_else_are_refused(tmp_path: Path) -> None:
    class Wrong(Frames):
        def forward(self, x: Tensor, x_lens: Tensor) -> list[dict[str, Tensor | tuple[Tensor, ...]]]:
            exits = super().forward(x, x_lens)
            return [{**e, "lengths": x_lens} for e in exits]

    with pytest.raises(ModelError, match="lengths count the valid positions of the answer, found 16 to 16"):
        edgeexit.export(Wrong(), tmp_path / "b.edgeexit")

    class Half(Frames):
        def forward(self, x: Tensor, x_lens: Tensor):  # type: ignore[no-untyped-def]
            first, second = super().forward(x, x_lens)
            return [first, second["output"]]

    with pytest.raises(ModelError, match="every exit has to, or none"):
        edgeexit.export(Half(), tmp_path / "b.edgeexit")
