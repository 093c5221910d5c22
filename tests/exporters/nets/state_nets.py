"""Networks with memory, one step per call."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn


class Stepper(nn.Module):
    """Two recurrent cells with an exit each, and a counter that both exits read."""

    states = ("h0", "seen", "h1")
    input_spec: ClassVar = {
        "x": ("float32", ("batch", 6)),
        "h0": ("float32", ("batch", 8)),
        "seen": ("int64", (1, 1)),
        "h1": ("float32", (1, 8)),
    }

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.GRUCell(6, 8), nn.GRUCell(8, 8)
        self.y0, self.y1 = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor, h0: Tensor, seen: Tensor, h1: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        h0 = self.a(x * (1 + 0.1 * seen.float()), h0)
        h1 = self.b(h0 * (1 + 0.2 * seen.float()), h1)
        return [self.y0(h0), self.y1(h1)], [h0, seen + 1, h1]


class Windowed(nn.Module):
    """Three causal convolutions over pictures that come line by line; states with four axes."""

    states = ("w0", "w1", "w2")
    input_spec: ClassVar = {
        "line": ("float32", (1, 2, 1, 10)),
        **{f"w{k}": ("float32", (1, 2 if k == 0 else 4, 2, 10)) for k in range(3)},
    }

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(2 if k == 0 else 4, 4, 3, padding=(0, 1)) for k in range(3))
        self.heads = nn.ModuleList(nn.Linear(4, 5) for _ in range(3))

    def forward(self, line: Tensor, *states: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        exits, following = [], []
        for conv, head, held in zip(self.convs, self.heads, states, strict=True):
            seen = torch.cat([held, line], 2)
            following.append(seen[:, :, 1:])
            line = torch.relu(conv(seen))
            exits.append(head(line.mean((2, 3))))
        return exits, following


def seeded(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


def stepped(module: nn.Module, rows: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Per row what every exit of the module gives, in a stream that never leaves early."""
    spec = module.input_spec
    held = [
        torch.zeros([1 if a == "batch" else a for a in spec[n][1]], dtype=getattr(torch, spec[n][0]))
        for n in module.states
    ]
    found = []
    with torch.no_grad():
        for row in rows:
            exits, held = module(torch.from_numpy(row), *held)
            found.append([e.numpy() for e in exits])
    return found
