"""Key-value cache of sequences, held by the host: the filled part is a view, rollback truncates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.lm_spec import LmSpec
from edgeexit.errors import DataError

Array = NDArray[Any]
PAGE = 32
"""Rows per page; stages get whole pages, as engines plan their memory anew for every new shape, which costs a small
network's first answer most (docs/decisions/pages.md)."""


class Cache:
    """For every layer, keys and values `(context, batch, kv_heads, head_dim)` of which the first rows are filled.

    Stages may be at different lengths: drafts of an early exit run ahead of the later ones.
    """

    def __init__(self, spec: LmSpec, padding: Sequence[int] = (0,)) -> None:
        """An empty cache.

        Args:
            spec: the decoder's sizes.
            padding: per sequence, its first rows that belong to no position: shorter ones of a batch begin later.

        Raises:
            DataError: no memory for the context's keys and values.
        """
        shape = (spec.context, len(padding), spec.kv_heads, spec.head_dim)
        self.context = spec.context
        self.padding = None if tuple(padding) == (0,) else np.asarray(padding, np.int64)
        """`(batch,)`; None = one sequence, and none of it."""
        try:
            self.rows: list[list[Array]] = [
                [np.zeros(shape, np.float32) for _ in range(2 * len(spec.layers_of(k)))]
                for k in range(len(spec.stages))
            ]
        except (MemoryError, ValueError) as e:
            raise DataError(
                f"keys and values of a context of {spec.context} tokens take "
                f"{len(padding) * spec.cache_bytes(spec.context) / 2**20:.0f} MiB, and there is no room for them: {e}"
            ) from e
        """Per stage: key, value, key, value, ... of its layers. Rows that are not filled hold some number, too: a mask
        hides what they weigh, and only what is no number would show through."""
        self.lengths = [0] * len(spec.stages)
        """Positions that each stage has finished."""

    def past(self, stage: int) -> list[Array]:
        """The filled prefix of each of the stage's arrays, contiguous and not copied."""
        length = self.lengths[stage]
        return [a[:length] for a in self.rows[stage]]

    def pages(self, stage: int, new: int) -> list[Array]:
        """`past` and room for so many new rows, to the end of a page.

        Raises:
            DataError: the context has no room for them.
        """
        end = self.lengths[stage] + new
        if end > self.context:
            raise DataError(f"{end} tokens do not fit into the context of {self.context}")
        end = min(-(-end // PAGE) * PAGE, self.context)
        return [a[:end] for a in self.rows[stage]]

    def put(self, stage: int, new: Sequence[Array]) -> None:
        """Append the rows of the next positions.

        Raises:
            DataError: the context is full.
        """
        start = self.lengths[stage]
        end = start + len(new[0])
        if end > self.context:
            raise DataError(f"position {end - 1} is beyond the context of {self.context} tokens")
        for held, rows in zip(self.rows[stage], new, strict=True):
            held[start:end] = rows
        self.lengths[stage] = end

    def take(self, sequence: int, other: Cache) -> None:
        """Put what another cache has of one sequence behind this one's padding, all stages being equally far there."""
        start = 0 if self.padding is None else int(self.padding[sequence])
        for k, stage in enumerate(self.rows):
            for held, rows in zip(stage, other.past(k), strict=True):
                held[start : start + len(rows), sequence] = rows[:, 0]
            self.lengths[k] = start + other.lengths[k]

    def keep(self, sequences: Sequence[int]) -> None:
        """Keep these sequences only, in this order."""
        for length, stage in zip(self.lengths, self.rows, strict=True):
            for i, held in enumerate(stage):
                stage[i] = np.zeros((self.context, len(sequences), *held.shape[2:]), held.dtype)
                stage[i][:length] = held[:length, sequences]
        if self.padding is not None:
            self.padding = self.padding[list(sequences)]

    def rollback(self, length: int) -> None:
        """Truncate to the first `length` positions."""
        self.lengths = [min(n, length) for n in self.lengths]
