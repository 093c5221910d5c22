"""Formatting of values: shares in per cent, and whatever a report holds as plain JSON values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def percent(share: float | None, digits: int = 1, *, unit: str = " %", unknown: str = "-") -> str:
    """A share in per cent; `unknown` for None."""
    return unknown if share is None else f"{100 * share:.{digits}f}{unit}"


def plain(value: Any, *, infinite: bool = True) -> Any:
    """A value as JSON holds it: sets and arrays as lists, numpy's numbers as Python's, NaN as None, others as text.

    Args:
        value: anything.
        infinite: whether infinities become the texts "inf" and "-inf"; else None.
    """
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist(), infinite=infinite)
    if isinstance(value, Mapping):
        return {str(k): plain(v, infinite=infinite) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v, infinite=infinite) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value) if infinite and not math.isnan(value) else None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
