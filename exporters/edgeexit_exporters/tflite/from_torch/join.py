"""Join of heads that answer together as a torch module, by the formulas of `source.join`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeexit_exporters.source.torch_exits import Exits


class Joined(nn.Module):
    """Positional inputs in; out, flat, per exit in order, its answer, its heads' uncertainty, its learned score, its
    lengths; then the next values of the states.

    Args:
        exits: the source module.
        kinds: what every exit's heads give: "logits" or "probs".
    """

    def __init__(self, exits: Exits, kinds: Sequence[str]) -> None:
        super().__init__()
        self.exits, self.kinds = exits, tuple(kinds)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs: list[Tensor] = []
        exits, states = self.exits.given(*inputs)
        for (heads, learned, lengths), kind in zip(exits, self.kinds, strict=True):
            valid = lengths[0] if lengths else None
            outputs += together(heads, kind, valid) if len(heads) > 1 else heads
            outputs += [_per_input(score, valid) for score in learned]
            outputs += [
                counts + 0 for counts in lengths
            ]  # exits often share theirs, and every exit has tensors of its own
        return (*outputs, *states)


def together(heads: Sequence[Tensor], kind: str, lengths: Tensor | None = None) -> list[Tensor]:
    """Mean of the heads' probabilities `(batch, ..., classes)`, and `(batch,)` mean total-variation distance."""
    p = [torch.softmax(h, -1) for h in heads] if kind == "logits" else list(heads)
    mean = _sum(p) * (1 / len(p))
    # max(d, -d): int8 kernels know Maximum, and leave Abs in float
    distance = _sum([torch.maximum(member - mean, mean - member) for member in p])
    return [mean, _per_input(distance.sum(-1) * (0.5 / len(p)), lengths)]


def _per_input(value: Tensor, lengths: Tensor | None = None) -> Tensor:
    if value.ndim == 1:
        return value
    flat = value.reshape(value.shape[0], -1)
    if lengths is None:
        return flat.mean(-1)
    valid = (torch.arange(flat.shape[1])[None] < lengths[:, None]).to(flat.dtype)
    return (flat * valid).sum(-1) / valid.sum(-1).clamp(min=1)


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
