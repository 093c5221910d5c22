"""Networks with memory: states found, carried, caught up; every answer that of a network that never stops early."""

from __future__ import annotations

import random
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
import torch
from state_nets import Stepper, Windowed, seeded, stepped
from torch import nn

import edgeexit
from edgeexit.bench.verify import verify
from edgeexit.bundle.codec import from_json, to_json
from edgeexit.errors import DataError, ModelError, PolicyError
from edgeexit.policy.policies import Threshold, fixed_exit
from edgeexit.records.classification import replay
from edgeexit_exporters.stages import GraphView, State, ViewNode, stages

KINDS = {"recurrent": Stepper, "windows": Windowed}


def rows_for(module: nn.Module, n: int) -> list[np.ndarray]:
    shape = [1 if a == "batch" else a for a in next(iter(module.input_spec.values()))[1]]
    rng = np.random.default_rng(1)
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(n)]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((k, f), marks=pytest.mark.slow if f == "tflite" else (), id=f"{k}-{f}")
        for k in KINDS
        for f in ("onnx", "tflite")
    ],
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path, str]:
    kind, form = request.param
    if form == "tflite":
        pytest.importorskip("litert_torch", reason="needs the tflite-export extra")

    module = seeded(KINDS[kind])
    out = tmp_path_factory.mktemp(kind) / f"{form}.edgeexit"
    edgeexit.export(module, out, formats=(form,))
    return module, out, form


def test_every_answer_is_that_of_a_network_that_never_stops(exported: tuple[nn.Module, Path, str]) -> None:
    """Exits at random: what waits catches up, in order, and nothing is lost or seen twice."""
    module, out, form = exported
    engine = edgeexit.load(out, artifact=f"{form}-chain-fp32")
    stream = engine.stream()
    rows = rows_for(module, 25)
    expected = stepped(module, rows)
    rng = random.Random(2)
    for i, row in enumerate(rows):
        k = rng.randrange(engine.exits)
        decision = stream.step(row, exit=k)
        assert decision.exit == k
        np.testing.assert_allclose(decision.output, expected[i][k][0], atol=1e-5)
        assert stream.waiting[0] == 0
        assert stream.waiting[k] == 0 or k == 0
    waiting = stream.waiting[-1]
    late = stream.deepen(engine.exits - 1)
    assert [i for i, _ in late] == list(range(25 - waiting, 25))
    for i, output in late:
        np.testing.assert_allclose(output, expected[i][-1], atol=1e-5)
    assert stream.waiting[-1] == 0


def test_a_bounded_stream_forgets_nothing(exported: tuple[nn.Module, Path, str]) -> None:
    module, out, form = exported
    engine = edgeexit.load(out, artifact=f"{form}-chain-fp32")
    stream = engine.stream(limit=3)
    rows = rows_for(module, 12)
    for row in rows[:-1]:
        stream.step(row, exit=0)
        assert all(b - a <= 3 for a, b in zip(stream.waiting, stream.waiting[1:], strict=False))
    found = stream.step(rows[-1], exit=engine.exits - 1)
    np.testing.assert_allclose(found.output, stepped(module, rows)[-1][-1][0], atol=1e-5)
    stream.reset()
    again = stream.step(rows[0], exit=engine.exits - 1)
    np.testing.assert_allclose(again.output, stepped(module, rows[:1])[0][-1][0], atol=1e-5)


def test_arrays_that_wait_are_the_streams_own(exported: tuple[nn.Module, Path, str]) -> None:
    """A caller fills one buffer again and again, as audio callbacks do."""
    module, out, form = exported
    engine = edgeexit.load(out, artifact=f"{form}-chain-fp32")
    stream = engine.stream()
    rows = rows_for(module, 4)
    buffer = np.empty_like(rows[0])
    for row in rows:
        buffer[:] = row
        stream.step(buffer, exit=0)
        buffer[:] = np.float32(7)
    found = stream.deepen(engine.exits - 1)
    for (_, output), expected in zip(found, stepped(module, rows), strict=True):
        np.testing.assert_allclose(output, expected[-1], atol=1e-5)


def test_the_policy_decides_in_a_stream_and_on_its_record(exported: tuple[nn.Module, Path, str]) -> None:
    module, out, form = exported
    engine = edgeexit.load(out, artifact=f"{form}-chain-fp32")
    rows = np.concatenate(rows_for(module, 30))
    records = engine.record(rows)  # one after the other
    scores = records.scores("maxprob")
    engine.policy = Threshold(tuple(float(np.median(s)) for s in scores[:-1]))
    expected = replay(engine.policy, records)
    stream = engine.stream()
    taken = [stream.step(row[None]).exit for row in rows]
    assert len(set(taken)) == engine.exits
    assert taken == expected.tolist()


