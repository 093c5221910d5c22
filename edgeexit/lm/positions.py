"""Position inputs of the stages: RoPE's cosines and sines, attention mask, cache rows of the new positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.lm_spec import LmSpec
from edgeexit.errors import BundleError

Array = NDArray[Any]
POSITION_INPUTS = ("cos", "sin", "mask", "cache_position")
"""Inputs of every stage, in the order of `Positions.of`."""
STEP = 1024
"""Positions whose cosines and sines are computed at a time."""


class Positions:
    """Cosines and sines once for all stages and all tokens, and masks."""

    def __init__(self, part: Callable[[Sequence[Array]], list[Array]], spec: LmSpec) -> None:
        """Nothing is computed yet.

        Args:
            part: positions `(n,)` int64 -> cosines and sines, each `(n, head_dim)`.
            spec: the decoder's sizes.
        """
        self._part, self._context = part, spec.context
        self._tables = [np.zeros((0, 1, spec.head_dim), np.float32)] * 2
        self._last: tuple[int, int, int, Array | None] = (-1, 0, 0, None)
        self._inputs: list[Array] = []

    def of(self, start: int, count: int, rows: int, padding: Array | None = None) -> list[Array]:
        """Position inputs of a stage for new positions.

        Args:
            start: filled rows of the cache before them.
            count: T new ones.
            rows: P rows of the cache that are passed to the stage, `start + T` or more.
            padding: `(B,)` each sequence's first rows that belong to no position, fewer than `start + 1`; None = one
                sequence, none.

        Returns:
            Cosines and sines `(B, T, 1, head_dim)`; the attention mask `(B, 1, 1, T, P)`, 0 where a new position
            attends and -inf elsewhere; the cache rows `(T,)` int64 of the new positions.

        Raises:
            BundleError: the part gives other shapes than it did for one position.
        """
        if self._last[:3] != (start, count, rows) or self._last[3] is not padding:  # the next stage takes the same
            own = [mask(start, count, rows, padding), np.arange(start, start + count, dtype=np.int64)]
            self._last, self._inputs = (start, count, rows, padding), [*self.turn(start, count, padding), *own]
        return self._inputs

    def turn(self, start: int, count: int, padding: Array | None = None) -> list[Array]:
        """Cosines and sines alone; see `of`."""
        self._grow(start + count)
        if padding is None:
            return [t[None, start : start + count] for t in self._tables]
        return [t[np.arange(start, start + count) - padding[:, None]] for t in self._tables]

    def _grow(self, length: int) -> None:
        have = len(self._tables[0])
        if length <= have:
            return
        end = max(length, min(self._context, -(-length // STEP) * STEP))
        tables = self._part([np.arange(have, end, dtype=np.int64)])
        if any(f.shape != (end - have, self._tables[0].shape[-1]) for f in tables):
            raise BundleError(
                f"positions gives {[f.shape for f in tables]} for {end - have} positions: not a decoder's"
            )
        self._tables = [np.concatenate([t, f[:, None]]) for t, f in zip(self._tables, tables, strict=True)]


def mask(start: int, count: int, rows: int, padding: Array | None = None) -> Array:
    """`(B, 1, 1, count, rows)`: 0 where a new position attends and -inf elsewhere; see `Positions.of`."""
    allowed = np.zeros((1 if padding is None else len(padding), 1, 1, count, rows), np.float32)
    for i in range(count):
        allowed[..., i, start + i + 1 :] = -np.inf
    if padding is None:
        return allowed
    return np.where((np.arange(rows) < padding[:, None])[:, None, None, None], np.float32(-np.inf), allowed)
