"""Running: every layout gives the same answers, and run, run_batch and replay leave at the same exits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeexit import Patience, Policy, Records, Threshold, fixed_exit, load, replay
from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.manifest import TensorSpec
from edgeexit.engine import backends
from edgeexit.engine.engine import Engine
from edgeexit.engine.inputs import InputCheck
from edgeexit.engine.layouts.chain import Chain
from edgeexit.engine.layouts.fused import Fused
from edgeexit.errors import BackendMissing, BundleError, DataError, PolicyError
from edgeexit.testing import FakeClock, PacedBackend

pytest.importorskip("onnxruntime")

INF = math.inf
X = np.random.default_rng(7).standard_normal((300, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def engines(tiny: Path) -> dict[str, Engine]:
    bundle = Bundle.open(tiny)
    return {layout: load(bundle, artifact=layout, exit=-1, warmup=0) for layout in ("fused", "chain", "prefix", "all")}


@pytest.fixture(scope="module")
def records(engines: dict[str, Engine]) -> dict[str, Records]:
    return {layout: engine.record(X) for layout, engine in engines.items()}


def test_every_layout_answers_alike(engines: dict[str, Engine], records: dict[str, Records]) -> None:
    for layout in ("fused", "chain", "prefix"):
        np.testing.assert_allclose(records[layout].outputs, records["all"].outputs, atol=1e-5)
    for k in range(3):
        for layout in ("fused", "chain", "prefix"):
            engine = engines[layout]
            engine.policy = fixed_exit(k, 3)
            for i in range(20):
                found = engine.run(X[i])
                assert (found.exit, found.reason) == (k, "last" if k == 2 else "forced")
                np.testing.assert_allclose(found.output, records["all"].outputs[k, i], atol=1e-5)
                assert found.score == pytest.approx(records["all"].scores("maxprob")[k, i], abs=1e-6)
                assert found.label == records["all"].predictions[k, i]
            assert found.macs == {"prefix": (56, 120, 184)}.get(layout, (56, 144, 232))[k]


def policies(records: Records, score: str) -> list[Policy]:
    """Thresholds at and between the scores, where a rounding would show."""
    s = records.scores(score)
    rng = np.random.default_rng(8)
    found: list[Policy] = [Threshold((t, t), score) for t in (0.5, 0.9, float(np.median(s)))]
    found += [Threshold(tuple(float(t) for t in (s[0, i], s[1, j])), score) for i, j in rng.integers(0, 300, (12, 2))]
    found += [Threshold(t, score) for t in ((INF, 0.6), (0.6, INF), (-INF, 0.5), (INF, -INF), (INF, INF))]
    return found


@pytest.mark.parametrize("score", ["maxprob", "entropy", "margin"])
def test_chain_runs_as_it_replays(engines: dict[str, Engine], records: dict[str, Records], score: str) -> None:
    engine, rows = engines["chain"], records["chain"]
    several = 0
    for policy in [*policies(rows, score), Patience(1), Patience(2), Patience(3)]:
        engine.policy = policy
        expected = replay(policy, rows)
        one = [engine.run(x) for x in X]
        assert [d.exit for d in one] == expected.tolist(), policy
        several += len(set(expected.tolist())) == 3
        batch = engine.run_batch(X)
        # A batch is another matrix product; only a threshold that *is* a score may tell the last bit.
        moved = batch.exits != expected
        if isinstance(policy, Threshold):
            s, t = rows.scores(score)[:2], np.array(policy.compared)[:, None]
            moved &= ~(np.abs(s - t) < 1e-6).any(0)
        assert not moved.any(), policy
        same = batch.exits == expected
        np.testing.assert_allclose(batch.outputs[same], np.stack([d.output for d in one])[same], atol=1e-5)
        if policy.score is not None:
            np.testing.assert_allclose(batch.scores[same], np.array([d.score for d in one])[same], atol=1e-6)
        assert batch.macs == sum((56, 144, 232)[k] for k in batch.exits)
    assert several > 5  # most of these policies use every exit


def test_fused_runs_as_it_replays(engines: dict[str, Engine], records: dict[str, Records]) -> None:
    engine, rows = engines["fused"], records["fused"]
    for policy in policies(rows, "maxprob"):
        engine.policy = policy
        expected = replay(policy, rows)
        one = [engine.run(x) for x in X]
        assert [d.exit for d in one] == expected.tolist(), policy
        np.testing.assert_array_equal([d.output for d in one], rows.outputs[expected, np.arange(300)])
        batch = engine.run_batch(X)
        assert batch.exits.tolist() == expected.tolist()
        np.testing.assert_array_equal(batch.outputs, [d.output for d in one])


def test_chain_and_fused_leave_at_the_same_exits(tiny: Path) -> None:
    for policy in (Threshold((0.7, 0.8)), Threshold((0.55, 0.55))):
        exits = [load(tiny, artifact=a, policy=policy, warmup=0).run_batch(X).exits for a in ("fused", "chain")]
        np.testing.assert_array_equal(*exits)
        assert set(exits[0].tolist()) == {0, 1, 2}


def test_the_calibrated_points_do_what_they_expect(tiny: Path) -> None:
    bundle = Bundle.open(tiny)
    rows = np.random.default_rng(1).standard_normal((400, 4)).astype(np.float32)  # as make_tiny.py
    for layout in ("fused", "chain"):
        point = bundle.operating_point(f"half-{layout}")
        engine = load(bundle, policy=f"half-{layout}", warmup=0)
        assert engine.artifact.layout == layout
        order = np.random.default_rng(point.data["seed"]).permutation(400)
        found = engine.run_batch(rows[np.sort(order[200:])])
        rates = np.bincount(found.exits, minlength=3) / 200
        np.testing.assert_allclose(rates, point.expected["exit_rates"], atol=0.011)  # two rows, on another machine


# --- compaction --------------------------------------------------------------------------------------------


def counted(engine: Engine) -> list[int]:
    """How many rows each stage of a chain was given, from now on."""
    seen: list[int] = []

    class Counting:
        def __init__(self, inner: Any) -> None:
            self.inner, self.inputs, self.outputs = inner, inner.inputs, inner.outputs

        def run(self, values: Any) -> Any:
            seen.append(len(values[0]))
            return self.inner.run(values)

    assert isinstance(engine.driver, Chain)
    engine.driver.models = [Counting(m) for m in engine.driver.models]
    return seen


@pytest.mark.parametrize(
    ("policy", "rows"),
    [
        (Threshold((-INF, -INF)), [300]),  # all leave at once
        (Threshold((INF, -INF)), [300, 300]),
        (Threshold((INF, INF)), [300, 300, 300]),  # none leaves
        (Threshold((0.7, 0.8)), None),
        (Patience(1), None),
    ],
)
def test_who_left_is_not_carried_on(tiny: Path, policy: Policy, rows: list[int] | None) -> None:
    engine = load(tiny, artifact="chain", policy=policy, warmup=0)
    expected = replay(policy, engine.record(X))
    seen = counted(engine)
    found = engine.run_batch(X)
    assert found.exits.tolist() == expected.tolist()
    left = [300, int((expected > 0).sum()), int((expected > 1).sum())]
    assert seen == [n for n in left if n]
    assert rows is None or seen == rows
    assert len(found) == 300 and [k for k, _, _ in found] == expected.tolist()


def test_a_batch_of_one(tiny: Path) -> None:
    for layout in ("fused", "chain", "prefix"):
        engine = load(tiny, artifact=layout, warmup=0)
        found, one = engine.run_batch(X[:1]), engine.run(X[0])
        assert found.exits.tolist() == [one.exit] and found.labels.tolist() == [one.label]
        np.testing.assert_allclose(found.outputs[0], one.output, atol=1e-6)


# --- deadlines ---------------------------------------------------------------------------------------------


def paced(
    tiny: Path, layout: str, seconds: dict[str, float], policy: Policy | None = None
) -> tuple[Engine, PacedBackend]:
    clock, bundle = FakeClock(100.0), Bundle.open(tiny)
    backend = PacedBackend(backends.get("onnx"), clock, seconds)
    artifact = next(a for a in bundle.manifest.artifacts if a.layout == layout)
    engine = Engine(bundle, artifact, backend, policy or Threshold((INF, INF)), clock=clock)
    backend.ran.clear()
    return engine, backend


STAGES = {"stage_0.onnx": 0.010, "stage_1.onnx": 0.020, "stage_2.onnx": 0.040}


@pytest.mark.parametrize(
    ("deadline", "exit", "late"),
    [(0.001, 0, True), (0.011, 0, False), (0.029, 0, False), (0.0301, 1, False), (0.069, 1, False), (0.0701, 2, False)],
)
def test_a_chain_looks_ahead(tiny: Path, deadline: float, exit: int, late: bool) -> None:
    engine, backend = paced(tiny, "chain", dict(STAGES))
    assert engine.seconds == pytest.approx((0.010, 0.020, 0.040))
    found = engine.run(X[0], deadline_s=deadline)
    assert (found.exit, found.late) == (exit, late)
    assert found.reason == ("last" if exit == 2 else "deadline")
    assert found.seconds == pytest.approx(sum(list(STAGES.values())[: exit + 1]))
    assert backend.ran == list(STAGES)[: exit + 1]  # what does not fit was never begun


def test_a_stage_that_took_longer_than_measured_is_seen(tiny: Path) -> None:
    engine, backend = paced(tiny, "chain", dict(STAGES))
    backend.seconds = {**STAGES, "stage_0.onnx": 0.050}  # the device became slow
    found = engine.run(X[0], deadline_s=0.065)
    assert (found.exit, found.reason, found.late) == (0, "deadline", False)
    found = engine.run(X[0], deadline_s=0.045)
    assert (found.exit, found.late) == (0, True)
    backend.seconds = {**STAGES, "stage_2.onnx": 0.5}
    found = engine.run(X[0], deadline_s=0.1)  # the last stage looked as if it fitted
    assert (found.exit, found.reason, found.late) == (2, "last", True)
    engine.profile()
    assert engine.run(X[0], deadline_s=0.1).exit == 1  # and after measuring again it does not


def test_a_confident_answer_needs_no_deadline(tiny: Path) -> None:
    engine, _ = paced(tiny, "chain", dict(STAGES), Threshold((0.0, 0.0)))
    found = engine.run(X[0], deadline_s=0.001)
    assert (found.exit, found.reason, found.late) == (0, "confident", True)
    found = engine.run(X[0])
    assert (found.exit, found.reason, found.late) == (0, "confident", None)


def test_a_fused_graph_is_forced_beforehand(tiny: Path) -> None:
    engine, _ = paced(tiny, "fused", {"model.onnx": 0.010})
    engine.driver.seconds = engine.seconds = (0.010, 0.030, 0.070)
    for deadline, exit in ((0.005, 0), (0.011, 0), (0.031, 1), (0.071, 2)):
        found = engine.run(X[0], deadline_s=deadline)
        assert (found.exit, found.late) == (exit, deadline < 0.010)
        assert found.reason == ("last" if exit == 2 else "deadline")
    engine.policy = Threshold((0.0, 0.0))
    assert engine.run(X[0], deadline_s=0.031).reason == "confident"
    engine.policy = fixed_exit(0, 3)
    assert engine.run(X[0], deadline_s=0.031).reason == "forced"


@pytest.mark.parametrize("deadline", [0, -1, math.nan, INF])
def test_no_deadline(tiny: Path, deadline: float) -> None:
    engine = load(tiny, artifact="chain")
    with pytest.raises(PolicyError, match="positive number of seconds"):
        engine.run(X[0], deadline_s=deadline)


def test_a_deadline_needs_measured_times(tiny: Path) -> None:
    with pytest.raises(PolicyError, match="warmup > 0"):
        load(tiny, warmup=0).run(X[0], deadline_s=1)


def test_fake_clock() -> None:
    clock = FakeClock(5)
    clock.advance(0.5)
    assert clock() == 5.5
    for wrong in (-1, math.nan):
        with pytest.raises(ValueError, match="forward"):
            clock.advance(wrong)


def test_a_real_clock_moves(tiny: Path) -> None:
    engine = load(tiny)
    assert engine.seconds is not None and all(0 < s < 1 for s in engine.seconds)
    found = engine.run(X[0], deadline_s=5)
    assert 0 < found.seconds < 5 and found.late is False


# --- what does not fit -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["fused", "chain", "prefix"])
def test_wrong_inputs(engines: dict[str, Engine], layout: str) -> None:
    engine = engines[layout]
    cases: list[tuple[Any, str]] = [
        (X[0].astype(np.float64), r"is float64; the model takes float32: convert with .astype\(np.float32\)"),
        (X[0].astype(np.int64), "is int64"),
        (X[0].astype(">f4"), "the model takes float32"),
        (X[0, :3], r"has shape \(1, 3\); the model takes \('batch', 4\)"),
        (X[:1, None], r"has shape \(1, 1, 4\)"),
        (np.float32(1), "float32; expected a numpy array"),
        (np.array(1, np.float32), r"has shape \(\)"),
        ([1.0, 2.0, 3.0, 4.0], "is a list; expected a numpy array"),
        (X[:2], r"holds 2 inputs \(shape \(2, 4\)\); run\(\) takes one, run_batch\(\) many"),
        (X[:0], "holds 0 inputs"),
        (np.array([1, np.nan, 0, 0], np.float32), "holds NaN"),
        ({"y": X[0]}, "'y' is no input of the model; it takes x"),
        ({"x": X[0], "y": X[0]}, "'y' is no input"),
        ({}, "input 'x' is missing"),
    ]
    for x, message in cases:
        with pytest.raises(DataError, match=message):
            engine.run(x)
    for x, message in ((X[0], r"has shape \(4,\)"), (X[:0], "at least 1"), (X * np.nan, "holds NaN")):
        with pytest.raises(DataError, match=message):
            engine.run_batch(x)
        with pytest.raises(DataError, match=message):
            engine.record(x)


@pytest.mark.parametrize("layout", ["fused", "chain", "prefix"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_inputs_that_are_not_finite(engines: dict[str, Engine], layout: str, value: float) -> None:
    """Everywhere alike, with the name and the place."""
    engine = engines[layout]
    x = X[:5].copy()
    x[3, 2] = value
    for call, place in (
        (lambda: engine.run(x[3]), r"\[0, 2\]"),
        (lambda: engine.run_batch(x), r"\[3, 2\]"),
        (lambda: engine.record(x), r"\[3, 2\]"),
    ):
        with pytest.raises(DataError, match=rf"input 'x' holds {'NaN' if value != value else f'{value:g}'} at {place}"):
            call()
    with pytest.raises(DataError) as caught:
        engine.run(x[3])
    assert ("mask" in str(caught.value)) == (value == -np.inf)


def test_several_inputs() -> None:
    check = InputCheck([TensorSpec("a", "float32", ("n", 2)), TensorSpec("b", "int64", ("n", "time"))])
    a, b = np.zeros((3, 2), np.float32), np.zeros((3, 5), np.int64)
    assert [v.shape for v in check.many({"b": b, "a": a})] == [(3, 2), (3, 5)]
    assert [v.shape for v in check.one({"a": a[0], "b": b[:1]})] == [(1, 2), (1, 5)]
    with pytest.raises(DataError, match=r"has 2 inputs \(a, b\); pass a dict"):
        check.one(a[0])
    with pytest.raises(DataError, match="'b' is missing"):
        check.one({"a": a[0]})
    with pytest.raises(DataError, match="one count"):
        check.many({"a": a, "b": b[:2]})
    huge = np.full((1, 2), 3e38, np.float32)  # its sum overflows, which is no NaN
    assert check.one({"a": huge, "b": b[:1]})[0] is huge
    assert check.one({"a": a[:1], "b": b[:1, :0]})[1].shape == (1, 0)


def test_policies_that_do_not_fit(tiny: Path, engines: dict[str, Engine]) -> None:
    cases: list[tuple[str, Policy, str]] = [
        ("fused", Threshold((0.5,)), "made for 2 exits, tiny has 3"),
        ("chain", Threshold((0.5,) * 3), "made for 4 exits, tiny has 3"),
        ("fused", Threshold((0.5, 0.5), "margin"), "holds score 'maxprob', the policy wants 'margin'"),
        ("fused", Threshold((0.5, 0.5), temperatures=(2.0, 1.0, 1.0)), "holds temperatures"),
        ("fused", Patience(1), "'patience' needs layout chain"),
        ("prefix", Threshold((0.5, 0.5)), "answers at a fixed exit only"),
        ("prefix", Patience(1), "answers at a fixed exit only"),
    ]
    for layout, policy, message in cases:
        with pytest.raises(PolicyError, match=message):
            load(tiny, artifact=layout, policy=policy, warmup=0)
        before = engines[layout].policy
        with pytest.raises(PolicyError, match=message):
            engines[layout].policy = policy
        assert engines[layout].policy is before
    for policy in (Threshold((0.5, 0.5), "margin"), Threshold((0.5, 0.5), temperatures=(2.0, 1.0, 1.0)), Patience(2)):
        load(tiny, artifact="chain", policy=policy, warmup=0).run(X[0])
    load(tiny, artifact="fused", policy=Threshold((0.5, 0.5), temperatures=(1.0, 1.0, 1.0)), warmup=0).run(X[0])


def test_layout_all_refuses_to_run(engines: dict[str, Engine]) -> None:
    engine = engines["all"]
    for call in (lambda: engine.run(X[0]), lambda: engine.run_batch(X)):
        with pytest.raises(PolicyError, match="it is for calibration, run fused or chain"):
            call()
    with pytest.raises(PolicyError, match="it is for calibration"):
        engine.policy = fixed_exit(0, 3)
    assert engine.record(X[:2]).outputs.shape == (3, 2, 3)


def test_a_point_runs_on_its_artifact_only(tiny: Path) -> None:
    with pytest.raises(PolicyError, match="calibrated on onnx-fused-fp32; onnx-chain-fp32 gives other scores"):
        load(tiny, artifact="chain", policy="half-fused")


def test_what_cannot_be_loaded(tiny: Path) -> None:
    with pytest.raises(PolicyError, match="threads must be at least 1, found 0"):
        load(tiny, threads=0)
    with pytest.raises(BundleError, match="no artifact 'tflite' in tiny; it holds onnx-fused-fp32"):
        load(tiny, artifact="tflite")
    with pytest.raises(PolicyError, match="no operating point 'fast'"):
        load(tiny, policy="fast")
    with pytest.raises(BackendMissing, match="no engine for format 'abacus'; this version runs: onnx"):
        backends.get("abacus")


def test_policies() -> None:
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(PolicyError, match="patience must be"):
            Patience(wrong)  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="a threshold is NaN"):
        Threshold((0.5, math.nan))
    with pytest.raises(PolicyError, match="unknown score"):
        Threshold((0.5,), "luck")
    with pytest.raises(PolicyError, match="temperatures must be 2 positive"):
        Threshold((0.5,), temperatures=(1.0, 0.0))
    with pytest.raises(PolicyError, match="there is no exit 3; the model has exits 0 to 2"):
        fixed_exit(3, 3)
    assert Threshold((1e300,)).compared == (np.float32(INF),)


# --- with made-up stages -----------------------------------------------------------------------------------


class ArtifactSet:
    """A model file that gives what it is told to."""

    def __init__(self, inputs: tuple[str, ...], given: dict[str, Any]) -> None:
        self.inputs, self.outputs, self.given = inputs, tuple(given), given

    def run(self, values: Any) -> list[Any]:
        return list(self.given.values())


def test_patience_on_sequences(tiny: Path) -> None:
    """Two answers agree when they do at every position, with one input as in a batch."""
    bundle = Bundle.open(tiny)
    m, chain = bundle.manifest, bundle.manifest.artifact("onnx-chain-fp32")
    f = np.zeros((2, 8), np.float32)
    # (input, position) -> class; input 0 changes at one position, input 1 never does
    classes = [[[0, 1, 2], [1, 1, 1]], [[0, 1, 1], [1, 1, 1]], [[0, 1, 1], [2, 2, 2]]]
    y = [np.eye(3, dtype=np.float32)[np.array(c)] * 5 for c in classes]

    def driver(rows: slice) -> Chain:
        models = [
            ArtifactSet(("x",), {"y0": y[0][rows], "f0": f[rows]}),
            ArtifactSet(("f0",), {"y1": y[1][rows], "f1": f[rows]}),
            ArtifactSet(("f1", "f0"), {"y2": y[2][rows]}),
        ]
        return Chain(m, chain, models, FakeClock())

    x = np.zeros((2, 4), np.float32)
    single = [driver(slice(i, i + 1)).run([x[i : i + 1]], Patience(1), None)[0] for i in range(2)]
    assert single == [2, 1]
    outputs = np.stack(y)
    assert replay(Patience(1), Records(outputs, np.array([1.0, 2.0, 3.0]))).tolist() == [2, 1]


def test_a_graph_that_answers_at_no_exit(tiny: Path) -> None:
    bundle = Bundle.open(tiny)
    given = {"output": np.zeros((1, 3), np.float32), "exit_index": np.int64(7), "exit_score": np.float32(1)}
    model = ArtifactSet(("x", "exit_thresholds"), given)
    fused = Fused(bundle.manifest, bundle.manifest.artifact("onnx-fused-fp32"), [model], FakeClock())
    with pytest.raises(BundleError, match="answered at exit 7 of 3"):
        fused.run([X[:1]], Threshold((0.5, 0.5)), None)


def test_files_that_are_not_what_the_manifest_says(tiny: Path) -> None:
    bundle = Bundle.open(tiny)
    model = ArtifactSet(("x",), {"y0": np.zeros((1, 3), np.float32)})
    with pytest.raises(BundleError, match="gives no 'output'"):
        Fused(bundle.manifest, bundle.manifest.artifact("onnx-fused-fp32"), [model], FakeClock())
    chain = bundle.manifest.artifact("onnx-chain-fp32")
    stranger = ArtifactSet(("secret",), {"y0": 0, "f0": 0})
    with pytest.raises(BundleError, match="wants 'secret', unknown to the manifest"):
        Chain(bundle.manifest, chain, [stranger, stranger, stranger], FakeClock())
