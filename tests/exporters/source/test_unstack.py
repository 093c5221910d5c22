"""Stacked exits: a module that joins its exits and parts them again is exported as one that never joined them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import helper
from onnx_models import CLASSES, Net, save
from stacked_nets import WAYS, Stacked

import edgeexit
from edgeexit import ModelError, fixed_exit

COSTS = [64 + 24, 128 + 48, 192 + 72]


@pytest.mark.parametrize("way", WAYS)
def test_every_exit_costs_what_it_needs(tmp_path: Path, way: str) -> None:
    module = Stacked(WAYS[way]).eval()
    bundle = edgeexit.export(module, tmp_path / "b")
    assert [e.macs for e in bundle.manifest.exits] == COSTS
    x = torch.randn(1, 8)
    for k, want in enumerate(module(x)):
        engine = edgeexit.load(bundle, warmup=0)
        engine.policy = fixed_exit(k, 3)
        np.testing.assert_allclose(engine.run(x.numpy()).output, want[0].detach().numpy(), atol=1e-5)


def test_a_head_that_all_exits_share_is_computed_exit_by_exit(tmp_path: Path) -> None:
    bundle = edgeexit.export(Stacked(list, features=True), tmp_path / "b")
    assert [e.macs for e in bundle.manifest.exits] == COSTS


def onnx_net(join: Callable[[Net], None]) -> Net:
    net = Net()
    for k in range(3):
        net.op("MatMul", ["x" if k == 0 else f"f{k - 1}", net.weight(f"w{k}", 4, 4)], f"a{k}")
        net.op("Relu", [f"a{k}"], f"f{k}")
        net.head(f"f{k}", 4, f"e{k}")
    join(net)
    return net


def uneven(net: Net) -> None:
    """Slices that do not end where the joined tensors do."""
    net.op("Concat", ["e0", "e1", "e2"], "all", axis=-1)
    for k, (a, b) in enumerate(((0, 3), (2, 5), (4, 9))):
        ends = [net.ints(f"{n}{k}", v) for n, v in (("from", a), ("to", b), ("axis", 1))]
        net.op("Slice", ["all", *ends], f"y{k}")


def with_max_int(net: Net) -> None:
    net.op("Concat", ["e0", "e1", "e2"], "all", axis=1)
    for k, (a, b) in enumerate(((-9, -6), (3, -3), (-3, 2**63 - 1))):
        ends = [net.ints(f"{n}{k}", v) for n, v in (("from", a), ("to", b), ("axis", -1))]
        net.op("Slice", ["all", *ends], f"y{k}")


def sequences(net: Net) -> None:
    net.op("SequenceConstruct", ["e0", "e1", "e2"], "listed")
    net.op("ConcatFromSequence", ["listed"], "all", axis=0, new_axis=1)
    for k in range(3):
        net.op("Gather", ["all", net.ints(f"i{k}", k, scalar=True)], f"y{k}", axis=0)


def split(net: Net) -> None:
    net.op("Concat", ["e0", "e1", "e2"], "all", axis=1)
    net.nodes.append(helper.make_node("Split", ["all"], ["y0", "y1", "y2"], axis=1, num_outputs=3))


def with_something_else(net: Net) -> None:
    """The joined tensor has a reader of its own."""
    split(net)
    net.op("ReduceMean", ["all"], "mean")


@pytest.mark.parametrize("join", [with_max_int, sequences, split, with_something_else])
def test_foreign_graphs(tmp_path: Path, join: Callable[[Net], None]) -> None:
    net = onnx_net(join)
    path = save(net.model({"x": ["batch", 4]}, {f"y{k}": ["batch", CLASSES] for k in range(3)}), tmp_path)
    bundle = edgeexit.export(path, tmp_path / "b")
    assert [e.macs for e in bundle.manifest.exits] == [28, 56, 84]
    assert [e.name for e in bundle.manifest.exits] == ["y0", "y1", "y2"]


def test_parts_that_reach_over_several_exits_cost_all_of_them(tmp_path: Path) -> None:
    net = onnx_net(uneven)
    path = save(net.model({"x": ["batch", 4]}, {f"y{k}": ["batch", None] for k in range(3)}), tmp_path)  # type: ignore[list-item]
    bundle = edgeexit.export(path, tmp_path / "b", layouts=["chain"])
    assert [e.macs for e in bundle.manifest.exits] == [28, 56, 84]
    x = np.random.default_rng(0).standard_normal((1, 4)).astype(np.float32)
    engine = edgeexit.load(bundle, warmup=0)
    for k, want in enumerate(onnxruntime.InferenceSession(str(path)).run(["y0", "y1", "y2"], {"x": x})):
        engine.policy = fixed_exit(k, 3)
        np.testing.assert_allclose(engine.run(x).output, want[0], atol=1e-6)


def test_what_cannot_be_seen_through_is_refused_by_name(tmp_path: Path) -> None:
    net = Net()
    for k in range(3):
        net.op("MatMul", ["x" if k == 0 else f"f{k - 1}", net.weight(f"w{k}", 4, 4)], f"a{k}")
        net.op("Relu", [f"a{k}"], f"f{k}")
    net.op("Concat", ["f0", "f1", "f2"], "all", axis=1)
    net.op("CumSum", ["all", net.ints("one", 1, scalar=True)], "mixed")
    for k in range(3):
        net.op("Gather", ["mixed", net.ints(f"i{k}", *range(3 * k, 3 * k + 3))], f"y{k}", axis=1)
    path = save(net.model({"x": ["batch", 4]}, {f"y{k}": ["batch", 3] for k in range(3)}), tmp_path)
    words = r"exit 'y0', the first, costs 100 % .* go through 'all', which joins 3 tensors .*no torch\.stack or cat"
    for exits in (None, ["y0", "y1", "y2"]):
        with pytest.raises(ModelError, match=words):
            edgeexit.export(path, tmp_path / "b", exits=exits)
    assert not (tmp_path / "b").exists()


def test_shuffled_channels_stay_as_they_are(tmp_path: Path) -> None:
    """Joining and parting inside a network, as channel shuffles do."""
    net = Net()
    net.op("MatMul", ["x", net.weight("w0", 4, 4)], "a")
    net.nodes.append(helper.make_node("Split", ["a"], ["l", "r"], axis=1, num_outputs=2))
    net.op("Concat", ["r", "l"], "turned", axis=1)
    net.head("turned", 4, "y0")
    net.op("MatMul", ["turned", net.weight("w1", 4, 4)], "b")
    net.head("b", 4, "y1")
    path = save(net.model({"x": ["batch", 4]}, {n: ["batch", CLASSES] for n in ("y0", "y1")}), tmp_path)
    assert edgeexit.export(path, tmp_path / "b").manifest.stages[1].inputs == ("turned",)
