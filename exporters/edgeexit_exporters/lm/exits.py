"""Agreement of each exit with the last one, on text that nothing was fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeexit.bundle.lm_spec import LmSpec
from edgeexit_exporters.lm.source import Decoder

_BATCH = 4


@dataclass(frozen=True)
class ExitAgreement:
    """One exit."""

    layer: int
    """Layers run."""
    plain: float
    """Share of tokens where the shared head alone names the last exit's token."""
    shown: float
    """The same for the exit as it was exported, with its map and short list."""
    tokens: int


def agreement(
    model: Decoder,
    spec: LmSpec,
    ids: NDArray[np.int64],
    maps: Mapping[int, nn.Module],
    shown: NDArray[np.int64] | None,
) -> tuple[ExitAgreement, ...]:
    """Teacher-forced agreement of all exits with the last.

    Args:
        model, spec: the decoder and where it is cut.
        ids: `(sequences, positions)`.
        maps: stage -> what stands before its head.
        shown: the short list of early exits; None = all tokens.
    """
    plain, ours = np.zeros(len(spec.stages)), np.zeros(len(spec.stages))
    subset = None if shown is None else torch.from_numpy(shown)
    with torch.no_grad():
        for at in range(0, len(ids), _BATCH):
            states = model.hidden(torch.from_numpy(ids[at : at + _BATCH]))
            last = model.head(states[-1]).argmax(-1)
            for k, layer in enumerate(spec.stages[:-1]):
                logits = model.head(states[layer - 1])
                plain[k] += float((logits.argmax(-1) == last).sum())
                if k in maps:
                    logits = model.head(maps[k](states[layer - 1]))
                ours[k] += float((_best(logits, subset) == last).sum())
    plain[-1] = ours[-1] = ids.size
    return tuple(
        ExitAgreement(n, float(plain[k]) / ids.size, float(ours[k]) / ids.size, ids.size)
        for k, n in enumerate(spec.stages)
    )


def _best(logits: Tensor, subset: Tensor | None) -> Tensor:
    return logits.argmax(-1) if subset is None else subset[logits[..., subset].argmax(-1)]
