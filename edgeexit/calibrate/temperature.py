"""Temperature scaling per exit: the divisor of its logits that calibrates its probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.metrics.reliability import reliability_per_exit
from edgeexit.errors import DataError
from edgeexit.policy.scores import Kind, tempered
from edgeexit.records.classification import Records

NEAR_ONE = 0.1
"""A temperature with |ln T| below this changes no probability by more than a few hundredths, and costs a division."""
_REACH = 3.0
_GOLDEN = (math.sqrt(5) - 1) / 2


def fit_temperature(outputs: NDArray[Any], labels: NDArray[Any], kind: Kind = "logits") -> float:
    """The temperature of least negative log-likelihood (Guo et al., ICML 2017).

    The likelihood has one valley in T (it is convex in 1 / T), so a golden-section search over ln T finds it.

    Args:
        outputs: `(n, classes)` or `(n, ..., classes)` of one exit.
        labels: `(n,)` or `(n, ...)` true classes.
        kind: whether `outputs` are logits or probabilities.

    Returns:
        T in [e^-3, e^3]; a bound is returned where every answer is right, or none is better than a guess.

    Raises:
        DataError: shapes do not fit.
    """
    if outputs.ndim < 2 or labels.shape != outputs.shape[:-1] or labels.size == 0:
        raise DataError(
            "a temperature needs outputs (n, ..., classes) and labels (n, ...), "
            f"found {outputs.shape} and {labels.shape}"
        )
    z = tempered(outputs, kind, 1.0).reshape(-1, outputs.shape[-1]).astype(np.float64)
    z -= z.max(-1, keepdims=True)
    own = z[np.arange(len(z)), labels.ravel()]

    def loss(log_t: float) -> float:
        beta = math.exp(-log_t)
        return float((np.log(np.exp(z * beta).sum(-1)) - own * beta).mean())

    low, high = -_REACH, _REACH
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > 1e-4:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = loss(right)
    return math.exp(min((loss(t), t) for t in (-_REACH, (low + high) / 2, _REACH))[1])


def fit_temperatures(records: Records) -> tuple[float, ...]:
    """`(exits,)` temperatures, each fitted on these (design) rows.

    Raises:
        DataError: the records have no labels.
    """
    if records.labels is None:
        raise DataError(f"{records.name}: temperatures are fitted to true classes; these records have no labels")
    labels = records.labels
    return tuple(
        fit_temperature(records.valid(k, o), records.valid(k, labels), records.kind)
        for k, o in enumerate(records.outputs)
    )


@dataclass(frozen=True)
class FittedTemperature:
    """One exit's temperature, and what it gains."""

    value: float
    """To be used; 1 where it was skipped."""
    fitted: float
    """Of least negative log-likelihood on all the rows, used or not."""
    skipped: str | None
    """Why it is not used; None = it is."""
    nll_before: float
    """Negative log-likelihood at T = 1, in nats, on the half of the rows that was held back."""
    nll_after: float
    """The same at the temperature fitted on the other half."""


def fit_useful_temperatures(records: Records, seed: int = 0) -> tuple[FittedTemperature, ...]:
    """`(exits,)` temperatures, 1 where one would gain nothing: near 1 (`NEAR_ONE`), or no better on held rows.

    Whether it gains is judged between two halves of the rows; the value is fitted on all of them.

    Args:
        records: design rows, at least 2.
        seed: of the halves.

    Raises:
        DataError: no labels, or fewer than 2 rows.
    """
    temperatures = fit_temperatures(records)
    first, held = records.split(0.5, seed)
    before = reliability_per_exit(held, (1.0,) * records.exits)
    after = reliability_per_exit(held, fit_temperatures(first))
    return tuple(_judged(t, b.nll, a.nll) for t, b, a in zip(temperatures, before, after, strict=True))


def _judged(fitted: float, before: float, after: float) -> FittedTemperature:
    skipped = None
    if abs(math.log(fitted)) < NEAR_ONE:
        skipped = f"T = {fitted:.3f} is near 1: |ln T| = {abs(math.log(fitted)):.3f} < {NEAR_ONE:g}"
    elif not after < before:
        skipped = f"no gain on held rows: negative log-likelihood {before:.4f} at T = 1, {after:.4f} fitted"
    return FittedTemperature(fitted if skipped is None else 1.0, fitted, skipped, before, after)
