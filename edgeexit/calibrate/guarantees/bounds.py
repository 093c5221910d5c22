"""Statistical tests: p-values for "the expected loss is above alpha" from n independent losses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def binomial_cdf(n: int, p: float) -> NDArray[np.float64]:
    """`(n + 1,)`: P(Bin(n, p) <= k) for every k at once."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(n + 1)
    terms = logs[n] - logs - logs[::-1] + k * math.log(p) + (n - k) * math.log1p(-p)
    return np.asarray(np.minimum(np.exp(terms).cumsum(), 1.0))


def binomial_p(n: int, alpha: float, losses: int) -> float:
    """P(Bin(n, alpha) <= losses)."""
    return float(binomial_cdf(n, alpha)[losses])


class Binomial:
    """Exact test for losses of 0 and 1: P(Bin(n, alpha) <= losses seen)."""

    name = "binomial"

    def __init__(self, n: int, alpha: float) -> None:
        self.n, self.cdf = n, binomial_cdf(n, alpha)

    def p_value(self, losses: NDArray[Any]) -> float:
        """Losses `(n,)` of 0 and 1."""
        return float(self.cdf[round(float(losses.sum()))])


class HoeffdingBentkus:
    """For losses in [0, 1] (Bates et al., "Distribution-free, risk-controlling prediction sets", JACM 2021)."""

    name = "Hoeffding-Bentkus"

    def __init__(self, n: int, alpha: float) -> None:
        self.n, self.alpha, self.cdf = n, alpha, binomial_cdf(n, alpha)

    def p_value(self, losses: NDArray[Any]) -> float:
        """Losses `(n,)` in [0, 1]."""
        mean = min(float(losses.mean(dtype=np.float64)), 1.0)
        a, r = self.alpha, min(mean, self.alpha)
        kl = (r * math.log(r / a) if r > 0 else 0.0) + (1 - r) * math.log((1 - r) / (1 - a))
        # A sum that is a whole number but for rounding must not be counted up.
        bentkus = math.e * float(self.cdf[min(math.ceil(self.n * mean - 1e-9), self.n)])
        return min(math.exp(-self.n * kl), bentkus, 1.0)


class Betting:
    """Waudby-Smith and Ramdas' betting test, for losses of at most `bound` that may be negative.

    "Estimating means of bounded random variables by betting", JRSS B 2024, with the bets of Jazbec et al., "Fast
    yet Safe", NeurIPS 2024. The wealth of a bet against "mean = alpha" is a fair game; by Ville's inequality it
    reaches 1 / delta with probability at most delta, so its largest value's inverse is a p-value.
    """

    name = "betting (WSR)"

    def __init__(self, n: int, alpha: float, delta: float, bound: float = 1.0) -> None:
        self.n, self.alpha, self.delta, self.bound = n, alpha, delta, bound

    def p_value(self, losses: NDArray[Any]) -> float:
        """Losses `(n,)` of at most `bound`, in the order to bet in; see `shuffled`."""
        x = np.asarray(losses, np.float64)
        return math.exp(-max(log_wealth(x, bets(x, self.delta, self.bound), self.alpha), 0.0))


def shuffled(x: NDArray[Any]) -> NDArray[Any]:
    """`(n,)` in a seeded random order: files go by class, or from easy to hard, and bets must not follow that."""
    return np.asarray(x[np.random.default_rng(0).permutation(len(x))])


class ConformalRiskControl:
    """Angelopoulos et al., ICLR 2024: bounds the mean risk over calibration sets; asked from the safe side on."""

    name = "conformal risk control"

    def __init__(self, n: int, alpha: float, bound: float) -> None:
        self.n, self.alpha, self.bound = n, alpha, bound
        self._worst = -math.inf

    def passes(self, losses: NDArray[Any]) -> bool:
        """Losses `(n,)`; the largest mean so far counts, so that a lucky dip is not taken for safety."""
        self._worst = max(self._worst, float(losses.mean()))
        return (self.n * self._worst + self.bound) / (self.n + 1) <= self.alpha


def bets(x: NDArray[np.float64], delta: float, bound: float = 1.0) -> NDArray[np.float64]:
    """`(n,)` stakes against a mean of numbers of at most `bound`; each knows only the rows before it."""
    t = np.arange(1, len(x) + 1)
    mean = (0.5 + x.cumsum()) / (t + 1)
    variance = (0.25 + ((x - mean) ** 2).cumsum()) / (t + 1)
    before = np.concatenate([[0.25], variance[:-1]])
    # Wealth is multiplied by 1 + bet * (m - x), which must not fall below 0.
    return np.minimum(1.0 / bound, np.sqrt(-2 * math.log(delta) / (len(x) * before)))


def log_wealth(x: NDArray[np.float64], stakes: NDArray[np.float64], m: float) -> float:
    """Logarithm of the largest wealth on the way, having bet that the mean is below `m`."""
    with np.errstate(divide="ignore"):  # all staked and lost: wealth 0, its logarithm -inf, for good
        return float(np.log1p(stakes * (m - x)).cumsum().max())


def least_rows(alpha: float, delta: float) -> int:
    """Rows without any loss at which alpha can be certified at all: ln(delta) / ln(1 - alpha)."""
    return math.ceil(math.log(delta) / math.log1p(-alpha) - 1e-9)
