"""Upper bound of a mean by betting: holds at any sample size, and is tight where the numbers vary little."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.guarantees.bounds import bets, log_wealth
from edgeexit.errors import DataError, PolicyError

_HALVINGS = 50
"""Of the bracket around the bound: leaves 1e-15 of `bmax`."""


def wsr_upper(x: NDArray[Any], delta: float, bmax: float = 1.0) -> float:
    """Upper confidence bound of a mean: with probability at least ``1 - delta`` it is not below the mean.

    A gambler bets on every row that the mean is below `m`. Where the mean is `m` or more she reaches ``1/delta``
    with probability at most `delta`; the bound is the smallest `m` that she refutes (Waudby-Smith & Ramdas,
    "Estimating means of bounded random variables by betting", JRSS-B 2024, hedged on one side).

    The rows must be independent draws in an order that does not depend on their values: a sorted sample gives a
    false bound.

    Args:
        x: `(n,)` numbers from 0 to `bmax`. Signed losses are not taken.
        delta: share of samples whose bound may be too low, strictly between 0 and 1.
        bmax: the largest value that could occur, not the largest that did.

    Returns:
        At most `bmax`, which is also the answer where the sample is too small to say more.

    Raises:
        DataError: no rows, NaN, or numbers outside ``[0, bmax]``.
        PolicyError: `delta` or `bmax` is out of range.
    """
    if not 0 < delta < 1:
        raise PolicyError(f"delta is a probability strictly between 0 and 1, found {delta}")
    if not 0 < bmax < math.inf:
        raise PolicyError(f"bmax is the largest possible value, a positive number; found {bmax}")
    x = np.asarray(x)
    if x.ndim != 1 or x.size == 0 or x.dtype.kind not in "fiub":
        raise DataError(f"a bound needs numbers of shape (n >= 1,), found {x.dtype} {x.shape}")
    if not (x.min() >= 0 and x.max() <= bmax):  # NaN fails too
        raise DataError(f"a bound needs numbers from 0 to {bmax:g}, found {x.min():g} to {x.max():g}")
    x = x.astype(np.float64) / bmax
    stakes, wanted = bets(x, delta), -math.log(delta)

    def refuted(m: float) -> bool:
        return log_wealth(x, stakes, m) >= wanted

    low, high = 0.0, 1.0  # wealth grows with m, so what is refuted reaches from the bound up
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if refuted(middle) else (middle, high)
    return high * bmax
