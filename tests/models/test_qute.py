"""QUTE: the views' filters are the exits' at every batch and learn nothing of their own; and the recipe."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgeexit
from edgeexit.errors import ModelError
from edgeexit_models import ResNet8, WeightedSum, fit, predict
from edgeexit_models.definitions.ensembles import DeepEnsemble, ExitEnsemble
from edgeexit_models.definitions.qute import Qute, qute_resnet8
from edgeexit_models.training.qute import RESNET8_COSTS, QuteLoss, fit_qute
from recipes import cifar10

SCRIPT = Path(__file__).parents[2] / "models" / "recipes" / "qute-resnet8-cifar10" / "train.py"


def small(seed: int = 0) -> Qute:
    """Three stages on 8 x 8 pictures, batch norm in the last."""
    torch.manual_seed(seed)
    stages = [
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
    ]
    final = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return Qute(stages, final, 3, torch.zeros(1, 1, 8, 8))


def members(module: nn.Module, x: Tensor) -> Tensor:
    """Probabilities `(n, heads, classes)` of a network with one exit."""
    with torch.no_grad():
        return torch.stack(module.eval()(x)[0], 1).softmax(2)


def rows(n: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 1, 8, 8, generator=generator), torch.randint(0, 3, (n,), generator=generator)


LOSS = QuteLoss((1.0, 2.0, 4.0))


class Copied(nn.Module):
    """The paper's wording: views with filters of their own, overwritten before every batch."""

    def __init__(self, qute: Qute) -> None:
        super().__init__()
        self.qute = qute
        self.own = nn.ModuleList([pair.deployed()[0] for pair in qute._pairs()])
        self.copies = 0

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        pairs = self.qute._pairs()
        with torch.no_grad():
            for own, pair in zip(self.own, pairs, strict=True):
                own.load_state_dict(pair.filter.state_dict())
        self.copies += 1
        outputs = self.qute(x)
        last = x
        for stage in self.qute.stages:
            last = stage(last)
        late = [pair.view(torch.relu(own(last))) for own, pair in zip(self.own, pairs, strict=True)]
        return (*outputs[:2], *late, outputs[-1])


def test_a_detached_filter_trains_like_one_copied_before_every_batch() -> None:
    ours, theirs = small(), Copied(small())
    for module in (ours, theirs):
        fit(module, rows(), epochs=3, seed=0, batch_size=8, lr=0.02, loss=LOSS, progress=False)
    assert theirs.copies == 9
    for name, value in ours.named_parameters():
        torch.testing.assert_close(value, theirs.qute.get_parameter(name), rtol=1e-4, atol=1e-5, msg=name)


def test_views_see_the_new_filter_in_the_next_batch_and_do_not_change_it() -> None:
    module = small()
    x, y = rows()
    module.eval()
    before = module(x)
    torch.stack([nn.functional.cross_entropy(z, y) for z in before[2:4]]).sum().backward(retain_graph=True)
    for pair in module._pairs():
        assert pair.filter.weight.grad is None and pair.filter.bias is not None and pair.filter.bias.grad is None
        assert pair.lift.weight.grad is None
        assert pair.view.linear.weight.grad is not None
    assert module.stages[0][0].weight.grad is not None
    module.zero_grad()
    nn.functional.cross_entropy(before[0], y).backward()  # as if exit 0 alone had learned
    filters = module._pairs()[0].filter
    with torch.no_grad():
        filters.weight -= filters.weight.grad
    after = module(x)
    assert not torch.equal(after[2], before[2])
    assert torch.equal(after[3], before[3])


