"""Stages found in torch.export's graph, rebuilt as modules, agree with the whole network."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
import tflite_nets as nets
import torch
from torch import nn

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.errors import ModelError
from edgeexit_exporters.source.inputs import make_inputs, make_spec, parse_input
from edgeexit_exporters.source.join import JoinedExit
from edgeexit_exporters.source.torch_source import own_inputs
from edgeexit_exporters.tflite.from_torch.stages import TorchStages, divide


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """To a millionth of the largest: convolutions round differently by memory layout."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * max(1.0, float(expected.abs().max())))


def chained(found: TorchStages, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """All stages one after the other; and every prefix must say the same."""
    start = {e.name: x.permute(0, 2, 3, 1) if e.nhwc else x for e, x in zip(found.inputs, inputs, strict=True)}
    known = dict(start)
    for piece in found.stages:
        given = piece.module(**{e.name: known[e.name] for e in piece.inputs})
        assert {e.name: e.shape for e in piece.outputs} == {n: tuple(t.shape) for n, t in given.items()}
        known.update(given)
    for piece in found.prefixes:
        for name, tensor in piece.module(**{e.name: start[e.name] for e in piece.inputs}).items():
            close(tensor, known[name])
    return known


@pytest.mark.parametrize("kind", [nets.TwoHeads, nets.Pools, nets.Plain, nets.Chunks, nets.InPlace, nets.Mask])
def test_the_chain_is_the_whole_network(kind: type[nn.Module]) -> None:
    net = nets.made(kind)
    found = divide(net)
    for seed in range(3):
        inputs = [torch.from_numpy(a) for a in make_inputs(own_inputs(net), 1, seed).values()]
        with torch.no_grad():
            known, whole = chained(found, *inputs), found.whole(*inputs)
        for name, tensor in zip([n for e in found.exits for n in e.outputs], whole, strict=True):
            close(known[name], tensor)


@pytest.mark.parametrize(("name", "exits"), [("resnet8_cifar10", 3), ("dscnn", 4)])
def test_our_networks(name: str, exits: int) -> None:
    import edgeexit_models

    torch.manual_seed(0)
    net = getattr(edgeexit_models, name)().train()
    found = divide(net)
    assert net.training, "the module's mode is put back"
    net.eval()
    x = torch.randn(1, *net.input_spec[found.inputs[0].name][1][1:])
    with torch.no_grad():
        known, whole = chained(found, x), net(x)
    assert len(found.stages) == exits
    for k, tensor in enumerate(whole):
        close(known[f"exit{k}"], tensor)
    assert all(e.nhwc for p in found.stages for e in p.inputs)
    assert not any(e.nhwc for p in found.stages for e in p.outputs if not e.name.startswith("cut_"))


def test_edges_names_and_what_heads_answer_together() -> None:
    net = nets.made(nets.TwoHeads)
    found = divide(net)
    assert [e.name for e in found.stages[0].outputs] == ["exit0", "exit0_uncertainty", "exit0_score", "cut_relu"]
    assert [(e.name, e.shape, e.nhwc) for e in found.stages[2].inputs] == [
        ("cut_relu", (1, 12, 10, 8), True),
        ("cut_tanh", (1, 12, 10, 8), True),
    ]
    x = torch.randn(1, 3, 12, 10)
    with torch.no_grad():
        heads = torch.stack([h.softmax(-1) for h in net(x)[1]["output"]])
        known = chained(found, x)
    mean = heads.mean(0)
    torch.testing.assert_close(known["exit1"], mean)
    torch.testing.assert_close(known["exit1_uncertainty"], ((heads - mean).abs().sum(-1) / 2).mean(0))
    names = [JoinedExit(n, n, 2, f"{n}_u", f"{n}_s") for n in ("early", "middle", "late")]
    assert [e.name for e in divide(net, exits=names).stages[1].outputs][:3] == ["middle", "middle_u", "middle_s"]
    with pytest.raises(ModelError, match="2 heads and a learned score named"):
        divide(nets.made(nets.Plain), exits=[*names[:1], JoinedExit("b", "b")])
    with pytest.raises(ModelError, match="1 exit names for Plain, a module with 2 exits"):
        divide(nets.made(nets.Plain), exits=names[:1])


def test_probabilities_are_not_softmaxed_again() -> None:
    class Probs(nets.Plain):
        def forward(self, x):  # type: ignore[no-untyped-def]
            y = self.body(x)
            return [(self.head(y).softmax(-1), self.head(-y).softmax(1)), (self.head(y.relu()).softmax(-1),) * 1]

    net = nets.made(Probs)
    x = torch.randn(1, 6)
    with torch.no_grad():
        torch.testing.assert_close(divide(net).whole(x)[0], sum(net(x)[0]) / 2)
        assert not torch.allclose(divide(net, kinds=("logits", "logits")).whole(x)[0], sum(net(x)[0]) / 2)


def test_four_axes_that_are_no_picture_stay() -> None:
    found = divide(nets.made(nets.Mask))
    assert [(e.name, e.shape, e.nhwc) for e in found.inputs] == [("x", (1, 4, 6), False), ("mask", (1, 1, 4, 4), False)]


def test_a_module_that_takes_channels_last_itself() -> None:
    class Last(nets.Pools):
        def forward(self, image):  # type: ignore[no-untyped-def]
            return super().forward(image.permute(0, 3, 1, 2))

    found = divide(nets.made(Last), [parse_input("image:float32[batch,8,8,3]")])
    assert [(e.shape, e.nhwc) for e in found.inputs] == [((1, 8, 8, 3), False)]


@pytest.mark.parametrize(
    ("kind", "spec", "words"),
    [
        (nets.Plain, "x:float32[batch,time=6]", r"axis 'time' of input 'x' is free: fix it, .*x:float32\[batch,6\]"),
        (nets.Plain, "x:float32[3,6]", "a first axis of 3"),
        (nets.Plain, "x.y:float32[batch,6]", "letters, digits and _"),
        (nets.Plain, "class:float32[batch,6]", "no word of Python's"),
        (nets.Plain, "exit1:float32[batch,6]", "two tensors would be called 'exit1'"),
        (nets.Plain, "x:float32[batch,7]", "does not run on inputs of"),
        (nets.Decides, None, r"'cond' \(tflite_nets.py:\d+\): control flow"),
        (nets.Remembers, None, "forward changes 'seen'"),
    ],
)
def test_refused_in_words(kind: type[nn.Module], spec: str | None, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        divide(nets.made(kind), [] if spec is None else [parse_input(spec)])


def test_half_precision_is_refused() -> None:
    with pytest.raises(ModelError, match=r"float16, and TFLite files are made of float32"):
        divide(nets.made(nets.Plain).half(), [make_spec(TensorSpec("x", "float16", ("batch", 6)))])


def test_an_exit_that_a_later_stage_reads() -> None:
    class Reads(nets.Plain):
        def forward(self, x):  # type: ignore[no-untyped-def]
            first = self.head(self.body(x))
            return first, first.sigmoid()

    found = divide(nets.made(Reads))
    assert [e.name for e in found.stages[0].outputs] == [e.name for e in found.stages[1].inputs] == ["exit0"]
    with pytest.raises(ModelError, match=r"'head\.0' is read by a stage"):
        divide(nets.made(Reads), exits=[JoinedExit("head.0", "head.0"), JoinedExit("head.1", "head.1")])


def test_wrong_order_of_exits() -> None:
    class Turned(nets.Plain):
        def forward(self, x):  # type: ignore[no-untyped-def]
            first, second = super().forward(x)
            return first + second, second

    with pytest.raises(ModelError, match="from shallow to deep"):
        divide(nets.made(Turned))


def test_the_examples_are_zeros_of_the_files_sizes() -> None:
    (first, _) = divide(nets.made(nets.Pools)).stages
    assert {n: tuple(t.shape) for n, t in first.example.items()} == {"image": (1, 8, 8, 3)}
    assert not np.any(first.example["image"].numpy())


def test_recurrent_layers_over_steps_are_named() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.a, self.b = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 3), nn.Linear(6, 3)
            self.deep = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            y = self.rnn(x)[0][:, -1]
            return [self.a(y), self.b(torch.relu(self.deep(y)))]

    several = divide(Recurrent(), [parse_input("x:float32[batch,5,4]", "x")])
    assert several.unrolled == ("rnn (GRU) over 5 steps",)
    assert divide(Recurrent(), [parse_input("x:float32[batch,1,4]", "x")]).unrolled == ()
