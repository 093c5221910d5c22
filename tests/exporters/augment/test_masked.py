"""Padding: heads pool over what a mask calls real, in every layout, and more padding changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from augment_checks import batches_answer_as_single_inputs, last_answers_as_before
from numpy.typing import NDArray
from onnx import TensorProto
from onnx_models import Net, save
from torch import nn

from edgeexit.bench.verify import verify
from edgeexit.errors import DataError, ModelError
from edgeexit_exporters.augment.features import feature_name, pooled_graph
from edgeexit_exporters.augment.flow import augment, places_of
from edgeexit_exporters.augment.masked import check_mask
from edgeexit_exporters.augment.nodes import pooled_width
from edgeexit_exporters.exporting import open_source
from edgeexit_exporters.onnx import graph, measure
from edgeexit_exporters.source.source import Source
from edgeexit_exporters.source.torch_source import from_torch

WIDE = 5
TYPES = {"bool": TensorProto.BOOL, "int64": TensorProto.INT64, "float32": TensorProto.FLOAT}


@dataclass(frozen=True)
class At:
    tensors: tuple[str, ...]
    kinds: tuple[str, ...]
    sizes: tuple[tuple[int, ...], ...]
    mask: str | None = "mask"
    name: str = "here"

    @property
    def channels(self) -> tuple[int, ...]:
        return (WIDE,) * len(self.tensors)


def turned(opset: int, mask: str) -> ir.Model:
    """A network that holds its input as tokens, as a signal and as steps."""
    net = Net()
    net.op("Identity", ["x"], "tokens")
    net.op("Transpose", ["x"], "signal", perm=[0, 2, 1])
    net.op("Transpose", ["x"], "steps", perm=[1, 0, 2])
    proto = net.model(
        {"x": ["batch", "time", WIDE], "mask": ["batch", "time"]},
        {"tokens": ["batch", "time", WIDE], "signal": ["batch", WIDE, "time"], "steps": ["time", "batch", WIDE]},
        opset,
        {"mask": TYPES[mask]},
    )
    return graph.prepare(proto, "net")


def in_numpy(x: NDArray[Any], mask: NDArray[Any], pool: str) -> NDArray[Any]:
    rows = []
    for tokens, real in zip(x, mask != 0, strict=True):
        kept = tokens[real] if real.any() else np.zeros((1, WIDE), np.float32)  # nothing real: 0
        ways: dict[str, list[Any]] = {
            "average": [kept.mean(0)], "avgmax": [kept.mean(0), kept.max(0)], "grid": [kept.mean(0), kept.max(0)],
            "first": [tokens[0]], "last": [kept[-1]],
        }  # fmt: skip
        rows.append(np.concatenate(ways[pool]))
    return np.stack(rows)


@pytest.mark.parametrize("pool", ["average", "avgmax", "first", "last", "grid"])
@pytest.mark.parametrize(("opset", "dtype"), [(13, "bool"), (17, "float32"), (18, "int64"), (21, "bool")])
def test_pooled_as_in_numpy(opset: int, dtype: str, pool: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 9, WIDE)).astype(np.float32) - 3  # all below 0: a 0 would be the maximum
    mask = np.zeros((6, 9), dtype)
    for row, real in enumerate([slice(0, 9), slice(0, 4), slice(5, 9), slice(3, 4), slice(0, 9, 2), slice(0, 0)]):
        mask[row, real] = 1  # all, padded behind, padded before, a single one, holes, none
    if pool != "first":
        x[mask == 0] = np.nan  # what is not real is not looked at
    kinds = ("tokens", "steps") if pool in ("first", "grid") else ("tokens", "signal", "steps")
    places = [At((kind,), (kind,), ((9,),)) for kind in kinds]
    pooled = ir.to_proto(pooled_graph(turned(opset, dtype), places, pool))
    found = measure.run(measure.session(pooled.SerializeToString()), {"x": x, "mask": mask})
    for k, place in enumerate(places):
        assert found[feature_name(k)].shape == (6, pooled_width(place, pool))
        np.testing.assert_allclose(found[feature_name(k)], in_numpy(x, mask, pool), rtol=1e-5, atol=1e-6)


def test_nothing_is_counted_as_a_parameter() -> None:
    model = turned(18, "bool")
    pooled = pooled_graph(model, [At(("tokens",), ("tokens",), ((),))], "avgmax")
    assert graph.parameter_count(pooled.graph.initializers.values()) == 0


def test_a_grid_knows_no_mask() -> None:
    with pytest.raises(ModelError, match="pool grid knows no mask, and 'here' has mask 'mask': choose avgmax"):
        pooled_graph(turned(18, "bool"), [At(("signal",), ("signal",), ((9,),))], "grid")
    with pytest.raises(ModelError, match="mask 'musk' is not a tensor of the graph; did you mean"):
        pooled_graph(turned(18, "bool"), [At(("tokens",), ("tokens",), ((),), mask="musk")], "average")


class Encoder(nn.Module):
    """A small transformer encoder; its answer is the mean over real tokens."""

    input_spec = {"x": ("float32", ("batch", "time", 4)), "mask": ("bool", ("batch", "time"))}  # noqa: RUF012

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(4, 16)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True) for _ in range(layers)
        )
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        h = self.embed(x)
        # A row without a real token would make the softmax 0 / 0: it attends to everything.
        padding = ~mask & mask.any(1, keepdim=True)
        for block in self.blocks:
            h = block(h, src_key_padding_mask=padding)
        m = mask.to(h.dtype)[..., None]
        found: torch.Tensor = self.head((h * m).sum(1) / m.sum(1).clamp(min=1))
        return found


def task(n: int, seed: int = 0) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """Which channel is larger over the real tokens; the padding says something else, and loudly."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    x = rng.standard_normal((n, 12, 4)).astype(np.float32)
    x[np.arange(n), :, y] += rng.uniform(0.2, 2.0, n).astype(np.float32)[:, None]
    mask = np.arange(12) < rng.integers(3, 13, n)[:, None]
    x[~mask] = rng.standard_normal((int((~mask).sum()), 4)).astype(np.float32) * 10
    return {"x": x, "mask": mask}, y