def test_the_last_epochs_train_the_views_linear_layers_alone() -> None:
    module = small()
    states: list[dict[str, Tensor]] = []
    numbers: list[int] = []

    def keep(epoch: object) -> None:
        numbers.append(epoch.number)
        states.append({name: value.clone() for name, value in module.state_dict().items()})

    history = fit_qute(module, rows(), epochs=3, seed=0, batch_size=8, lr=0.05, loss=LOSS, progress=keep)
    assert numbers == [epoch.number for epoch in history.epochs] == [0, 1, 2]
    assert {name for name in states[1] if not torch.equal(states[1][name], states[2][name])} == {
        f"pairs.{k}.view.linear.{part}" for k in (0, 1) for part in ("weight", "bias")
    }
    assert any(not torch.equal(states[0][n], states[1][n]) for n in states[0] if n.endswith("running_mean"))
    module.train()
    assert module.pairs.training and not any(part.training for part in module.stages.modules())
    with pytest.raises(ModelError, match="is frozen"):
        fit_qute(module, rows(), epochs=1, seed=0, batch_size=8, lr=0.05, loss=LOSS)


def test_resuming_ends_in_the_same_weights(tmp_path: Path) -> None:
    def trained(path: Path | None, stop: int = 9) -> Qute:
        module = small()

        def maybe_stop(epoch: object) -> None:
            if epoch.number == stop:
                raise KeyboardInterrupt

        fit_qute(module, rows(), epochs=4, seed=0, batch_size=8, lr=0.05, loss=LOSS, checkpoint=path, resume=True,
                 progress=maybe_stop)  # fmt: skip
        return module

    whole = trained(None).state_dict()
    for stop in (1, 2):
        path = tmp_path / f"{stop}.pt"
        with pytest.raises(KeyboardInterrupt):
            trained(path, stop)
        resumed = trained(path).state_dict()
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_deployed_answers_like_the_views_and_is_a_copy() -> None:
    module = qute_resnet8()
    x = torch.rand(2, 3, 32, 32) * 255
    module.train()(x)  # moves the batch norms' means
    device = module.deployed()
    wanted = torch.stack(module.eval()(x)[2:4], 1).softmax(2)
    with torch.no_grad():
        assert members(device, x).shape == (2, 2, 10)
        torch.testing.assert_close(members(device, x), wanted)
        module.pairs[0].filter.weight.zero_()
        torch.testing.assert_close(members(device, x), wanted)
    assert device.input_spec == module.input_spec == ResNet8().input_spec


def test_deployed_is_at_most_a_tenth_larger_than_the_plain_network() -> None:
    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    plain = ResNet8()
    single = count(plain) - count(plain.heads[0]) - count(plain.heads[1])
    assert single < count(qute_resnet8().deployed()) <= 1.1 * single


def test_the_same_seed_gives_the_plain_networks_backbone() -> None:
    torch.manual_seed(3)
    plain = ResNet8()
    torch.manual_seed(3)
    module = qute_resnet8(mean=None)
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(module.eval()(x)[-1], plain.eval()(x)[-1])


def test_the_papers_weights() -> None:
    loss = QuteLoss(RESNET8_COSTS)
    assert loss.weights(0, 10) == pytest.approx((0.01, 0.01, 3.0, 3.5, 1.0))
    tau = [0.01 + 5 / 10 * cost / 12.52 for cost in (5.17, 8.85)]
    assert loss.weights(5, 10) == pytest.approx((*tau, 3.0, 3.5, 1.0))
    assert QuteLoss(RESNET8_COSTS, scale=0.5).weights(0, 10) == pytest.approx((0.005, 0.005, 1.5, 1.75, 0.5))


def test_stages_that_do_not_fit_are_refused() -> None:
    picture = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ModelError, match="at least 2 stages"):
        Qute([nn.Identity()], nn.Identity(), 3, picture)
    for last in (nn.Flatten(), nn.AdaptiveAvgPool2d(1)):
        with pytest.raises(ModelError, match="the last ones at least 2 x 2"):
            Qute([nn.Identity(), last], nn.Identity(), 3, picture)


