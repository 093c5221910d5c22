"""Places for exits: on every path, fed by something counted, with channels on a known axis."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx_models import Net, random_dag
from torch import nn

from edgeexit.errors import ModelError
from edgeexit_exporters.augment.places import Place, find_places
from edgeexit_exporters.augment.separators import Paths
from edgeexit_exporters.onnx import graph as onnx_graph
from edgeexit_exporters.onnx.measure import NodeCost, node_costs
from edgeexit_exporters.source.inputs import make_inputs, parse_input
from edgeexit_exporters.source.source import Source
from edgeexit_exporters.source.torch_source import from_torch
from edgeexit_exporters.stages import GraphView, ViewNode
from edgeexit_models import resnet8


def places_of(model: ir.Model, output: str, inputs: dict[str, np.ndarray], **options: object) -> tuple[Place, ...]:
    return find_places(model, output, inputs, node_costs(model, inputs), **options)  # type: ignore[arg-type]


def places(net: Net, inputs: dict[str, Sequence[int | str]], output: str, **options: object) -> tuple[Place, ...]:
    """The places of a net whose output has two axes, on inputs whose free axes are 1 (batch) and 6."""
    model = onnx_graph.prepare(net.model(inputs, {output: ["batch", "classes"]}), "net")
    rng = np.random.default_rng(0)
    sizes = {n: [1 if k == 0 else 6 if isinstance(a, str) else a for k, a in enumerate(s)] for n, s in inputs.items()}
    return places_of(model, output, {n: rng.standard_normal(s).astype(np.float32) for n, s in sizes.items()}, **options)


def torch_places(net: nn.Module, *specs: str, **options: object) -> tuple[Source, tuple[Place, ...]]:
    inputs = [parse_input(s) for s in specs]
    source = from_torch(net, inputs, exits=["y"])
    return source, places_of(source.model, "y", make_inputs(inputs, 1, seed=0), **options)


def names(found: Sequence[Place]) -> list[str]:
    return [p.name for p in found]


def conv(net: Net, source: str, output: str, wide: int, out: int, stride: int = 1, axes: int = 2) -> str:
    """Convolution of 3, batch normalisation and ReLU; the last has the name."""
    weight = net.weight(f"w_{output}", out, wide, *[3] * axes)
    net.op("Conv", [source, weight], f"{output}_conv", strides=[stride] * axes, pads=[1] * 2 * axes)
    norm = [net.weight(f"{p}_{output}", out) for p in ("scale", "shift", "mean")]
    one = net.op("Abs", [net.weight(f"var_{output}", out)], f"{output}_var")
    net.op("BatchNormalization", [f"{output}_conv", *norm, one], f"{output}_norm")
    return net.op("Relu", [f"{output}_norm"], output)


def head(net: Net, source: str, wide: int, output: str = "y") -> None:
    net.op("GlobalAveragePool", [source], "pooled")
    net.op("Flatten", ["pooled"], "flat")
    net.head("flat", wide, "logits")
    net.op("Softmax", ["logits"], output)


def test_chain_of_pictures() -> None:
    net = Net()
    conv(net, "x", "a", 3, 4)
    net.op("MaxPool", ["a"], "half", kernel_shape=[2, 2], strides=[2, 2])
    conv(net, "half", "b", 4, 8)
    head(net, "b", 8)
    found = places(net, {"x": ["batch", 3, 8, 8]}, "y")
    # After activation and pooling, before the pooling to 1x1; not the logits nor their softmax.
    assert found == (
        Place(("half",), ("picture",), (4,), 8 * 8 * 4 * 27, 4 * 16 * 4, ((4, 4),)),
        Place(("b",), ("picture",), (8,), 8 * 8 * 4 * 27 + 4 * 4 * 8 * 36, 8 * 16 * 4, ((4, 4),)),
    )


def test_vectors_and_what_comes_before_counted_work() -> None:
    net = Net()
    net.op("Sigmoid", ["x"], "squashed")
    for name, source in (("a", "squashed"), ("b", "a_relu"), ("y", "b_relu")):
        net.op("Gemm", [source, net.weight(f"w_{name}", 4, 4), net.weight(f"bias_{name}", 4)], name)
        net.op("Relu", [name], f"{name}_relu")
    found = places(net, {"x": ["batch", 4]}, "y_relu")
    assert names(found) == ["a_relu", "b_relu"]
    assert [(p.kinds, p.channels, p.macs, p.bytes) for p in found] == [
        (("vector",), (4,), 16, 16),
        (("vector",), (4,), 32, 16),
    ]


def residual(net: Net) -> str:
    """Two blocks, the second with a convolution on its skip; returns the last tensor (8 channels)."""
    conv(net, "x", "stem", 3, 4)
    conv(net, "stem", "a1", 4, 4)
    conv(net, "a1", "a2", 4, 4)
    net.op("Add", ["stem", "a2"], "a_sum")
    net.op("Relu", ["a_sum"], "a")
    conv(net, "a", "b1", 4, 8, 2)
    conv(net, "b1", "b2", 8, 8)
    net.op("Conv", ["a", net.weight("skip", 8, 4, 1, 1)], "b_skip", strides=[2, 2])
    net.op("Add", ["b2", "b_skip"], "b_sum")
    return net.op("Relu", ["b_sum"], "b")


def test_residual_blocks_end_in_places() -> None:
    net = Net()
    head(net, residual(net), 8)
    assert names(places(net, {"x": ["batch", 3, 8, 8]}, "y", widest=1)) == ["stem", "a", "b"]
    wide = places(net, {"x": ["batch", 3, 8, 8]}, "y")
    assert [p for p in wide if len(p.tensors) == 1] == list(places(net, {"x": ["batch", 3, 8, 8]}, "y", widest=1))
    assert {frozenset(p.tensors) for p in wide if len(p.tensors) > 1} == {
        frozenset({"b1", "b_skip"})  # a skip without work of its own is no part of a cut: `a` alone separates
    }
    assert [p.macs for p in wide] == sorted(p.macs or 0 for p in wide)


def branches(net: Net, count: int, length: int, late: bool = False) -> str:
    """Parallel branches written one after the other; with `late`, the first is twice as long."""
    ends = []
    for k in range(count):
        last, wide = "x", 3
        for i in range(length * (2 if late and k == 0 else 1)):
            last, wide = conv(net, last, f"p{k}_{i}", wide, 4), 4
        ends.append(last)
    return net.op("Concat", ends, "joined", axis=1)


def test_parallel_branches_are_cut_side_by_side() -> None:
    net = Net()
    head(net, branches(net, 2, 3), 8)
    found = places(net, {"x": ["batch", 3, 8, 8]}, "y")
    # The end of both branches is no place: `joined` holds the same.
    assert {"p0_0+p1_0", "p0_1+p1_1", "joined"} < set(names(found)) and "p0_2+p1_2" not in names(found)
    pair = next(p for p in found if p.name == "p0_1+p1_1")
    first, second = 64 * 4 * 27, 64 * 4 * 36
    macs, size = 2 * (first + second), ((8, 8),) * 2
    assert pair == Place(("p0_1", "p1_1"), ("picture",) * 2, (4, 4), macs, 2 * 4 * 64 * 4, size)


def test_branches_of_unequal_length_advance_together() -> None:
    net = Net()
    head(net, branches(net, 2, 2, late=True), 8)
    assert "p0_1+p1_0" in names(places(net, {"x": ["batch", 3, 8, 8]}, "y"))


def test_too_many_branches_are_named() -> None:
    net = Net()
    joined = branches(net, 5, 2)
    for k in range(3):  # pooled and summed, so that nothing with weights follows where they meet
        net.op("GlobalAveragePool", [joined if k == 0 else f"g{k - 1}"], f"g{k}")
    net.op("Flatten", ["g2"], "y")
    with pytest.raises(
        ModelError, match=r"tensor 'p\d_\w+' and tensor 'p\d_\w+' \(and 3 more\) run side by side.*5 tensors"
    ):
        places(net, {"x": ["batch", 3, 8, 8]}, "y")
    assert len(places(net, {"x": ["batch", 3, 8, 8]}, "y", widest=5)[-1].tensors) == 5


def test_unet_is_separated_before_its_skips_only() -> None:
    net = Net()
    conv(net, "x", "e1", 3, 4)
    conv(net, "e1", "e2", 4, 4, 2)
    conv(net, "e2", "e3", 4, 4, 2)
    net.op("Resize", ["e3", "", net.weight("scales", 4)], "u2")
    net.weights["scales"] = onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    net.op("Concat", ["u2", "e2"], "c2", axis=1)
    conv(net, "c2", "d2", 8, 4)
    net.op("Resize", ["d2", "", "scales"], "u1")
    net.op("Concat", ["u1", "e1"], "c1", axis=1)
    conv(net, "c1", "d1", 8, 4)
    head(net, "d1", 4)
    # A cut through the skips would hold e1, which separates alone.
    assert names(places(net, {"x": ["batch", 3, 8, 8]}, "y")) == ["e1", "c1", "d1"]


def test_dense_blocks_end_in_places() -> None:
    net = Net()
    last, wide = conv(net, "x", "stem", 3, 4), 4
    for block in ("a", "b"):
        made = [last]
        for i in range(3):  # every layer reads all before it, joined anew as torch's DenseNet does
            both = made[0] if i == 0 else net.op("Concat", made, f"{block}{i}_in", axis=1)
            made.append(conv(net, both, f"{block}{i}", wide + 4 * i, 4))
        joined = net.op("Concat", made, f"{block}_all", axis=1)
        last = conv(net, joined, f"{block}_out", wide + 12, 4)
    head(net, last, 4)
    assert names(places(net, {"x": ["batch", 3, 4, 4]}, "y")) == ["stem", "a_all", "a_out", "b_all", "b_out"]


def test_signals_in_either_layout() -> None:
    net = Net()
    net.op("Transpose", ["x"], "turned", perm=[0, 2, 1])  # (b, t, 3) -> (b, 3, t)
    conv(net, "turned", "a", 3, 4, axes=1)
    conv(net, "a", "b", 4, 4, axes=1)
    net.op("Transpose", ["b"], "last", perm=[0, 2, 1])
    net.op("MatMul", ["last", net.weight("mix", 4, 5)], "c")
    net.op("ReduceMean", ["c", net.ints("axis", 1)], "mean", keepdims=0)
    net.head("mean", 5, "y")
    for time in ("time", 6):  # a free axis is a length; a fixed one takes the operations' word
        found = places(net, {"x": ["batch", time, 3]}, "y")
        assert [(p.name, *p.kinds, *p.channels) for p in found] == [
            ("a", "signal", 4),
            ("last", "tokens", 4),
            ("c", "tokens", 5),
        ]


class ConvNet1d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(3, 8, 5, padding=2), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 6, 3), nn.GELU()
        )
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.head(self.body(x).mean(2)),)


def test_torch_convolutions_over_time() -> None:
    _, found = torch_places(ConvNet1d(), "x:float32[batch,3,40]")
    assert [(p.kinds, p.channels, p.bytes) for p in found] == [
        (("signal",), (8,), 8 * 20 * 4),
        (("signal",), (6,), 6 * 18 * 4),
    ]


class Encoder(nn.Module):
    """Two blocks of a transformer over pieces of a picture, or of a text."""

    def __init__(self, norm_first: bool, text: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 8) if text else nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first) for _ in range(2)
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        h = self.embed(x)
        h = h.flatten(2).transpose(1, 2) if h.ndim == 4 else h
        for block in self.blocks:
            h = block(h, src_key_padding_mask=mask)
        return (self.head(h.mean(1)),)


@pytest.mark.parametrize("norm_first", [False, True])
def test_torch_transformer_blocks_end_in_places(norm_first: bool) -> None:
    source, found = torch_places(Encoder(norm_first), "x:float32[batch,3,16,16]", widest=1)
    assert [(p.kinds, p.channels, p.bytes) for p in found[:1] + found[-2:]] == [(("tokens",), (8,), 16 * 8 * 4)] * 3
    ends = [onnx_graph.values(source.model.graph)[p.name].producer() for p in found]
    assert all(n is not None for n in ends)
    kinds = [n.op_type for n in ends if n is not None]
    # Embedding, then per block what its attention and its two layers add to.
    assert len(found) == 5 and kinds[1:] == (["Add"] if norm_first else ["LayerNormalization"]) * 4


@pytest.mark.slow
def test_a_mask_bypasses_all_blocks_unless_it_is_set_aside() -> None:
    specs = ("x:int64[batch,time=7]", "mask:float32[batch,time=7]")
    _, late = torch_places(Encoder(False, text=True), *specs, widest=1)
    _, found = torch_places(Encoder(False, text=True), *specs, widest=1, aside=["mask"])
    assert [(p.kinds, p.channels) for p in found] == [(("tokens",), (8,))] * 4
    assert late == found[2:]  # the last block's two


def test_one_input_per_call() -> None:
    net = Net()
    net.op("MatMul", ["x", net.weight("w", 4, 4)], "a")
    net.op("Reshape", ["a", net.ints("shape", 1, 12, 2)], "b")  # a batch would not fit in
    net.op("MatMul", ["b", net.weight("v", 2, 5)], "c")
    net.op("ReduceMean", ["c", net.ints("axis", 1)], "y", keepdims=0)
    for batch in (1, "batch"):  # stated, or found out
        found = places(net, {"x": [batch, 6, 4]}, "y")
        assert [(p.name, p.kinds, p.channels) for p in found] == [("b", ("tokens",), (2,))]


def test_torch_resnet() -> None:
    source = from_torch(resnet8(), [parse_input("image:float32[batch,3,32,32]")])
    found = places_of(source.model, source.tensors[-1], make_inputs(source.inputs, 1, seed=0), widest=1)
    assert [(*p.kinds, *p.channels, p.bytes // 4 // p.channels[0]) for p in found] == [
        ("picture", 16, 32 * 32),
        ("picture", 16, 32 * 32),
        ("picture", 32, 16 * 16),
        ("picture", 64, 8 * 8),
    ]
    total = node_costs(source.model, make_inputs(source.inputs, 1, seed=0)).total(source.model.graph)
    assert total is not None and all(p.macs is not None and 0 < p.macs < total for p in found)


def test_two_inputs_separate_where_they_have_met() -> None:
    net = Net()
    net.op("MatMul", ["x", net.weight("wx", 4, 4)], "a")
    net.op("MatMul", ["z", net.weight("wz", 4, 4)], "b")
    net.op("Add", ["a", "b"], "sum")
    net.op("Tanh", ["sum"], "met")
    net.head("met", 4, "y")
    assert names(places(net, {"x": ["batch", 4], "z": ["batch", 4]}, "y")) == ["met"]
    assert names(places(net, {"x": ["batch", 4], "z": ["batch", 4]}, "y", aside=["z"])) == ["a", "met"]


def test_control_flow_is_one_opaque_step_of_unknown_cost() -> None:
    net = Net()
    net.op("MatMul", ["x", net.weight("w", 4, 4)], "a")
    net.op("ReduceSum", ["a"], "total", keepdims=0)
    net.op("Greater", ["total", net.weight("zero")], "large")
    arms = [
        helper.make_graph(
            [helper.make_node("MatMul", ["a", "w"], [f"{arm}_out"])],
            arm,
            [],
            [helper.make_tensor_value_info(f"{arm}_out", TensorProto.FLOAT, None)],
        )
        for arm in ("yes", "no")
    ]
    net.op("If", ["large"], "b", then_branch=arms[0], else_branch=arms[1])
    net.op("Tanh", ["b"], "c")
    net.head("c", 4, "y")
    found = places(net, {"x": [1, 4]}, "y")
    assert [(p.name, p.macs) for p in found] == [("a", 16), ("c", None)]


def test_what_separates_but_carries_no_exit_is_explained() -> None:
    net = Net()
    net.op("Reshape", ["x", net.ints("merged", -1, 4)], "rows")  # positions of all inputs, one below the other
    net.op("MatMul", ["rows", net.weight("w", 4, 4)], "a")
    net.op("Cast", ["a"], "b", to=TensorProto.INT64)
    net.op("Cast", ["b"], "c", to=TensorProto.FLOAT)
    net.op("MatMul", ["c", net.weight("w2", 4, 4)], "d")
    net.op("Reshape", ["d", net.ints("split", -1, 6, 4)], "e")
    net.op("ReduceMean", ["e", net.ints("axis", 1)], "y", keepdims=0)
    with pytest.raises(ModelError, match=r"'a' .* does not count inputs on axis 0, .*'b' holds int64"):
        places(net, {"x": ["batch", 6, 4]}, "y")


def test_an_input_that_is_read_to_the_end_blocks() -> None:
    def joined_with(late: str, steps: int) -> Net:
        net = Net()
        net.op("MatMul", ["x", net.weight("w", 4, 4)], "a")
        last = net.op("Tanh", ["a"], "b")
        if steps > 1:
            last = net.op("MatMul", ["b", net.weight("v", 4, 4)], "c")
        net.op("Concat", [last, late], "y", axis=1)
        return net

    one, two = {"x": ["batch", 4]}, {"x": ["batch", 4], "z": ["batch", 4]}
    with pytest.raises(ModelError, match="fewer than two counted operations"):
        places(joined_with("x", 1), one, "y")
    with pytest.raises(ModelError, match=r"input 'x' and tensor 'b' run side by side.*among them input 'x'") as e:
        places(joined_with("x", 2), one, "y")
    assert "set aside" not in str(e.value)
    with pytest.raises(ModelError, match="what an exit need not see, such as a mask, can be set aside"):
        places(joined_with("z", 2), two, "y")
    assert names(places(joined_with("z", 2), two, "y", aside=["z"])) == ["b"]


def test_names_that_are_not_there() -> None:
    net = Net()
    net.head("x", 4, "logits")
    for options, message in (
        ({"output": "logit"}, "output 'logit' is not a tensor of the graph; did you mean one of: logits"),
        ({"output": "x"}, "output 'x' is a model input"),
        ({"output": "logits", "aside": ["mask"]}, "'mask' cannot be set aside: it is neither"),
        ({"output": "logits", "aside": ["logits"]}, "it is the output itself"),
        ({"output": "logits", "aside": ["x"]}, "does not depend on any model input"),
    ):
        model = onnx_graph.prepare(net.model({"x": ["batch", 4]}, {"logits": ["batch", 3]}), "net")
        with pytest.raises(ModelError, match=message):
            find_places(model, inputs={"x": np.ones((1, 4), np.float32)}, costs=NodeCost({}), **options)  # type: ignore[arg-type]


def separates(graph: GraphView, output: str, cut: Sequence[str]) -> bool:
    """By definition: without the cut, nothing leads from the inputs to the output."""
    reached = set(graph.inputs) - set(cut)
    for node in graph.nodes:
        if not node.free and reached.intersection(node.inputs):
            reached.update(n for n in node.outputs if n not in cut)
    return output not in reached


def check_against_definition(graph: GraphView, output: str, paths: Paths) -> None:
    made = [*graph.inputs, *(n for node in graph.nodes for n in node.outputs)]
    assert set(paths.single()) == {n for n in made if n != output and separates(graph, output, [n])}
    for cut in paths.live():
        assert separates(graph, output, cut)
    for cut in paths.cuts(3):
        assert 2 <= len(cut) <= 3 and separates(graph, output, cut)
        assert not any(separates(graph, output, part) for k in range(len(cut)) for part in combinations(cut, k))


@st.composite
def graphs(draw: st.DrawFn) -> GraphView:
    known = ["x", "z"]
    nodes = []
    for i in range(draw(st.integers(1, 16))):
        near = known[-draw(st.integers(2, 6)) :]
        inputs = draw(st.lists(st.sampled_from(near), min_size=1, max_size=3, unique=True))
        outputs = tuple(f"t{i}_{j}" for j in range(draw(st.integers(1, 2))))
        nodes.append(ViewNode(tuple(inputs), outputs, free=draw(st.integers(0, 7)) == 0))
        known += outputs
    return GraphView(("x", "z"), tuple(nodes))


@settings(max_examples=400, deadline=None)
@given(graphs(), st.sets(st.integers(0, 15)))
def test_paths_agree_with_the_definition(graph: GraphView, counted: set[int]) -> None:
    output = graph.nodes[-1].outputs[0]
    counted = {i for i in counted if i < len(graph.nodes)}
    if separates(graph, output, []):  # no path at all
        with pytest.raises(ModelError, match="does not depend on any model input"):
            Paths(graph, output, counted)
    else:
        check_against_definition(graph, output, Paths(graph, output, counted))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_places_of_random_networks(data: st.DataObject) -> None:
    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    model = onnx_graph.prepare(random_dag(draw, length=draw(2, 12), exits=1, seed=draw(0, 99)), "net")
    view, inputs = onnx_graph.view(model.graph), {"x": np.random.default_rng(0).standard_normal((1, 4), np.float32)}
    counted = [i for i, n in enumerate(model.graph) if n.op_type == "MatMul"]
    paths = Paths(view, "y0", counted)
    check_against_definition(view, "y0", paths)
    try:
        found = places_of(model, "y0", inputs)
    except ModelError as e:
        found = ()
        assert "side by side" in str(e) or "fewer than two" in str(e)
    for place in found:
        assert separates(view, "y0", place.tensors)
        assert set(place.kinds) == {"vector"} and place.macs
    # One place for everything that costs the same.
    masks = [paths.counted_above(p.tensors) for p in found]
    assert len(set(masks)) == len(masks)
    assert {paths.counted_above([n]) for n in paths.single()} - {0} - {sum(1 << i for i in counted)} <= set(masks)