@pytest.fixture(scope="module")
def network() -> tuple[Encoder, Source]:
    module = Encoder()
    arrays, labels = task(512, seed=1)
    x, mask, y = (torch.from_numpy(a) for a in (*arrays.values(), labels))
    optimizer = torch.optim.Adam(module.parameters(), 0.005)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x, mask), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return module.eval(), from_torch(module, single=True)


@pytest.mark.parametrize("pool", ["average", "avgmax", "last"])
def test_more_padding_changes_no_feature(network: tuple[Encoder, Source], pool: str) -> None:
    _, source = network
    found, _ = places_of(source, 4, mask="mask")
    assert len(found) >= 3 and {p.kinds for p in found} == {("tokens",)} and {p.mask for p in found} == {"mask"}
    session = measure.session(ir.to_proto(pooled_graph(source.model, found, pool)).SerializeToString())
    arrays, _ = task(8)
    longer = {n: np.concatenate([a, np.ones_like(a[:, :7]) if n == "x" else np.zeros_like(a[:, :7])], 1)
              for n, a in arrays.items()}  # fmt: skip
    few, many = measure.run(session, arrays), measure.run(session, longer)
    for row, real in enumerate(arrays["mask"].sum(1)):
        bare = {n: a[row : row + 1, :real] for n, a in arrays.items()}
        alone = measure.run(session, bare)
        for k in range(len(found)):
            name = feature_name(k)
            np.testing.assert_allclose(few[name][row], alone[name][0], atol=1e-5)
            np.testing.assert_allclose(many[name][row], alone[name][0], atol=1e-5)


def test_from_padded_rows_to_a_bundle(network: tuple[Encoder, Source], tmp_path: Path) -> None:
    module, source = network
    x, y = task(900)
    plain = augment(source, x, y, tmp_path / "p.edgeexit", drop=0.1, candidates=4, aside=["mask"], layouts=["fused"])
    found = augment(source, x, y, tmp_path / "a.edgeexit", drop=0.1, candidates=4, mask="mask", anyway=True)
    assert [c.place.name for c in found.candidates] == [c.place.name for c in plain.candidates]
    assert found.candidates[0].accuracy > plain.candidates[0].accuracy + 0.1  # loud padding drowns the mean
    assert found.bundle is not None and found.bundle.manifest.provenance["mask"] == "mask"
    assert all("mask" in stage.inputs for stage in found.bundle.manifest.stages)
    assert all(v.passed for v in verify(found.bundle))
    few = {n: a[:20] for n, a in x.items()}
    last_answers_as_before(found.bundle, few, module(*map(torch.from_numpy, few.values())).detach().numpy())
    batches_answer_as_single_inputs(found.bundle, {n: a[:40] for n, a in x.items()})


