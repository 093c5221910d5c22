"""`augment` with fine-tuning: the same exits, the network trained on, both results side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import edgeexit
from edgeexit.bench.verify import verify
from edgeexit.errors import ModelError
from edgeexit_exporters.augment.flow import augment, places_of
from edgeexit_exporters.augment.graft import graft
from edgeexit_exporters.augment.heads import Head, LinearHead, MlpHead
from edgeexit_exporters.augment.measured import on_test
from edgeexit_exporters.augment.nodes import pooled_width
from edgeexit_exporters.augment.trainable import Trainable
from edgeexit_exporters.exporting import open_source
from edgeexit_models import finetune
from edgeexit_models.data.optdigits import load_optdigits


class Small(nn.Module):
    """A plain network with batch norm, in-place work, a skip connection, and nothing of ours."""

    def __init__(self, probabilities: bool = False) -> None:
        super().__init__()
        self.input_spec = {"image": ("float32", ("batch", 1, 8, 8))}
        self.convs = nn.ModuleList(nn.Conv2d(16 if k else 1, 16, 3, padding=1) for k in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(4))
        self.last = nn.Linear(16, 10)
        self.probabilities = probabilities

    def forward(self, x: Tensor) -> Tensor:
        x = x / 16
        for k, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(x))
            x = functional.relu(y + x if k == 2 else y, inplace=True)
        z: Tensor = self.last(functional.dropout(x.mean((2, 3)), 0.1, self.training))
        return z.softmax(1) if self.probabilities else z


def trained(epochs: int = 4) -> Small:
    torch.manual_seed(0)
    data, net = load_optdigits(), Small()
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimiser.step()
    return net.eval()


@pytest.fixture(scope="module")
def network() -> Small:
    return trained()


def made_heads(places: Sequence[Any], pool: str, mlp: bool) -> list[Head]:
    rng = np.random.default_rng(0)

    def layer(a: int, b: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return rng.normal(size=(a, b)).astype(np.float32), rng.normal(size=b).astype(np.float32)

    widths = [pooled_width(p, pool) for p in places]
    return [MlpHead(*layer(w, 7), *layer(7, 10)) if mlp else LinearHead(*layer(w, 10)) for w in widths]


@pytest.mark.parametrize(
    ("pool", "mlp"),
    [
        ("average", False),
        pytest.param("avgmax", True, marks=pytest.mark.slow),
        pytest.param("grid", True, marks=pytest.mark.slow),
        pytest.param("first", False, marks=pytest.mark.slow),
    ],
)
def test_it_answers_in_torch_as_in_the_graph_and_comes_back_unchanged(pool: str, mlp: bool) -> None:
    torch.manual_seed(1)
    source = open_source(Small(probabilities=mlp), single=True)
    places = places_of(source)[0][:2]
    heads = made_heads(places, pool, mlp)
    x = load_optdigits().x_train[:40]
    module = Trainable(source, places, heads, pool, {"image": x})
    wanted = graft(source, places, heads, pool).reference({"image": x})
    *early, last = (t.detach().numpy() for t in module(torch.from_numpy(x)))
    for k, found in enumerate(early):
        expected = wanted[f"edgeexit_augment_exit{k}"]
        np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())
    final = wanted[source.exits[0].answer]
    np.testing.assert_allclose(np.exp(last) if mlp else last, final, atol=1e-4)
    network, back = module.trained()
    np.testing.assert_allclose(network.reference({"image": x})[network.exits[0].answer], final, atol=1e-5)
    for before, after in zip(heads, back, strict=True):
        np.testing.assert_allclose(after.weight, before.weight, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(after.bias, before.bias, rtol=1e-4, atol=1e-4)


def test_training_on_leaves_the_given_network_alone_and_learns(network: Small) -> None:
    data = load_optdigits()
    source = open_source(network, single=True)
    places = places_of(source)[0][:2]
    before = {k: v.clone() for k, v in network.state_dict().items()}
    module = Trainable(source, places, made_heads(places, "average", False), "average", {"image": data.x_train[:200]})
    told: list[str] = []
    finetune(module, (data.x_train, data.y_train), [0.3, 0.6, 1.0], head_epochs=4, epochs=1, progress=told.append)
    assert len(told) == 5 and "heads:" in told[0] and "heads and backbone" in told[-1]
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    now = module.trained()[0].module
    assert now is not None
    moved = {k for k, v in now.state_dict().items() if not torch.equal(v, before[k])}
    assert "convs.0.weight" in moved and "last.weight" in moved
    assert not any("running" in k for k in moved)
    with torch.no_grad():
        answers = module(torch.from_numpy(data.x_test))
    right = [float((a.argmax(1) == torch.from_numpy(data.y_test)).float().mean()) for a in answers]
    assert right[0] > 0.4 and right[2] > 0.9  # random heads would have 0.1


@pytest.mark.slow
def test_both_results_side_by_side(network: Small, tmp_path: Path) -> None:
    data = load_optdigits()

    def tune(module: Any, rows: Any, costs: Any) -> None:
        finetune(module, rows, costs, head_epochs=1, epochs=2)

    found = augment(
        network, {"image": data.x_train}, data.y_train, tmp_path / "a.edgeexit", drop=0.02, candidates=3, tune=tune
    )
    assert found.bundle is not None and found.tuned is not None and found.tuned.bundle is not None
    assert found.tuned.bundle.path == tmp_path / "a-tuned.edgeexit"
    assert all(v.passed for v in verify(found.tuned.bundle))
    assert found.verdict is not None and found.tuned.verdict is not None
    assert found.tuned.verdict.untouched == found.verdict.untouched  # both against the network as it was
    assert found.tuned.bundle.manifest.provenance["fine_tuned"] is True
    tested = on_test(found, {"image": data.x_test[:300]}, data.y_test[:300])
    assert tested.tuned is not None and tested.tuned.verdict.untouched == tested.verdict.untouched
    assert tested.tuned.verdict.accuracy > 0.85
    engine = edgeexit.load(found.tuned.bundle, policy="augmented")
    labels = [engine.run(x).label for x in data.x_test[:300]]
    assert np.mean(np.array(labels) == data.y_test[:300]) == pytest.approx(tested.tuned.verdict.accuracy)


@pytest.mark.slow
def test_without_labels_the_network_s_own_answers_are_learned(network: Small, tmp_path: Path) -> None:
    x = load_optdigits().x_train
    seen: list[NDArray[np.int64]] = []

    def tune(module: Any, rows: Any, costs: Any) -> None:
        seen.append(rows[1])

    found = augment(network, {"image": x}, None, tmp_path / "a.edgeexit", drop=0.05, candidates=3, tune=tune)
    with torch.no_grad():
        answers = network(torch.from_numpy(x)).argmax(1).numpy()
    assert np.mean([np.bincount(seen[0], minlength=10) / len(seen[0])]) == pytest.approx(0.1)
    order = np.sort(np.random.default_rng(0).permutation(len(x))[: len(seen[0])])
    assert (seen[0] == answers[order]).mean() > 0.999
    assert found.tuned is not None and found.tuned.verdict is not None and found.tuned.verdict.untouched == 1.0
    assert found.tuned.text.count("agreement") == 1


def test_refused(tmp_path: Path) -> None:
    stranger = Path(__file__).parents[3] / "models/bundles/digits.edgeexit/artifacts/onnx-prefix-fp32/exit_2.onnx"
    data = load_optdigits()
    rows = ({"image": data.x_train}, data.y_train, tmp_path / "a.edgeexit")
    with pytest.raises(ModelError, match="needs a torch module"):
        augment(stranger, *rows, tune=lambda *a: None)
    with pytest.raises(ModelError, match="no parts `backbone` and `heads`"):
        finetune(Small(), (data.x_train, data.y_train), [1.0])
