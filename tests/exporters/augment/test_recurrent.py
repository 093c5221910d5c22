"""Stacked recurrent networks: every layer ends in steps (t, b, c), which heads read and which cuts carry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from augment_checks import batches_answer_as_single_inputs, last_answers_as_before
from numpy.typing import NDArray
from onnx_models import Net, save
from torch import nn

from edgeexit.bench.verify import verify
from edgeexit.errors import ModelError
from edgeexit_exporters.augment.flow import augment, places_of
from edgeexit_exporters.augment.places import Place
from edgeexit_exporters.exporting import open_source
from edgeexit_exporters.source.source import Source
from edgeexit_exporters.source.torch_source import from_torch

STEPS = 12


class Stacked(nn.Module):
    """Three recurrent layers and a linear one on the last step."""

    input_spec = {"x": ("float32", ("batch", STEPS, 4))}  # noqa: RUF012

    def __init__(self, kind: str = "LSTM", batch_first: bool = True, bidirectional: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = getattr(nn, kind)(
            4, 16, num_layers=3, batch_first=batch_first, bidirectional=bidirectional, dropout=0.0
        )
        self.head = nn.Linear(32 if bidirectional else 16, 3)
        self.batch_first = batch_first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.layers(x if self.batch_first else x.transpose(0, 1))
        found: torch.Tensor = self.head(y[:, -1] if self.batch_first else y[-1])
        return found


class Free(Stacked):
    """torch leaves the length free where it is batch first and reads one way; else it takes the example's."""

    input_spec = {"x": ("float32", ("batch", "time", 4))}  # noqa: RUF012


def task(n: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Which of three channels is larger on the whole: some easy, some hard."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    x = rng.standard_normal((n, STEPS, 4)).astype(np.float32)
    x[np.arange(n), :, y] += rng.uniform(0.2, 2.0, n).astype(np.float32)[:, None]
    return x, y


def trained(module: Stacked) -> Stacked:
    x, y = (torch.from_numpy(a) for a in task(512, seed=1))
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    for _ in range(50):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return module.eval()


def of_layers(found: tuple[Place, ...]) -> list[tuple[Any, ...]]:
    return [(*p.kinds, *p.channels, *p.sizes, p.bytes) for p in found]


@pytest.mark.parametrize(
    ("kind", "batch_first", "bidirectional"), [("LSTM", True, False), ("LSTM", False, True), ("GRU", True, True)]
)
def test_every_layer_but_the_last_is_a_place(kind: str, batch_first: bool, bidirectional: bool) -> None:
    found, total = places_of(from_torch(Stacked(kind, batch_first, bidirectional), single=True))
    wide = 32 if bidirectional else 16
    assert of_layers(found) == [("steps", wide, (STEPS,), STEPS * wide * 4)] * 2
    gates, ways = {"LSTM": 4, "GRU": 3}[kind], 2 if bidirectional else 1
    macs = [ways * gates * 16 * (4 + 16) * STEPS, ways * gates * 16 * (wide + 16) * STEPS]
    assert [p.macs for p in found] == [macs[0], sum(macs)] and total == macs[0] + 2 * macs[1] + 3 * wide


def file(batch: int | str, ways: int = 1) -> Net:
    """Three LSTM nodes as files have them: (t, directions, b, h), squeezed or regrouped between them."""
    net, wide = Net(), 8 * ways
    x = net.op("Transpose", ["x"], "turned", perm=[1, 0, 2])
    for k in range(3):
        weights = [net.weight(f"w{k}", ways, 32, 4 if k == 0 else wide), net.weight(f"r{k}", ways, 32, 8)]
        direction = "forward" if ways == 1 else "bidirectional"
        net.op("LSTM", [x, *weights], f"layer{k}", hidden_size=8, direction=direction)
        if ways == 1:
            x = net.op("Squeeze", [f"layer{k}", net.ints("one", 1)], f"steps{k}")
        else:
            net.op("Transpose", [f"layer{k}"], f"sides{k}", perm=[0, 2, 1, 3])
            x = net.op("Reshape", [f"sides{k}", net.ints("merged", 0, 0, -1)], f"steps{k}")
    net.op("Gather", [x, net.ints("end", -1, scalar=True)], "last", axis=0)
    net.head("last", wide, "y")
    return net


@pytest.mark.parametrize("batch", ["batch", 1])
@pytest.mark.parametrize("ways", [1, 2])
def test_lstm_nodes_of_a_file(batch: int | str, ways: int, tmp_path: Path) -> None:
    model = file(batch, ways).model({"x": [batch, STEPS, 4]}, {"y": [batch, 3]})
    found, _ = places_of(open_source(save(model, tmp_path), single=True))
    assert [p.name for p in found] == ["steps0", "steps1"]
    assert of_layers(found) == [("steps", 8 * ways, (STEPS,), STEPS * 8 * ways * 4)] * 2


def test_what_counts_inputs_elsewhere_is_told(tmp_path: Path) -> None:
    net = file("batch")
    del net.nodes[2:]
    net.nodes[1].output[:] = ["layer0", "state"]  # the last state of every direction: (1, b, h), and no steps
    net.op("Transpose", ["state"], "a", perm=[2, 0, 1])  # (h, 1, b)
    net.op("Reshape", ["a", net.ints("flat", 8, -1)], "b")
    net.op("MatMul", [net.weight("w", 3, 8), "b"], "c")
    net.op("Transpose", ["c"], "y", perm=[1, 0])
    net.weights = {n: w for n, w in net.weights.items() if any(n in node.input for node in net.nodes)}
    model = net.model({"x": ["batch", STEPS, 4]}, {"y": ["batch", 3]})
    words = r"'state' \[1, 1, 8\] holds the last state.*'a' \[8, 1, 1\] counts inputs on axis 2; .*'b' \[8, 1\] counts"
    with pytest.raises(ModelError, match=words):
        places_of(open_source(save(model, tmp_path), single=True))


@pytest.fixture(scope="module")
def network() -> tuple[Stacked, Source]:
    module = trained(Free())
    return module, from_torch(module, single=True)


def test_a_free_length_is_no_channel_axis(network: tuple[Stacked, Source]) -> None:
    found, _ = places_of(network[1])
    assert of_layers(found) == [("steps", 16, (), 16 * 16 * 4)] * 2


@pytest.mark.parametrize("pool", ["last", "avgmax"])
def test_from_a_trained_lstm_to_a_bundle(network: tuple[Stacked, Source], pool: str, tmp_path: Path) -> None:
    module, source = network
    x, y = task(900)
    found = augment(source, {"x": x}, y, tmp_path / "a.edgeexit", drop=0.1, pool=pool, candidates=4, anyway=True)
    assert found.bundle is not None and found.verdict is not None
    assert [c.place.kinds for c in found.candidates] == [("steps",)] * 2
    assert max(c.accuracy for c in found.candidates) > 0.7  # of 1/3 by chance
    assert all(v.passed for v in verify(found.bundle))
    cuts = {t.name: t for t in found.bundle.manifest.cuts}
    used = [c.place.name for c in found.candidates if c.used]
    assert [(cuts[n].batch_axis, cuts[n].shape) for n in used] == [(1, ("time", "batch", 16))] * len(used)
    last_answers_as_before(found.bundle, {"x": x[:20]}, module(torch.from_numpy(x[:20])).detach().numpy())
    batches_answer_as_single_inputs(found.bundle, {"x": x[:40]})
