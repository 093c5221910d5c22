"""95 % intervals of shares and of paired differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Z = 1.959963984540054  # two-sided 95 %


def wilson(share: float, n: int) -> tuple[float, float]:
    """The Wilson score interval of a share of `n` rows (Wilson, JASA 1927); sound near 0 and 1 too."""
    z2 = _Z * _Z / n
    centre = (share + z2 / 2) / (1 + z2)
    half = _Z / (1 + z2) * math.sqrt(share * (1 - share) / n + z2 / (4 * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def paired(first: NDArray[Any], second: NDArray[Any]) -> tuple[float, float]:
    """Mean of ``first - second`` over the same rows, and the half-width of its normal interval.

    Half a disagreement is added each way (after Agresti and Min, Statistics in Medicine 2005), so that a few
    rows without any do not read as certainty.

    Args:
        first: `(n,)` shares answered right, in [0, 1].
        second: the same, of the other policy.
    """
    difference = first.astype(np.float64) - second
    n = len(difference)
    mean = float(difference.mean())
    variance = (float(difference @ difference) - n * mean * mean + 1) / n
    return mean, _Z * math.sqrt(variance / n)
