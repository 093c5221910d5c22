"""Somebody else's backbone becomes multi-exit: attach heads by submodule name, train, export, calibrate, sweep.

Needs the `all` extra; takes about half a minute.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

import edgeexit
from edgeexit.calibrate.on_bundle import calibrate_artifact
from edgeexit.calibrate.sweep import sweep
from edgeexit_models import WeightedSum, attach, evaluate, fit
from edgeexit_models.data.optdigits import load_optdigits


class Block(nn.Module):
    """A residual block, as thousands of networks have it; nothing in it knows of exits."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.b(self.a(x)))


class Backbone(nn.Module):
    """The network that was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 24, 3, stride=2, padding=1), nn.ReLU())
        self.layer1, self.layer2, self.layer3 = Block(24), Block(24), Block(24)
        self.fc = nn.Linear(24 * 16, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(self.stem(image / 16))))
        return self.fc(x.flatten(1))


def main(out: Path) -> None:
    data = load_optdigits()
    torch.manual_seed(0)
    net = attach(Backbone(), after=["layer1.a", "layer2"], heads="avgmax", classes=10, example=torch.zeros(1, 1, 8, 8))
    train = (data.x_train, data.y_train)
    fit(net, train, epochs=15, seed=0, batch_size=64, lr=0.02, loss=WeightedSum((0.5, 0.5, 1.0)), threads=1)
    print("accuracy per exit:", *(f"{a:.1%}" for a in evaluate(net, data.x_test, data.y_test)))

    bundle = edgeexit.export(net, out, inputs=["image:float32[batch,1,8,8]"], overwrite=True)
    print("MACs per exit:", *(f"{e.macs:,}" for e in bundle.manifest.exits))

    engine = edgeexit.load(bundle, artifact="chain")
    note = {"file": "UCI optical digits"}
    inputs = {"image": data.x_design}
    _, point = calibrate_artifact(engine, inputs, data.y_design, data=note, accuracy_drop=0.005, name="balanced")
    print("leave at each exit:", *(f"{r:.0%}" for r in point.expected["exit_rates"]))

    design, test = engine.record(data.x_design, data.y_design), engine.record(data.x_test, data.y_test)
    print(sweep(design, test).verdict.text)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path, default=Path("attached.edgeexit"))
    main(arguments.parse_args().out)
