"""Pooled features and grafted heads: in onnxruntime, what numpy makes of the raw tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_models
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgeexit.errors import DataError, ModelError
from edgeexit_exporters.augment import features as module
from edgeexit_exporters.augment.features import features, pooled_graph
from edgeexit_exporters.augment.heads import LinearHead, MlpHead
from edgeexit_exporters.augment.nodes import POOLS, PREFIX, add_head, add_pooled, pooled_width
from edgeexit_exporters.onnx import graph as onnx_graph
from edgeexit_exporters.onnx import measure
from edgeexit_exporters.onnx.nodes import Nodes
from edgeexit_exporters.onnx.serialize import to_bytes

SHAPES = {"picture": (5, 9, 3), "signal": (5, 7), "tokens": (7, 5), "steps": (7, 5), "vector": (5,)}
"""Of one input; every kind has 5 channels. Steps are turned to (t, b, c) within the network."""
DTYPES = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
}


@dataclass(frozen=True)
class At:
    tensors: tuple[str, ...]
    kinds: tuple[str, ...]
    name: str = "here"
    mask: str | None = None

    @property
    def channels(self) -> tuple[int, ...]:
        return (5,) * len(self.tensors)

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        fixed = {"picture": (9, 3), "signal": (7,), "tokens": (7,), "steps": (7,)}
        return tuple(fixed.get(kind, ()) for kind in self.kinds)


def network(
    kinds: tuple[str, ...] = tuple(SHAPES), opset: int = 18, dtype: int = TensorProto.FLOAT, batch: int | str = "batch"
) -> ir.Model:
    """One input per kind, its cosine (or negative) as the tensor a place may be at, and the output `y` of them all."""
    net = onnx_models.Net()
    parts = []
    for kind in kinds:
        first = f"{'first' if kind == 'steps' else 'turned'}_{kind}"
        net.op("Cos" if dtype == TensorProto.FLOAT else "Neg", [f"x_{kind}"], first)
        if kind == "steps":
            net.op("Transpose", [first], f"turned_{kind}", perm=[1, 0, 2])
            first = net.op("Transpose", [f"turned_{kind}"], f"back_{kind}", perm=[1, 0, 2])
        flat = net.op("Flatten", [first], f"flat_{kind}", axis=1)
        single = net.op("Cast", [flat], f"single_{kind}", to=TensorProto.FLOAT)
        parts.append(net.head(single, int(np.prod(SHAPES[kind])), f"part_{kind}"))
    net.op("Sum", parts, "y")
    proto = net.model(
        {f"x_{kind}": [batch, *SHAPES[kind]] for kind in kinds},
        {"y": [batch, onnx_models.CLASSES]},
        opset,
        {f"x_{kind}": dtype for kind in kinds},
    )
    return onnx_graph.prepare(proto, "net")


def inputs(n: int, kinds: tuple[str, ...] = tuple(SHAPES), dtype: Any = np.float32) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(n)
    return {f"x_{kind}": rng.standard_normal((n, *SHAPES[kind])).astype(dtype) for kind in kinds}


def in_numpy(x: NDArray[Any], kind: str, pool: str) -> NDArray[np.float32]:
    x = x.astype(np.float32)
    if kind == "vector":
        return x
    axes = {"picture": (2, 3), "signal": (2,), "tokens": (1,), "steps": (1,)}[kind]
    if pool in ("first", "last") and kind in ("tokens", "steps"):
        return x[:, 0 if pool == "first" else -1]
    if pool == "last" and kind == "signal":
        return x[:, :, -1]
    if pool == "grid" and kind == "picture":  # windows of 3 x 1
        return np.concatenate([x.reshape(-1, 5, 3, 3, 3).mean(3).reshape(len(x), -1), x.max((2, 3))], 1)
    if pool == "grid" and kind == "signal":  # windows of 2, the last position is dropped
        return np.concatenate([x[:, :, :6].reshape(-1, 5, 3, 2).mean(3).reshape(len(x), -1), x.max(2)], 1)
    ways: list[Callable[..., Any]] = [np.mean, np.max] if pool in ("avgmax", "grid") else [np.mean]
    return np.asarray(np.concatenate([way(x, axis=axes) for way in ways], 1))


def run(model: ir.Model, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return measure.run(measure.session(proto.SerializeToString()), arrays)


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
@pytest.mark.parametrize("pool", POOLS)
def test_pooled_as_in_numpy(opset: int, pool: str) -> None:
    model, x = network(opset=opset), inputs(6)
    names = [f"turned_{kind}" for kind in SHAPES]
    places = [*(At((name,), (kind,)) for name, kind in zip(names, SHAPES, strict=True)), At((*names,), (*SHAPES,))]
    before = to_bytes(model, "net")
    pooled = pooled_graph(model, places, pool)
    assert to_bytes(model, "net") == before  # left as it is
    found = run(pooled, x)
    assert list(found) == ["y", *(module.feature_name(k) for k in range(len(SHAPES) + 1))]
    np.testing.assert_allclose(found["y"], run(model, x)["y"], atol=1e-5)
    parts = [in_numpy(np.cos(x[f"x_{kind}"]), kind, pool) for kind in SHAPES]
    for k, expected in enumerate([*parts, np.concatenate(parts, 1)]):
        assert found[module.feature_name(k)].dtype == np.float32
        assert expected.shape[1] == pooled_width(places[k], pool)
        np.testing.assert_allclose(found[module.feature_name(k)], expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE])
@pytest.mark.parametrize("opset", [13, 21])
def test_other_float_types_become_float32(dtype: int, opset: int) -> None:
    model, x = network(opset=opset, dtype=dtype), inputs(3, dtype=DTYPES[dtype])
    places = [At((f"turned_{kind}",), (kind,)) for kind in SHAPES]
    found = run(pooled_graph(model, places, "avgmax"), x)
    for k, kind in enumerate(SHAPES):
        assert found[module.feature_name(k)].dtype == np.float32
        np.testing.assert_allclose(found[module.feature_name(k)], in_numpy(-x[f"x_{kind}"], kind, "avgmax"), atol=1e-5)


def heads(width: int) -> tuple[LinearHead, MlpHead]:
    rng = np.random.default_rng(0)
    w1, b1, w2, b2, w, b = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((width, 8), (8,), (8, 3), (3,), (width, 3), (3,))
    )
    return LinearHead(w, b), MlpHead(w1, b1, w2, b2)


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
@pytest.mark.parametrize("kind", list(SHAPES))
def test_grafted_heads_as_in_numpy(kind: str, opset: int) -> None:
    model, x = network((kind,), opset), inputs(6, (kind,))
    place = At((f"turned_{kind}",), (kind,))
    add = Nodes(model.graph, PREFIX)
    feature = add_pooled(add, place, "avgmax")
    expected = in_numpy(np.cos(x[f"x_{kind}"]), kind, "avgmax")
    for head, name in zip(heads(pooled_width(place, "avgmax")), ("early", "later"), strict=True):
        value = add_head(add, feature, head, name)
        model.graph.outputs.append(value)
    found = run(model, x)
    for head, name in zip(heads(expected.shape[1]), ("early", "later"), strict=True):
        np.testing.assert_allclose(found[name], head.logits(expected), atol=1e-5)
    weights = {n for n in model.graph.initializers if n.startswith(("early", "later"))}
    assert weights == {
        "early.weight", "early.bias", "later.weight", "later.bias", "later.hidden.weight", "later.hidden.bias",
    }  # fmt: skip
    costs = measure.node_costs(model, {n: a[:1] for n, a in x.items()})
    produced = {n.outputs[0].name: n for n in model.graph}
    assert costs.macs["early"] == heads(expected.shape[1])[0].macs
    assert costs.total([n for n in produced.values() if n.op_type == "Gemm"]) == sum(
        h.macs for h in heads(expected.shape[1])
    )


def test_a_network_can_be_augmented_twice() -> None:
    model, x = network(("tokens",)), inputs(4, ("tokens",))
    for name in ("early", "later"):
        add = Nodes(model.graph, PREFIX)
        feature = add_pooled(add, At(("turned_tokens",), ("tokens",)), "avgmax")
        model.graph.outputs.append(add_head(add, feature, heads(10)[0], name))
    found = run(model, x)
    np.testing.assert_array_equal(found["early"], found["later"])
    with pytest.raises(ModelError, match="already has a tensor 'early'"):
        add_head(Nodes(model.graph, PREFIX), feature, heads(10)[0], "early")


@pytest.mark.parametrize("n", [1, 7, 8, 9])
@pytest.mark.parametrize("batch", ["batch", 1, 4])
def test_features_are_streamed_whatever_the_batch(n: int, batch: int | str, tmp_path: Path) -> None:
    kinds = ("picture", "tokens")
    model, x = network(kinds, batch=batch), inputs(n, kinds)
    places = [At(("turned_picture",), ("picture",)), At(("turned_picture", "turned_tokens"), kinds)]
    told: list[tuple[int, int]] = []
    found, outputs = features(
        model, places, x, tmp_path / "new", pool="avgmax", batch=4, progress=lambda a, b: told.append((a, b))
    )
    free = run(network(kinds), x)
    np.testing.assert_allclose(outputs, free["y"], atol=1e-5)
    picture, tokens = (in_numpy(np.cos(x[f"x_{kind}"]), kind, "avgmax") for kind in kinds)
    for a, expected in zip(found, (picture, np.concatenate([picture, tokens], 1)), strict=True):
        assert isinstance(a, np.memmap)
        np.testing.assert_allclose(a, expected, atol=1e-5)
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "features_1.npy"), found[1])
    assert told[-1] == (n, n) and len(told) == -(-n // (batch if isinstance(batch, int) else 4))


def test_the_answer_is_named_where_there_are_several(tmp_path: Path) -> None:
    model, x = network(("vector",)), inputs(3, ("vector",))
    model.graph.outputs.append(onnx_graph.values(model.graph)["turned_vector"])
    place = At(("turned_vector",), ("vector",))  # an output that is also a feature
    with pytest.raises(ModelError, match="2 outputs; name the one that answers: y, turned_vector"):
        features(model, [place], x, tmp_path)
    with pytest.raises(ModelError, match="no output 'z'"):
        features(model, [place], x, tmp_path, output="z")
    (found,), outputs = features(model, [place], x, tmp_path, output="turned_vector")
    np.testing.assert_array_equal(found, outputs)


def test_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = network(("picture", "vector")), inputs(3, ("picture", "vector"))
    place = At(("turned_vector",), ("vector",))
    for arrays, message in (
        ({"x_vector": x["x_vector"]}, "no array for the network's input 'x_picture'"),
        ({**x, "x_vector": x["x_vector"][:2]}, "of one length"),
        ({name: a[:0] for name, a in x.items()}, "at least 1"),
    ):
        with pytest.raises(DataError, match=message):
            features(model, [place], arrays, tmp_path)
    with pytest.raises(DataError, match="1 input or more"):
        features(model, [place], x, tmp_path, batch=0)
    with pytest.raises(ModelError, match="does not run"):
        features(model, [place], {**x, "x_vector": x["x_vector"][:, :2]}, tmp_path)
    with pytest.raises(ModelError, match="not a tensor of the graph"):
        features(model, [At(("turned",), ("vector",))], x, tmp_path)
    with pytest.raises(ModelError, match="unknown pool 'sum': choose one of average"):
        features(model, [place], x, tmp_path, pool="sum")
    with pytest.raises(ModelError, match="unknown kind of tensor 'map'"):
        features(model, [At(("turned_vector",), ("map",))], x, tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10})())
    with pytest.raises(DataError, match=r"the features take .* GB"):
        features(model, [place], x, tmp_path)


def test_a_tensor_without_a_batch_axis_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("ReduceMax", ["r"], ["y"], keepdims=0)]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
    )
    model = onnx_graph.prepare(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), "n")
    with pytest.raises(ModelError, match="axis 0 must count inputs"):
        features(model, [At(("r",), ("vector",))], {"x": np.ones((4, 5), np.float32)}, tmp_path)