def test_an_additive_mask_is_refused(network: tuple[Encoder, Source], tmp_path: Path) -> None:
    net = Net()
    net.op("Add", ["x", "shift"], "shifted")
    a = net.op("Tanh", [net.op("MatMul", ["shifted", net.weight("w", 4, 4)], "a_linear")], "a")
    b = net.op("Tanh", [net.op("MatMul", [a, net.weight("v", 4, 4)], "b_linear")], "b")
    net.op("Unsqueeze", ["mask", net.ints("two", 2)], "shift")
    net.nodes.insert(0, net.nodes.pop())
    net.head(net.op("ReduceMean", [b, net.ints("one", 1)], "mean", keepdims=0), 4, "y")
    model = net.model({"x": ["batch", 6, 4], "mask": ["batch", 6]}, {"y": ["batch", 3]})
    source = open_source(save(model, tmp_path), single=True)
    x, y = task(60)
    mask = np.where(x["mask"][:, :6], 0, -1e4).astype(np.float32)
    with pytest.raises(DataError, match=r"mask 'mask' holds -10000.0 in row \d+; expected 1 .* additive mask"):
        augment(source, {"x": x["x"][:, :6], "mask": mask}, y, tmp_path / "a.edgeexit", mask="mask")


def texts(late: Callable[[Net], None] | None = None) -> Net:
    """A network on token ids that makes its mask itself: 0 is padding."""
    net = Net()
    net.op("Equal", ["ids", net.ints("zero", 0, scalar=True)], "padding")
    net.op("Not", ["padding"], "real")
    net.op("Gather", [net.weight("table", 9, 4), "ids"], "embedded")
    net.op("MatMul", ["embedded", net.weight("w0", 4, 4)], "a_linear")
    net.op("Tanh", ["a_linear"], "a")
    net.op("MatMul", ["a", net.weight("w1", 4, 4)], "b_linear")
    net.op("Tanh", ["b_linear"], "b")
    net.op("MatMul", ["b", net.weight("w2", 4, 8)], "c")
    net.op("Cast", ["real"], "numbers", to=TensorProto.FLOAT)
    net.op("Unsqueeze", ["numbers", net.ints("two", 2)], "wide")
    net.op("Mul", ["c", "wide"], "kept")
    net.op("ReduceMean", ["kept", net.ints("one", 1)], "mean", keepdims=0)
    net.head("mean", 8, "y")
    return net


def text_source(tmp_path: Path, net: Net, time: int | str = "time") -> Source:
    model = net.model({"ids": ["batch", time]}, {"y": ["batch", 3]}, types={"ids": TensorProto.INT64})
    return open_source(save(model, tmp_path), single=True)


def test_a_mask_that_the_network_makes_travels_over_the_cuts(tmp_path: Path) -> None:
    source = text_source(tmp_path, texts())
    rng = np.random.default_rng(0)
    ids = np.where(np.arange(10) < rng.integers(1, 11, 600)[:, None], rng.integers(1, 9, (600, 10)), 0)
    found = augment(source, {"ids": ids}, None, tmp_path / "a.edgeexit", drop=0.3, mask="real", exits=2, anyway=True)
    assert [c.place.name for c in found.candidates] == ["a", "b"]
    assert found.bundle is not None
    assert {t.name: (t.dtype, t.batch_axis) for t in found.bundle.manifest.cuts}["real"] == ("bool", 0)
    expected = measure.all_values(ir.to_proto(source.model), ["y"], {"ids": ids[:20]})["y"]
    last_answers_as_before(found.bundle, {"ids": ids[:20]}, expected)
    with pytest.raises(DataError, match="mask 'numbers_' holds 2"):
        check_mask(doubled(source), "numbers_", {"ids": ids})


def doubled(source: Source) -> ir.Model:
    net = texts()
    net.op("Add", ["numbers", "numbers"], "numbers_")
    net.op("Unsqueeze", ["numbers_", net.ints("two", 2)], "wide")
    net.nodes = [n for n in net.nodes if n.output[0] != "wide" or n.input[0] == "numbers_"]
    order = ["padding", "real", "embedded", "a_linear", "a", "b_linear", "b", "c", "numbers", "numbers_", "wide"]
    net.nodes.sort(key=lambda n: order.index(n.output[0]) if n.output[0] in order else len(order))
    return graph.prepare(
        net.model({"ids": ["batch", "time"]}, {"y": ["batch", 3]}, types={"ids": TensorProto.INT64}), "net"
    )


