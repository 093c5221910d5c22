"""Answers with NaN or infinity: an error that names the exit, in every layout and call; -inf masks are answers."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from state_nets import Windowed, seeded, stepped

import edgeexit
from edgeexit.bench.verify import verify
from edgeexit.engine.layouts.chain import Chain
from edgeexit.errors import DataError, ModelError
from edgeexit.policy.policies import Patience, Policy, QExit, Threshold

INF = math.inf
GOOD = np.array([[0.5, -1.0, 2.0, 0.1], [1.5, 1.0, -2.0, -0.1]], np.float32)
BAD = np.array([[0.5, -1.0, 2.0, 100.0]], np.float32)
"""Its last number sends the exponential to infinity."""


def network(path: Path, broken: str, mask: bool = False) -> Path:
    """Two exits; `broken` gets infinity less infinity where the last input is large. A mask rules class 2 out."""
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.standard_normal((4, 8)),
        "h0": rng.standard_normal((8, 3)),
        "h1": rng.standard_normal((8, 3)),
        "w1": rng.standard_normal((8, 8)),
        "last": np.array([[0.0], [0.0], [0.0], [1.0]]),
        "mask": np.array([0.0, 0.0, -INF]),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["f0"]),
        helper.make_node("MatMul", ["f0", "h0"], ["a0"]),
        helper.make_node("MatMul", ["f0", "w1"], ["f1"]),
        helper.make_node("MatMul", ["f1", "h1"], ["a1"]),
        helper.make_node("MatMul", ["x", "last"], ["l"]),
        helper.make_node("Exp", ["l"], ["e"]),
        helper.make_node("Sub", ["e", "e"], ["nothing"]),
    ]
    for k in range(2):
        added = "nothing" if broken == f"y{k}" else "mask" if mask else None
        nodes.append(
            helper.make_node("Identity", [f"a{k}"], [f"y{k}"])
            if added is None
            else helper.make_node("Add", [f"a{k}", added], [f"y{k}"])
        )
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes if broken else [n for n in nodes if n.output[0] not in ("l", "e", "nothing")],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info(f"y{k}", TensorProto.FLOAT, ["n", 3]) for k in range(2)],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items() if n in used],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("nets")
    out = {}
    for name, (broken, mask) in {"y0": ("y0", False), "y1": ("y1", False), "masked": ("", True)}.items():
        out[name] = folder / f"{name}.edgeexit"
        edgeexit.export(network(folder / f"{name}.onnx", broken, mask), out[name])
    return out


def engine(bundle: Path, layout: str, policy: Policy) -> edgeexit.Engine:
    return edgeexit.load(bundle, artifact=layout, policy=policy, warmup=0)


NEVER, ALWAYS, MIDDLE = Threshold((INF,)), Threshold((-INF,)), Threshold((1.5,))


@pytest.mark.parametrize(
    ("broken", "layout", "policy", "message"),
    [
        ("y0", "chain", MIDDLE, r"exit 0 \('y0'\) answers with NaN at \[0, 0\]"),
        ("y0", "chain", ALWAYS, r"exit 0 \('y0'\) answers with NaN"),
        ("y0", "chain", Patience(1), r"exit 0 \('y0'\) answers with NaN"),
        ("y0", "chain", QExit(0.9), r"exit 0 \('y0'\) answers with NaN"),
        ("y0", "chain", Threshold((0.5,), "entropy"), r"exit 0 \('y0'\) answers with NaN"),
        ("y0", "chain", Threshold((0.5,), "margin"), r"exit 0 \('y0'\) answers with NaN"),
        ("y0", "fused", ALWAYS, r"exit 0 \('y0'\)"),
        ("y0", "prefix", ALWAYS, r"exit 0 \('y0'\) answers with NaN"),
        ("y1", "chain", NEVER, r"exit 1 \('y1'\) answers with NaN"),
        ("y1", "chain", MIDDLE, r"exit 1 \('y1'\) answers with NaN"),
        ("y1", "fused", NEVER, r"exit 1 \('y1'\) answers with NaN"),
        ("y1", "prefix", NEVER, r"exit 1 \('y1'\) answers with NaN"),
    ],
)
def test_no_answer(bundles: dict[str, Path], broken: str, layout: str, policy: Policy, message: str) -> None:
    ran = engine(bundles[broken], layout, policy)
    for x in GOOD:
        assert math.isfinite(ran.run(x).score)
    with pytest.raises(DataError, match=message) as caught:
        ran.run(BAD[0])
    assert f"onnx-{layout}-fp32" in str(caught.value)
    assert math.isfinite(ran.run(GOOD[0]).score)
    assert np.isfinite(ran.run_batch(GOOD).scores).all()
    with pytest.raises(DataError, match=message) as caught:
        ran.run_batch(np.concatenate([GOOD, BAD, GOOD]))
    assert layout == "fused" or "row 2: exit" in str(caught.value)
    with pytest.raises(DataError, match=message) as caught:
        ran.run_batch(np.concatenate([GOOD, BAD, GOOD, BAD]))
    assert layout == "fused" or "row 2 (the first of 2 such rows)" in str(caught.value)


@pytest.mark.parametrize("broken", ["y0", "y1"])
@pytest.mark.parametrize("layout", ["chain", "fused", "prefix", "all"])
def test_no_records(bundles: dict[str, Path], broken: str, layout: str) -> None:
    ran = edgeexit.load(bundles[broken], artifact=layout, warmup=0)
    assert np.isfinite(ran.record(GOOD).outputs).all()
    with pytest.raises(DataError, match=rf"row 2: .*exit {broken[1]} ") as caught:
        ran.record(np.concatenate([GOOD, BAD]))
    assert "NaN" in str(caught.value)


def test_an_exit_that_is_not_asked_may_fail(bundles: dict[str, Path]) -> None:
    for layout in ("chain", "fused", "prefix"):
        assert engine(bundles["y0"], layout, NEVER).run(BAD[0]).exit == 1
        assert engine(bundles["y1"], layout, ALWAYS).run(BAD[0]).exit == 0


def test_labels_are_refused_before_the_work(bundles: dict[str, Path]) -> None:
    ran = edgeexit.load(bundles["masked"], artifact="chain", warmup=0)
    for labels, message in (
        (np.array([0, 3]), "row 1 is the first of 1"),
        (np.array([-1, 0]), "row 0 is the first of 1"),
        (np.array([0.0, 1.0]), "whole numbers"),
        (np.array([0, 1, 2]), "whole numbers of shape"),
    ):
        done: list[int] = []
        with pytest.raises(DataError, match=message):
            ran.record(GOOD, labels, progress=lambda i, n, done=done: done.append(i))  # type: ignore[misc]
        assert not done


def test_masks_are_answers(bundles: dict[str, Path]) -> None:
    found: dict[str, Any] = {}
    for layout in ("chain", "fused", "prefix"):
        for policy in (NEVER, ALWAYS):
            ran = engine(bundles["masked"], layout, policy)
            one, many = [ran.run(x) for x in GOOD], ran.run_batch(GOOD)
            assert all(d.output[2] == -INF and d.label in (0, 1) and 0 < d.score <= 1 for d in one)
            np.testing.assert_array_equal(many.labels, [d.label for d in one])
            found.setdefault(str(policy), []).append([d.label for d in one])
    assert all(labels[0] == labels[1] == labels[2] for labels in found.values())
    assert all(v.passed for v in verify(edgeexit.Bundle.open(bundles["masked"])))
    for layout in ("chain", "fused", "all"):
        records = edgeexit.load(bundles["masked"], artifact=layout, warmup=0).record(GOOD, np.array([0, 1]))
        assert np.isfinite(records.outputs).all() and (records.probabilities(0)[:, 2] == 0).all()
        assert np.isfinite(records.scores("entropy")).all() and np.isfinite(records.scores("margin")).all()
        from edgeexit.calibrate.temperature import fit_temperatures

        assert all(0 < t < INF for t in fit_temperatures(records))


def test_a_source_that_answers_infinity_is_refused(tmp_path: Path) -> None:
    class Overflows(torch.nn.Module):
        input_spec: ClassVar = {"x": ("float32", ("batch", 4))}

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x[:, :3], x[:, :3].abs() / 0

    with pytest.raises(ModelError, match=r"exit .* of the source model answers inf"):
        edgeexit.export(Overflows(), tmp_path / "out.edgeexit")


def test_infinite_rows_of_data_are_refused(tmp_path: Path) -> None:
    source = network(tmp_path / "net.onnx", "", True)
    with pytest.raises(DataError, match=r"input 'x' holds -inf at \[1, 0\]"):
        edgeexit.export(source, tmp_path / "out.edgeexit", data={"x": np.array([[0] * 4, [-INF] * 4], np.float32)})


def test_a_stream_goes_on_after_an_answer_that_is_none(tmp_path: Path) -> None:
    """Nothing is lost to the stages behind: the next answers are those of a network that saw every input."""
    module = seeded(Windowed)
    loud = 1e20
    with torch.no_grad():
        module.heads[0].weight.mul_(1e25)  # overflows on a loud line, in this head alone
    out = tmp_path / "stream.edgeexit"
    edgeexit.export(module, out)
    rng = np.random.default_rng(1)
    rows = [rng.standard_normal((1, 2, 1, 10)).astype(np.float32) * 1e-3 for _ in range(8)]
    rows[3] = rows[3] * np.float32(loud)
    expected = stepped(module, rows)
    assert not np.isfinite(expected[3][0]).all() and np.isfinite(expected[4][2]).all()
    stream = edgeexit.load(out, artifact="chain", warmup=0).stream()
    assert isinstance(stream.engine.driver, Chain)
    for i, row in enumerate(rows):
        k = 0 if i < 6 else 2
        if np.isfinite(expected[i][k]).all():
            np.testing.assert_allclose(stream.step(row, exit=k).output, expected[i][k][0], rtol=1e-4)
        else:
            with pytest.raises(DataError, match=r"exit 0 \('.*'\) answers with"):
                stream.step(row, exit=k)
    assert stream.steps == 8 and stream.waiting[2] == 0
    fresh = edgeexit.load(out, artifact="chain", warmup=0).stream()
    for row in rows[:5]:
        with contextlib.suppress(DataError):
            fresh.step(row, exit=0)
    assert [late.step for late in fresh.deepen(1)] == [0, 1, 2, 3, 4]


def test_what_waited_and_has_no_answer_is_named(tmp_path: Path) -> None:
    module = seeded(Windowed)
    with torch.no_grad():
        module.heads[1].weight.mul_(1e25)
    out = tmp_path / "stream.edgeexit"
    edgeexit.export(module, out)
    stream = edgeexit.load(out, artifact="chain", warmup=0).stream()
    rng = np.random.default_rng(1)
    for i in range(4):
        stream.step(
            rng.standard_normal((1, 2, 1, 10)).astype(np.float32) * np.float32(1e20 if i == 2 else 1e-3), exit=0
        )
    with pytest.raises(DataError, match=r"input 2 of the stream: exit 1 \('.*'\) answers with"):
        stream.deepen(1)
    assert stream.waiting[1] == 0
