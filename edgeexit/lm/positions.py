"""What stages are told of positions: RoPE's cosines and sines, and which positions a new one may look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import BundleError
from edgeexit.lm.spec import LmSpec

Array = NDArray[Any]
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
        self._last: tuple[int, int, Array | None] = (-1, 0, None)
        self._told: list[Array] = []

    def of(self, start: int, count: int, padding: Array | None = None) -> list[Array]:
        """What a stage wants to know of new rows of the cache.

        Args:
            start: rows before them.
            count: T new ones.
            padding: `(B,)` each sequence's first rows that belong to no position, fewer than `start + 1`; None = one
                sequence, none.

        Returns:
            Cosines and sines `(B, T, 1, head_dim)`; the mask `(B, 1, 1, T, start + T)`, 0 where a new row may look and
            -inf elsewhere.

        Raises:
            BundleError: the part gives other shapes than it did for one position.
        """
        if self._last[:2] != (start, count) or self._last[2] is not padding:  # the next stage asks the same
            turn = self._turn(start, count, padding)
            self._last, self._told = (start, count, padding), [*turn, mask(start, count, padding)]
        return self._told

    def _turn(self, start: int, count: int, padding: Array | None) -> list[Array]:
        self._grow(start + count)
        if padding is None:
            return [t[None, start : start + count] for t in self._tables]
        return [t[np.arange(start, start + count) - padding[:, None]] for t in self._tables]

    def _grow(self, length: int) -> None:
        have = len(self._tables[0])
        if length <= have:
            return
        end = max(length, min(self._context, -(-length // STEP) * STEP))
        found = self._part([np.arange(have, end, dtype=np.int64)])
        if any(f.shape != (end - have, self._tables[0].shape[-1]) for f in found):
            raise BundleError(f"positions gives {[f.shape for f in found]} for {end - have} positions: not a decoder's")
        self._tables = [np.concatenate([t, f[:, None]]) for t, f in zip(self._tables, found, strict=True)]


def mask(start: int, count: int, padding: Array | None = None) -> Array:
    """`(B, 1, 1, count, start + count)`: 0 where a new row may look and -inf elsewhere; see `Positions.of`."""
    new, row = np.arange(start, start + count)[:, None], np.arange(start + count)
    early = np.zeros((1, 1, 1), np.int64) if padding is None else padding[:, None, None]
    return np.where((row > new) | (row < early), np.float32(-np.inf), np.float32(0))[:, None, None]
