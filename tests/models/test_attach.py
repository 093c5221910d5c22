"""attach: any backbone becomes multi-exit, answers as before, exports, and bad requests are named."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeexit.errors import ModelError
from edgeexit_models import MeanTokenLinear, MultiExit, PoolLinear, attach, exits, make_head

IMAGE = torch.randn(2, 3, 16, 16)
TOKENS = torch.randint(0, 50, (2, 9))


class Block(nn.Module):
    """A residual block with in-place activations, as torchvision's."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)
        self.down = nn.Conv2d(channels_in, channels_out, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        y += self.down(x)
        return y.relu_()


class Cnn(nn.Module):
    """Three residual blocks, one layer that never runs and one that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3 = Block(3, 8, 1), Block(8, 12, 2), Block(12, 16, 2)
        self.relu = nn.ReLU()
        self.unused = nn.Linear(2, 2)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.layer2(self.relu(self.layer1(x))))
        logits: Tensor = self.fc(self.layer3(x).mean((2, 3)))
        return logits


class Transformer(nn.Module):
    """torch's own encoder layers behind an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.classify = nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.encoder(self.embedding(tokens)).mean(1))
        return logits


class TupleBlock(nn.Module):
    """Returns (hidden, weights), as transformers' blocks do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return torch.relu(self.linear(x)), None


class DictModel(nn.Module):
    """Answers with a dict that has more than the logits in it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.blocks = nn.ModuleList([TupleBlock(), TupleBlock()])
        self.classify = nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        x = self.embedding(tokens)
        for block in self.blocks:
            x, _ = block(x)
        return {"hidden": x, "logits": self.classify(x.mean(1))}


CASES = [
    (Cnn, IMAGE, ["layer1", "layer2"]),
    (Transformer, TOKENS, ["encoder.layers.0", "encoder.layers.1"]),
    (DictModel, TOKENS, ["blocks.0", "blocks.1"]),
]


@pytest.mark.parametrize(("kind", "example", "after"), CASES)
def test_the_last_exit_is_the_backbone_and_the_backbone_is_left_alone(
    kind: type[nn.Module], example: Tensor, after: list[str]
) -> None:
    torch.manual_seed(0)
    backbone = kind().eval()
    with torch.no_grad():
        alone = backbone(example)
        multi = attach(backbone, after, example=example).eval()
        outputs = exits(multi, example)
        again = backbone(example)
    logits = alone["logits"] if isinstance(alone, dict) else alone
    assert len(outputs) == 3
    torch.testing.assert_close(outputs[-1], logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again, alone)
    assert not any(module._forward_hooks for module in backbone.modules())
    assert {key.split(".")[0] for key in multi.state_dict()} == {"backbone", "heads"}


@pytest.mark.parametrize(("kind", "example", "after"), CASES)
@pytest.mark.filterwarnings("ignore")  # the converter's own deprecations
def test_exports_with_a_free_batch_axis(
    tmp_path: Path, kind: type[nn.Module], example: Tensor, after: list[str]
) -> None:
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    multi = attach(kind(), after, example=example).eval()
    dynamic = (({0: torch.export.Dim("batch")},),)  # forward takes *inputs: one level more
    program = torch.export.export(multi, (example,), dynamic_shapes=dynamic)
    more = torch.cat([example, example[:1]])
    with torch.no_grad():
        wanted = multi(more)
    for a, b in zip(program.module()(more), wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    file = tmp_path / "m.onnx"
    torch.onnx.export(multi, (example,), str(file), dynamo=True, dynamic_shapes=dynamic, verbose=False)
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    got = session.run(None, {session.get_inputs()[0].name: more.numpy()})
    for c, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(c, b.numpy(), atol=1e-4)


def test_auto_chooses_by_shape() -> None:
    assert all(isinstance(head, PoolLinear) for head in attach(Cnn(), ["layer1"], example=IMAGE).heads)
    assert isinstance(attach(Transformer(), ["encoder.layers.0"], example=TOKENS).heads[0], MeanTokenLinear)


def test_heads_by_name_by_module_and_by_function() -> None:
    own = PoolLinear(8, 5)
    assert attach(Cnn(), ["layer1"], example=IMAGE, heads=[own]).heads[0] is own
    named = attach(Cnn(), ["layer1"], example=IMAGE, heads="avgmax")
    made = attach(Cnn(), ["layer1"], example=IMAGE, heads=lambda shape, n: make_head("avgmax", shape, n))
    assert type(named.heads[0]) is type(made.heads[0])
    assert named(IMAGE)[0].shape == (2, 5)


def test_an_exit_sees_what_the_submodule_returned() -> None:
    """Even if the backbone changes that tensor in place afterwards."""

    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.fc = nn.Linear(3, 5)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.fc(self.norm(x).mul_(0.0).mean((2, 3)))
            return y

    multi = attach(InPlace(), ["norm"], example=IMAGE).eval()
    torch.testing.assert_close(multi(IMAGE)[0], multi.heads[0](multi.backbone.norm(IMAGE)))


def test_without_the_final_exit_classes_are_needed() -> None:
    multi = attach(Cnn(), ["layer1", "layer3"], example=IMAGE, include_final=False, classes=7)
    assert [tuple(y.shape) for y in exits(multi, IMAGE)] == [(2, 7), (2, 7)]
    with pytest.raises(ModelError, match="classes is needed"):
        attach(Cnn(), ["layer1", "layer3"], example=IMAGE, include_final=False)


def test_freezing_trains_heads_only() -> None:
    multi = attach(Cnn(), ["layer1"], example=IMAGE, freeze=True).train()
    before = multi.backbone.layer1.norm.running_mean.clone()
    sum(y.sum() for y in multi(IMAGE)).backward()
    assert all(p.grad is None for p in multi.backbone.parameters())
    assert all(p.grad is not None for p in multi.heads.parameters())
    torch.testing.assert_close(multi.backbone.layer1.norm.running_mean, before)
    assert multi.heads[0].training


def test_all_exits_train_the_backbone_without_freezing() -> None:
    multi = attach(Cnn(), ["layer1", "layer2"], example=IMAGE).train()
    multi(IMAGE)[0].sum().backward()
    assert multi.backbone.layer1.conv.weight.grad is not None
    assert multi.backbone.layer2.conv.weight.grad is None


def test_modes_and_input_spec_after_attaching() -> None:
    backbone = Cnn().train()
    multi = attach(backbone, ["layer1"], example=IMAGE)
    assert backbone.training
    assert multi.input_spec == {"x": ("float32", ("batch", 3, 16, 16))}
    assert attach(Transformer(), ["encoder.layers.0"], example=TOKENS).input_spec == {"tokens": ("int64", ("batch", 9))}
    assert attach(multi, ["backbone.layer2"], example=IMAGE, classes=5, heads="pool").input_spec == multi.input_spec


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (["layre1"], r"Cnn has no submodule 'layre1': near names are .*layer1"),
        (["unused"], "'unused' was not run"),
        (["relu"], r"'relu' ran 2 times.*nn\.Identity"),
        (["layer2", "layer1"], r"run in the order \['layer1', 'layer2'\]"),
        (["layer1", "layer1"], "lists 'layer1' twice"),
        ([], "`after` is empty"),
    ],
)
def test_impossible_places_are_refused(after: list[str], message: str) -> None:
    backbone = Cnn()
    with pytest.raises(ModelError, match=message):
        attach(backbone, after, example=IMAGE)
    assert not any(module._forward_hooks for module in backbone.modules())


