"""Greedy answers and token error rate of every exit."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgeexit_models.protocol import evaluating
from edgeexit_models.speech.batch import Features, make_batch


def greedy(log_probs: npt.NDArray[np.float32], blank: int = 0) -> list[int]:
    """Best token of every frame `(frames, vocab)`, repeats joined, blanks left out."""
    best = log_probs.argmax(axis=1)
    first = np.diff(best, prepend=-1) != 0
    return [int(t) for t in best[first & (best != blank)]]


def answers(
    module: nn.Module, features: Sequence[Features], blank: int = 0, batch_size: int = 32
) -> list[list[list[int]]]:
    """Token numbers of every exit for every utterance, `[exit][utterance]`, in evaluation mode.

    Utterances of similar length are run together; the order of the answers is that of `features`.
    """
    order = sorted(range(len(features)), key=lambda i: len(features[i]))
    found: list[list[list[int]]] = []
    with evaluating(module), torch.no_grad():
        for at in range(0, len(order), batch_size):
            rows = order[at : at + batch_size]
            batch = make_batch([features[i] for i in rows], [()] * len(rows))
            device = next(module.parameters()).device
            for k, one in enumerate(module(batch.x.to(device), batch.x_lens.to(device))):
                if len(found) == k:
                    found.append([[] for _ in features])
                output, lengths = one["output"].cpu().numpy(), one["lengths"].cpu().tolist()
                for i, log_probs, frames in zip(rows, output, lengths, strict=True):
                    found[k][i] = greedy(log_probs[:frames], blank)
    return found


def edit_distance(said: Sequence[Hashable], heard: Sequence[Hashable]) -> int:
    """Fewest substitutions, deletions and insertions that turn one into the other (Levenshtein 1966).

    >>> edit_distance("four", "for"), edit_distance([1, 2], [])
    (1, 2)
    """
    row = list(range(len(heard) + 1))
    for i, a in enumerate(said, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(heard, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]


def error_rates(
    module: nn.Module, features: Sequence[Features], tokens: Sequence[Sequence[int]], blank: int = 0
) -> tuple[float, ...]:
    """Per exit, edits over all utterances divided by the tokens said (0.1 = every tenth; can exceed 1)."""
    said = sum(map(len, tokens))
    return tuple(
        sum(edit_distance(a, b) for a, b in zip(tokens, heard, strict=True)) / max(said, 1)
        for heard in answers(module, features, blank)
    )
