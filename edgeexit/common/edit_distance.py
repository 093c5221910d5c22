"""Edit distance of two sequences."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Number of insertions, deletions and substitutions between two sequences (Levenshtein, 1966).

    >>> edit_distance("four", "for"), edit_distance([1, 2], [])
    (1, 2)
    """
    numbers: dict[Hashable, int] = {}
    first, second = ([numbers.setdefault(unit, len(numbers)) for unit in units] for units in (a, b))
    ours = np.asarray(second, np.int64)
    steps = np.arange(len(ours) + 1)
    row = steps
    for i, label in enumerate(first):
        best = np.concatenate([[i + 1], np.minimum(row[1:] + 1, row[:-1] + (ours != label))])
        row = np.minimum.accumulate(best - steps) + steps  # insertions one after another, without a loop over them
    return int(row[-1])
