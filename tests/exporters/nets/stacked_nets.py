"""A network that joins its exits and parts them again, in every way that people write this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Exits = Sequence[Tensor]


class Stacked(nn.Module):  # type: ignore[name-defined,misc]
    """Three exits; `parts` joins and parts them."""

    input_spec = {"x": ("float32", ("batch", 8))}  # noqa: RUF012

    def __init__(self, parts: Callable[..., Any], features: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts, self.features = parts, features
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.heads = nn.ModuleList(nn.Linear(8, 3) for _ in range(3))
        self.shared = nn.Linear(8, 3)

    def forward(self, x):  # type: ignore[no-untyped-def]
        found = []
        for block in self.blocks:
            x = block(x).relu()
            found.append(x)
        if self.features:
            return list(self.shared(torch.stack(found)).unbind(0))
        return list(self.parts([h(f) for h, f in zip(self.heads, found, strict=True)]))


WAYS: dict[str, Callable[[Exits], Any]] = {
    "stack, then [i]": lambda e: [torch.stack(list(e))[i] for i in range(3)],
    "stack, then [-i]": lambda e: [torch.stack(list(e))[i - 3] for i in range(3)],
    "stack along 1": lambda e: [torch.stack(list(e), 1)[:, i] for i in range(3)],
    "stack along the last": lambda e: [torch.stack(list(e), -1)[..., i] for i in range(3)],
    "unbind": lambda e: torch.stack(list(e)).unbind(0),
    "split and squeeze": lambda e: [y.squeeze(0) for y in torch.stack(list(e)).split(1)],
    "chunk": lambda e: torch.cat(list(e), 1).chunk(3, 1),
    "slices": lambda e: [torch.cat(list(e), 1)[:, 3 * i : 3 * i + 3] for i in range(3)],
    "view": lambda e: [torch.cat(list(e), 1).view(-1, 3, 3)[:, i] for i in range(3)],
    "softmax of all": lambda e: torch.stack(list(e)).softmax(-1).unbind(0),
    "temperatures": lambda e: (torch.stack(list(e)) / torch.tensor([1.0, 2, 3]).view(3, 1, 1)).unbind(0),
    "permute": lambda e: torch.stack(list(e)).permute(1, 0, 2).unbind(1),
}