def test_states_may_be_given(exported: tuple[nn.Module, Path, str]) -> None:
    """One call with a state equals the stream's call there; without, the state is zeros."""
    module, out, form = exported
    engine = edgeexit.load(out, artifact=f"{form}-chain-fp32", policy=None)
    engine.policy = fixed_exit(0, engine.exits)
    rows = rows_for(module, 1)
    name = next(iter(module.input_spec))
    zeros = {s.input.name: np.zeros(s.input.shape, s.input.dtype) for s in engine.bundle.manifest.states}
    plain = engine.run(rows[0])
    np.testing.assert_array_equal(plain.output, engine.run({name: rows[0], **zeros}).output)
    held = {n: z + 1 for n, z in zeros.items()}
    assert np.abs(engine.run({name: rows[0], **held}).output - plain.output).max() > 1e-3
    with pytest.raises(DataError, match="shape"):
        engine.run({name: rows[0], **{n: z[..., :-1] for n, z in zeros.items()}})


def test_vectors_are_a_stream(exported: tuple[nn.Module, Path, str]) -> None:
    _, out, form = exported
    assert all(v.passed for v in verify(edgeexit.load(out).bundle))
    arrays = np.load(out / "vectors" / f"{form}-fp32.npz")
    first_state = len(edgeexit.load(out).bundle.manifest.inputs)
    assert not arrays[f"input_{first_state}"][0].any()
    assert arrays[f"input_{first_state}"][1].any(), "the second row remembers the first"


def test_only_a_chain_streams(exported: tuple[nn.Module, Path, str]) -> None:
    _, out, form = exported
    manifest = edgeexit.load(out).bundle.manifest
    assert "fused" not in {a.layout for a in manifest.artifacts}
    engine = edgeexit.load(out, artifact=f"{form}-prefix-fp32", policy=fixed_exit(0, len(manifest.exits)))
    with pytest.raises(PolicyError, match="only layout chain"):
        engine.stream()
    with pytest.raises(PolicyError, match="limit"):
        edgeexit.load(out, artifact=f"{form}-chain-fp32").stream(limit=0)


def test_a_deadline_counts_what_waits(exported: tuple[nn.Module, Path, str]) -> None:
    module, out, form = exported
    engine = edgeexit.load(out, artifact=f"{form}-chain-fp32")
    engine.use_profile([1e-6] + [1.0] * (engine.exits - 1))
    stream = engine.stream()
    rows = rows_for(module, 4)
    assert stream.step(rows[0], deadline_s=100.0).exit == engine.exits - 1
    for row in rows[1:3]:
        stream.step(row, exit=0)
    assert stream.step(rows[3], deadline_s=2.9).reason == "deadline", "three runs of stage 1 do not fit"
    assert stream.waiting[1] == 3


def test_manifests_with_states_are_read_back_and_checked(exported: tuple[nn.Module, Path, str]) -> None:
    _, out, _ = exported
    data = to_json(edgeexit.load(out).bundle.manifest)
    assert to_json(from_json(data)) == data
    for change, message in (
        (lambda d: d.update(batch="dynamic"), "one input per call"),
        (lambda d: d["stages"][0]["states"][0]["input"]["shape"].__setitem__(-1, "free"), "expected a whole number"),
        (lambda d: d["stages"][0]["states"][0]["input"].update(shape=[1, 1 << 40]), "numbers"),
        (lambda d: d["stages"][0]["states"][0].update(output="nowhere"), "nowhere"),
        (lambda d: d["stages"][0]["states"].append(d["stages"][-1]["states"].pop()), "."),
    ):
        broken = to_json(edgeexit.load(out).bundle.manifest)
        change(broken)
        with pytest.raises(edgeexit.BundleError, match=message):
            from_json(broken)


