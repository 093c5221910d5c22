"""Division of rows into three parts: to fit heads on, to choose exits and thresholds on, and to certify on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError

SPLIT = (0.6, 0.2, 0.2)
"""Shares of the rows: fit, choose, certify."""


def split_rows(n: int, seed: int, groups: NDArray[Any] | None) -> dict[str, NDArray[np.int64]]:
    """Part -> indices of its rows, `fit`, `choose` and `certify`, at random.

    Args:
        n: rows.
        seed: of the draw.
        groups: `(n,)` of rows that stay in one part; None = every row for itself.

    Raises:
        DataError: a part would be empty, or `groups` has another shape.
    """
    if groups is not None and groups.shape != (n,):
        raise DataError(f"groups of shape {list(groups.shape)} for {n} rows: one name or number for each")
    _, member = np.unique(np.arange(n) if groups is None else groups, return_inverse=True)
    place = np.argsort(np.random.default_rng(seed).permutation(member.max() + 1))[member]  # of its group, at random
    order = np.argsort(place, kind="stable")
    # Shares are of rows; a group belongs where most of it is.
    ends = [0, *(_between_groups(place[order], round(share * n)) for share in np.cumsum(SPLIT[:-1])), n]
    parts = {name: order[a:b] for name, a, b in zip(("fit", "choose", "certify"), ends, ends[1:], strict=False)}
    if any(not len(part) for part in parts.values()):
        many = "" if groups is None else f" of {member.max() + 1} groups"
        raise DataError(
            f"{n} rows{many} cannot be split into rows to fit, to choose and to certify on"
            + ("" if groups is None else ": groups stay whole, so give more of them, and smaller ones")
        )
    return {name: np.sort(part) for name, part in parts.items()}


def _between_groups(ordered: NDArray[np.int64], at: int) -> int:
    """The border between two groups that is nearest to `at`."""
    borders = np.flatnonzero(np.diff(ordered)) + 1
    return int(borders[np.abs(borders - at).argmin()]) if len(borders) else 0