def test_members_of_the_ensembles() -> None:
    x = torch.rand(5, 3, 32, 32) * 255
    nets = [ResNet8(), ResNet8()]
    p, q = (predict(net, x).softmax(2) for net in nets)
    torch.testing.assert_close(members(ExitEnsemble(nets[0]), x), p.transpose(0, 1))
    torch.testing.assert_close(members(DeepEnsemble(nets), x), torch.stack([p[2], q[2]], 1))
    assert members(DeepEnsemble(nets[:1]), x).shape == (5, 1, 10)
    assert ExitEnsemble(nets[0]).input_spec == DeepEnsemble(nets).input_spec == nets[0].input_spec
    with pytest.raises(ModelError, match="at least one network"):
        DeepEnsemble([])


def test_the_plain_loss_leaves_the_early_heads_without_gradients() -> None:
    net = ResNet8()
    WeightedSum((0.0, 0.0, 1.0))(net(torch.rand(2, 3, 32, 32)), torch.tensor([0, 1]), 0, 1).backward()
    assert all(not p.grad.any() for head in net.heads[:-1] for p in head.parameters())


def the_recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("recipe_qute", SCRIPT)
    assert spec is not None and spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    monkeypatch.setattr(cifar10, "HELD_OUT", 8)
    monkeypatch.setattr(recipe, "TIMED", 3)
    return recipe


def pictures(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    np.savez(
        folder / "cifar.npz",
        x_train=rng.integers(0, 256, (72, 32, 32, 3)).astype(np.uint8), y_train=rng.integers(0, 10, 72),
        x_test=rng.integers(0, 256, (110, 32, 32, 3)).astype(np.uint8), y_test=rng.integers(0, 10, 110),
    )  # fmt: skip
    return folder / "cifar.npz"


@pytest.mark.slow
def test_the_recipe_writes_figures_of_all_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    recipe = the_recipe(monkeypatch)
    out = tmp_path / "out"
    words = ["train.py", pictures(tmp_path), "--out", out, "--seeds", 0, 1, "--epochs", 1, "--batch-size", 32]
    for more in ([], ["--resume"]):
        monkeypatch.setattr(sys, "argv", [str(word) for word in (*words, "--threads", 1, *more)])
        recipe.main()
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["split"] == {"train": 64, "held_out": 8, "test": 110}
    assert set(metrics["test"]) == {"plain-0", "plain-1", "qute-0", "qute-1", "exits-0", "deep"}
    assert set(metrics["held_out"]) == set(metrics["test"])
    for row in metrics["test"].values():
        assert 0 <= row["accuracy"] <= 1 and row["nll"] > 0 and 0 <= row["brier"] <= 2 and 0 <= row["ece"] <= 1
        assert set(row["corrupted_accuracy"]) == set(recipe.CORRUPTIONS) and "digits" in row["auroc_outside"]
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
    plain, qute, exits, deep = (metrics["test"][name] for name in ("plain-0", "qute-0", "exits-0", "deep"))
    assert plain["parameters"] < qute["parameters"] <= 1.1 * plain["parameters"] < exits["parameters"]
    assert deep["parameters"] == pytest.approx(2 * plain["parameters"], abs=9)  # they share constants
    assert [row["heads"] for row in (plain, qute, exits, deep)] == [1, 2, 3, 2]
    assert plain["auroc_uncertainty"] is None
    qute_resnet8().deployed().load_state_dict(safetensors.load_file(out / "qute-1.safetensors"))
    assert edgeexit.Bundle.open(out / "qute-1.edgeexit").manifest.exits[0].members == 2


def test_settings_are_chosen_without_the_test_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, out = the_recipe(monkeypatch), tmp_path / "out"
    words = ["train.py", pictures(tmp_path), "--out", out, "--networks", "qute", "--epochs", 1, "--batch-size", 32,
             "--rows", 40, "--held-out-only", "--threads", 1]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    recipe.main()
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["test"] is None and metrics["split"]["train"] == 40 and set(metrics["held_out"]) == {"qute-0"}
