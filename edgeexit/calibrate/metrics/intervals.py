"""95 % intervals of shares and of paired differences."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Z = 1.959963984540054  # two-sided 95 %


def wilson(share: float, n: int, variance: float | None = None) -> tuple[float, float]:
    """The Wilson score interval of a share of `n` rows (Wilson, JASA 1927); sound near 0 and 1 too.

    Args:
        share: what is beyond [0, 1] counts as its end.
        n: rows.
        variance: of the rows where they are not just right or wrong, such as utterances of many words: the interval
            is then that of the number of rights and wrongs that would vary as much (the effective sample size of
            Korn and Graubard, Survey Methodology 1998). None = right or wrong.
    """
    share, size = min(max(share, 0.0), 1.0), float(n)
    if variance and 0 < share < 1:
        size *= share * (1 - share) / variance
    z2 = _Z * _Z / size
    centre = (share + z2 / 2) / (1 + z2)
    half = _Z / (1 + z2) * math.sqrt(share * (1 - share) / size + z2 / (4 * size))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def paired(first: NDArray[Any], second: NDArray[Any], *, comparisons: int = 1) -> tuple[float, float]:
    """Mean of ``first - second`` over the same rows, and the half-width of its normal interval.

    Half a disagreement is added each way (after Agresti and Min, Statistics in Medicine 2005), so that a few
    rows without any do not read as certainty.

    Args:
        first: `(n,)` what answers are worth, at most 1.
        second: the same, of the other policy.
        comparisons: differences that the intervals are to hold for together (Bonferroni).
    """
    difference = first.astype(np.float64) - second
    n = len(difference)
    mean = float(difference.mean())
    variance = (float(difference @ difference) - n * mean * mean + 1) / n
    z = _Z if comparisons == 1 else NormalDist().inv_cdf(1 - 0.025 / comparisons)
    return mean, z * math.sqrt(variance / n)
