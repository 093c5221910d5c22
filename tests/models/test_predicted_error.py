"""Networks with error heads: logits, gradients, export, and what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeexit.errors import ModelError
from edgeexit_models import (
    PredictedError,
    attach,
    digits,
    exits,
    learned_scores,
    predict,
)
from edgeexit_models.wrappers.predicted_error import logit_features, pooled

PICTURES = torch.rand(4, 1, 8, 8) * 16
HEADS = ("heads.0", "heads.1", "heads.2")


@pytest.mark.parametrize("at", [None, HEADS])
@pytest.mark.parametrize("training", [False, True])
def test_logits_are_the_networks_own_and_no_gradient_reaches_it_from_scores(
    at: tuple[str, ...] | None, training: bool
) -> None:
    torch.manual_seed(0)
    network = digits().train(training)
    module = PredictedError(network, example=PICTURES, at=at)
    assert network.training == training
    assert module.input_spec == network.input_spec
    answers = module(PICTURES)
    for answer, wanted in zip(answers, network(PICTURES), strict=True):
        assert torch.equal(answer["output"], wanted)
        assert answer["score"].shape == (4,) and bool(((answer["score"] >= 0) & (answer["score"] <= 1)).all())
    torch.stack([answer["score"] for answer in answers]).sum().backward()
    assert all(p.grad is None for p in network.parameters())
    assert all(p.grad is not None for p in module.heads.parameters())
    answers[2]["output"].sum().backward()
    assert network.heads[2].linear.weight.grad is not None
    assert not any(part._forward_pre_hooks for part in module.modules())


@pytest.mark.parametrize("at", [None, HEADS])
def test_an_untrained_head_says_maxprob(at: tuple[str, ...] | None) -> None:
    torch.manual_seed(0)
    module = PredictedError(digits(), example=PICTURES, at=at)
    wanted = predict(module.network, PICTURES).softmax(2).amax(2)
    torch.testing.assert_close(learned_scores(module, PICTURES), wanted)


def test_what_heads_read_is_finite_and_the_same_for_every_class() -> None:
    z = torch.tensor([[2.0, 1.0, -1.0, 0.5], [float("-inf"), 1000.0, -1000.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    found = logit_features(z)
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found, logit_features(z[:, [3, 1, 0, 2]]))
    p = z[0].softmax(0)
    entropy = -(p * p.log()).sum()
    wanted = torch.stack([p[0].logit(), torch.tensor(1.0), entropy, p[0], p[1]])
    torch.testing.assert_close(found[0], wanted)


class Flat(nn.Module):
    """What an exporter makes of the mappings: all logits, then all scores."""

    def __init__(self, module: PredictedError) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        answers = self.module(*inputs)
        return (*(a["output"] for a in answers), *(a["score"] for a in answers))


def transformer() -> PredictedError:
    """Tokens in; heads read tokens, and the backbone's own last layer reads vectors."""

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.block, self.fc = nn.Embedding(50, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            y: Tensor = self.fc(input=self.block(self.embedding(tokens)).mean(1))  # by name: hooks see that too
            return y

    tokens = torch.randint(0, 50, (2, 9))
    multi = attach(Backbone(), ["embedding"], example=tokens)
    return PredictedError(multi, example=tokens, at=["heads.0", "backbone.fc"])


@pytest.mark.parametrize(
    ("make", "example", "more"),
    [
        (lambda: PredictedError(digits(), example=PICTURES), PICTURES, torch.rand(7, 1, 8, 8) * 16),
        (lambda: PredictedError(digits(), example=PICTURES, at=HEADS), PICTURES, torch.rand(7, 1, 8, 8) * 16),
        (transformer, torch.randint(0, 50, (2, 9)), torch.randint(0, 50, (5, 9))),
    ],
    ids=["logits", "features", "tokens"],
)
def test_exports_to_onnx(make: Callable[[], PredictedError], example: Tensor, more: Tensor, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    module = make()
    with torch.no_grad():
        for head in module.heads:
            head.weight += 0.1 * torch.randn_like(head.weight)
    flat = Flat(module).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dynamic = (({0: torch.export.Dim("batch")},),)
        program = torch.onnx.export(flat, (example,), dynamo=True, dynamic_shapes=dynamic, verbose=False)
    program.save(tmp_path / "net.onnx")
    session = ort.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: more.numpy()})
    with torch.no_grad():
        wanted = flat(more)
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (("heads.0", "heads.1", "haeds.2"), r"Digits has no submodule 'haeds\.2': near names are .*heads\.2"),
        (("heads.0", "heads.1"), "names 2 submodules for 3 exits"),
        ((), "`at` is empty"),
        (("heads.0", "heads.0", "heads.2"), "lists 'heads.0' twice"),
        (("heads.0", "heads.1", "heads"), "'heads' was not run"),
    ],
)
def test_impossible_places_are_refused(at: tuple[str, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        PredictedError(digits(), example=PICTURES, at=at)


def test_networks_and_features_that_do_not_fit_are_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.other = nn.Linear(3, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return self.fc(x), self.other(self.fc(x + 1))

    with pytest.raises(ModelError, match="ran twice or more"):
        PredictedError(Twice(), example=torch.zeros(1, 3), at=["fc", "other"])
    with pytest.raises(ModelError, match="single tensor"):
        PredictedError(nn.Linear(3, 2), example=torch.zeros(1, 3))
    with pytest.raises(ModelError, match="at least 2 classes"):
        PredictedError(attach(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)), ["0"], example=torch.zeros(2, 3), heads=[
            nn.Linear(3, 1)]), example=torch.zeros(2, 3))  # fmt: skip
    with pytest.raises(ModelError, match=r"`pool` made \(4, 16, 8, 8\) of what 'heads\.0' takes"):
        PredictedError(digits(), example=PICTURES, at=HEADS, pool=lambda x: x)
    with pytest.raises(ModelError, match="cannot pool features of shape"):
        PredictedError(digits(), example=PICTURES, at=HEADS, pool=lambda x: pooled(x[None]))


def test_a_plain_network_is_still_plain_inside() -> None:
    """The wrapper itself is no module of plain exits, and the protocol says so."""
    with pytest.raises(ModelError, match="exit 0 is a dict"):
        exits(PredictedError(digits(), example=PICTURES), PICTURES)