def test_an_onnx_file_names_its_states(tmp_path: Path) -> None:
    module = seeded(Stepper)
    path = tmp_path / "step.onnx"
    example = (torch.zeros(1, 6), torch.zeros(1, 8), torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 8))
    flat = _Flat(module).eval()
    names = ["x", "h0", "seen", "h1"]
    torch.onnx.export(
        flat,
        example,
        str(path),
        dynamo=True,
        input_names=names,
        output_names=["y0", "y1", "a", "n", "b"],
        verbose=False,
    )
    states = {"h0": "a", "seen": "n", "h1": "b"}
    bundle = edgeexit.export(path, tmp_path / "step.edgeexit", states=states)
    assert [[s.output for s in stage.states] for stage in bundle.manifest.stages] == [["a", "n"], ["b"]]
    stream = edgeexit.load(bundle.path, artifact="chain").stream()
    rows = rows_for(module, 6)
    for i, (row, expected) in enumerate(zip(rows, stepped(module, rows), strict=True)):
        k = i % 2
        np.testing.assert_allclose(stream.step(row, exit=k).output, expected[k][0], atol=1e-5)
    with pytest.raises(ModelError, match="'c' is not a tensor"):
        edgeexit.export(path, tmp_path / "x.edgeexit", exits=["y0", "y1"], states={"h0": "c"})
    with pytest.raises(ModelError, match="no input of the network"):
        edgeexit.export(path, tmp_path / "x.edgeexit", exits=["y0", "y1"], states={"h7": "a"})
    with pytest.raises(ModelError, match="no fused layout"):
        edgeexit.export(path, tmp_path / "x.edgeexit", states=states, layouts=("fused",))
    onnx.checker.check_model(str(tmp_path / "step.edgeexit/artifacts/onnx-chain-fp32/stage_1.onnx"))


class _Flat(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        exits, states = self.module(*inputs)
        return (*exits, *states)


class _Wrong(Stepper):
    """Says that it has states, and forgets to give them."""

    def forward(self, *inputs: torch.Tensor) -> list[torch.Tensor]:  # type: ignore[override]
        return super().forward(*inputs)[0]


class _Unlike(Stepper):
    def forward(self, *inputs: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        exits, (h0, seen, h1) = super().forward(*inputs)
        return exits, [h0, seen, h1[:, :4]]


class _Free(Stepper):
    input_spec: ClassVar = {**Stepper.input_spec, "h1": ("float32", (1, "past", 8))}


@pytest.mark.parametrize(
    ("kind", "message"),
    [(_Wrong, "returns \\(exits, next values"), (_Unlike, "must be alike"), (_Free, "fixed sizes")],
)
def test_modules_that_carry_wrongly_are_told_how(kind: type[nn.Module], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        edgeexit.export(seeded(kind), tmp_path / "x.edgeexit")
    assert not list(tmp_path.iterdir())


def test_a_state_belongs_to_the_stage_that_reads_it_first() -> None:
    """And with it what only its next value needs; later stages may read it as it was."""
    graph = GraphView(
        ("x", "s", "t"),
        (
            ViewNode(("x", "s"), ("a",)),
            ViewNode(("a",), ("y0",)),
            ViewNode(("a", "s"), ("only_state",)),
            ViewNode(("only_state",), ("s_next",)),
            ViewNode(("a", "s", "t"), ("b",)),
            ViewNode(("b",), ("y1",)),
            ViewNode(("b", "only_state"), ("t_next",)),
        ),
    )
    first, second = stages(graph, ["y0", "y1"], states=[State("t", "t_next"), State("s", "s_next")])
    assert first.nodes == (0, 1, 2, 3)
    assert first.carried == ("s_next",)
    assert "only_state" in first.cuts
    assert second.nodes == (4, 5, 6)
    assert second.carried == ("t_next",)
    assert "s" in second.inputs


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (State("s", "b"), "would leave it behind"),
        (State("z", "a"), "read by no exit"),
        (State("s", "x"), "nothing that is computed"),
    ],
)
def test_states_that_cannot_be_carried_are_refused(state: State, message: str) -> None:
    graph = GraphView(
        ("x", "s", "z"),
        (
            ViewNode(("x", "s"), ("a",)),
            ViewNode(("a",), ("y0",)),
            ViewNode(("a",), ("b",)),
            ViewNode(("b",), ("y1",)),
        ),
    )
    with pytest.raises(ModelError, match=message):
        stages(graph, ["y0", "y1"], states=[state])


def test_int8_is_calibrated_on_a_stream(tmp_path: Path) -> None:
    """Ranges are read off states as they are after many steps, not off zeros."""

    module = seeded(Windowed)
    data = {"line": np.concatenate(rows_for(module, 160))}
    bundle = edgeexit.export(module, tmp_path / "w.edgeexit", precisions=("fp32", "int8"), data=data)
    engine = edgeexit.load(bundle.path, artifact="onnx-chain-int8")
    stream = engine.stream()
    rows = rows_for(module, 10)
    for i, (row, expected) in enumerate(zip(rows, stepped(module, rows), strict=True)):
        k = i % 3
        assert np.abs(stream.step(row, exit=k).output - expected[k][0]).max() < 0.1 * np.abs(expected[k]).max()