REFUSED = {
    "unknown": ("musk", "'musk' cannot be set aside: it is neither a tensor nor an input"),
    "of another shape": ("embedded", r"mask 'embedded' is float32\[1, 16, 4\] for one input; expected \(b, t\)"),
    "without a batch axis": ("shape", r"mask 'shape' is int64\[2\] for one input; expected \(b, t\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_masks_that_are_none(case: str, tmp_path: Path) -> None:
    mask, words = REFUSED[case]
    net = texts()
    net.op("Shape", ["ids"], "shape")
    net.op("Reshape", ["mean", net.ints("free", -1, 8)], "again")
    net.op("ReduceMax", ["shape"], "longest", keepdims=0)
    net.op("Cast", ["longest"], "number", to=TensorProto.FLOAT)
    net.op("Sub", ["number", "number"], "nothing")
    net.op("Add", ["again", "nothing"], "same")
    net.nodes.append(net.nodes.pop(12))
    net.nodes[-1].input[0] = "same"
    with pytest.raises(ModelError, match=words):
        places_of(text_source(tmp_path, net), mask=mask)


@pytest.mark.parametrize("time", ["time", 16])
def test_places_of_another_length_are_left_out(time: int | str, tmp_path: Path) -> None:
    """A convolution of stride 2 halves the length: a mask for it there is not."""
    net = Net()
    net.op("Conv", ["x", net.weight("w0", 4, 4, 3)], "a", pads=[1, 1])
    net.op("Conv", ["a", net.weight("w1", 4, 4, 3)], "b", pads=[1, 1], strides=[2])
    net.op("Conv", ["b", net.weight("w2", 4, 4, 3)], "c", pads=[1, 1])
    net.op("ReduceMean", ["c", net.ints("two", 2)], "mean", keepdims=0)
    net.op("ReduceMean", ["mask", net.ints("one", 1)], "share", keepdims=1)
    net.op("Mul", ["mean", "share"], "scaled")
    net.head("scaled", 4, "y")
    model = net.model({"x": ["batch", 4, time], "mask": ["batch", time]}, {"y": ["batch", 3]})
    source = open_source(save(model, tmp_path), single=True)
    assert [p.name for p in places_of(source, aside=["mask"])[0]] == ["a", "b"]
    assert [(p.name, p.mask) for p in places_of(source, mask="mask")[0]] == [("a", "mask")]
    net.nodes[0].attribute[0].ints[:] = [0, 1]  # one position short
    model = net.model({"x": ["batch", 4, time], "mask": ["batch", time]}, {"y": ["batch", 3]})
    with pytest.raises(ModelError, match=r"'a' \[1, 4, 15\] has 15 positions, mask 'mask' has 16"):
        places_of(open_source(save(model, tmp_path), single=True), mask="mask")


@pytest.mark.parametrize(("other", "covered"), [("time", True), ("memory", False)])
def test_lengths_that_are_equal_in_the_example_only(other: str, covered: bool, tmp_path: Path) -> None:
    """Two free axes of one example size: a mask along one says nothing of the other."""
    net = Net()
    net.op("MatMul", ["x", net.weight("w0", 4, 4)], "a")
    net.op("MatMul", ["a", net.weight("w1", 4, 4)], "b")
    net.op("MatMul", ["b", net.weight("w2", 4, 4)], "c")
    net.op("ReduceMean", ["c", net.ints("one", 1)], "mean", keepdims=0)
    net.op("ReduceMean", ["mask", net.ints("one", 1)], "share", keepdims=1)
    net.op("Mul", ["mean", "share"], "scaled")
    net.head("scaled", 4, "y")
    model = net.model({"x": ["batch", "time", 4], "mask": ["batch", other]}, {"y": ["batch", 3]})
    source = open_source(save(model, tmp_path), single=True)
    if covered:
        assert [p.name for p in places_of(source, mask="mask")[0]] == ["a", "b"]
    else:
        with pytest.raises(ModelError, match=r"'a' \[1, 16, 4\] has other positions than mask 'mask'"):
            places_of(source, mask="mask")


def test_a_mask_that_comes_late_covers_nothing_before_it(tmp_path: Path) -> None:
    net = Net()
    net.op("MatMul", ["x", net.weight("w0", 4, 4)], "a")
    net.op("MatMul", ["a", net.weight("w1", 4, 4)], "b")
    net.op("MatMul", ["b", net.weight("w2", 4, 8)], "c")
    net.op("ReduceMax", ["b", net.ints("two", 2)], "score", keepdims=0)
    net.op("Greater", ["score", net.weight("level")], "real")
    net.op("Cast", ["real"], "numbers", to=TensorProto.FLOAT)
    net.op("Unsqueeze", ["numbers", net.ints("two", 2)], "wide")
    net.op("Mul", ["c", "wide"], "kept")
    net.op("ReduceMean", ["kept", net.ints("one", 1)], "mean", keepdims=0)
    net.head("mean", 8, "y")
    model = net.model({"x": ["batch", 6, 4]}, {"y": ["batch", 3]})
    source = open_source(save(model, tmp_path), single=True)
    assert [(p.name, p.mask) for p in places_of(source, aside=["real"])[0]] == [
        ("a", None),
        ("b", None),
        ("kept", None),
    ]
    assert [(p.name, p.mask) for p in places_of(source, mask="real")[0]] == [("b", "real"), ("kept", "real")]
