"""Synthetic bit matrices and costs."""

from __future__ import annotations

import numpy as np

from edgeexit.lm.costs import Costs
from edgeexit.lm.tuning.traces import Trace

VOCABULARY = 30


def trace(seed: int, *, n: int = 80, exits: int = 4, start: int = 5, room: int = 0, end: int | None = None) -> Trace:
    """An answer of repeating tokens whose deeper exits agree more often and are surer when they do."""
    rng = np.random.default_rng(seed)
    # a walk over few tokens repeats itself, so that prompt lookup has something to find
    ids = (np.cumsum(rng.choice([1, 1, 1, 4], start + n)) % 11 + 3).astype(np.int64)
    if end is not None:
        ids[ids == end] = VOCABULARY - 1
        ids[-1] = end
    answer = ids[start:, None]
    right = rng.random((n, exits)) < np.linspace(0.5, 0.9, exits)
    right[:, -1] = True
    guesses = np.where(right, answer, (answer + rng.integers(1, VOCABULARY, (n, exits))) % VOCABULARY)
    sure = np.clip(rng.random((n, exits)) * 0.5 + 0.4 * right, 0, 1).astype(np.float32)
    return Trace(ids, start, n + room, guesses, sure, () if end is None else (end,))


def costs(exits: int = 4, block: int = 9, *, slope: float = 0.15, fills: bool = True) -> Costs:
    """Stages that differ, rise with the cache and with the tokens at a time."""
    stage = np.linspace(1.0, 1.6, exits)[:, None, None] * 1e-3
    tokens = (1 + slope * np.arange(block))[None, :, None]
    positions = np.array([0.0, 40.0, 120.0])
    stages = stage * tokens * (1 + positions / 400)[None, None, :]
    heads = np.full((exits, block), 4e-4) * (1 + 0.1 * np.arange(block))
    heads[:-1] *= 0.5
    play = np.ones((exits, block)) - 0.02 * np.arange(block) / block
    play[-1] += 0.03  # what the host does is more than what stays in caches
    play[:, 0] = play[-1, 0]
    fill = np.full(exits, 1e-4 if fills else np.nan)
    return Costs(positions, stages, heads, np.full(exits, 2e-5), fill, play, 1e-5)