def test_heads_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match="does not fit its features"):
        attach(Cnn(), ["layer1"], example=IMAGE, heads=[PoolLinear(9, 5)])
    with pytest.raises(ModelError, match=r"exit 1 has shape \(2, 5\), exit 0 has \(2, 6\)"):
        attach(Cnn(), ["layer1"], example=IMAGE, heads=[PoolLinear(8, 6)])
    with pytest.raises(ModelError, match="must be 2 modules, one per name in `after`, got 1"):
        attach(Cnn(), ["layer1", "layer2"], example=IMAGE, heads=[PoolLinear(8, 5)])
    with pytest.raises(ModelError, match="needs features with 2 axes"):
        attach(Cnn(), ["layer1"], example=IMAGE, heads="token")
    with pytest.raises(ModelError, match="one module per place"):
        attach(Cnn(), ["layer1"], example=IMAGE, heads=PoolLinear(8, 5))


def test_a_submodule_without_tensors_is_refused() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> str:
            return "no tensor"

    class Uses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.odd, self.fc = Odd(), nn.Linear(3, 5)

        def forward(self, x: Tensor) -> Tensor:
            self.odd(x)
            y: Tensor = self.fc(x.mean((2, 3)))
            return y

    with pytest.raises(ModelError, match="'odd' returned a str without a tensor"):
        attach(Uses(), ["odd"], example=IMAGE)


def test_weights_survive_saving_and_loading() -> None:
    torch.manual_seed(0)
    first = attach(Cnn(), ["layer1"], example=IMAGE).eval()
    second: MultiExit = attach(Cnn(), ["layer1"], example=IMAGE).eval()
    second.load_state_dict(first.state_dict())
    for a, b in zip(first(IMAGE), second(IMAGE), strict=True):
        torch.testing.assert_close(a, b)


def test_a_failing_forward_leaves_no_hooks() -> None:
    multi = attach(Cnn(), ["layer1"], example=IMAGE)
    with warnings.catch_warnings(), pytest.raises(RuntimeError):
        multi(torch.zeros(2, 4, 16, 16))
    assert not any(module._forward_hooks for module in multi.modules())
