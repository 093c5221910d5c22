"""Range of a network's input over its calibration rows, and detection of inputs far outside it."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.common.kinds import Number, Whole
from edgeexit.common.records import Record
from edgeexit.errors import DataError

FLAT = 0.1
"""An input that spans less than this share of what the flattest calibration row spans is unusual."""
LEAST_ROWS = 30
"""With fewer rows the range is uncertain, and no input is unusual."""
_CHUNK = 1 << 20
"""Numbers per step."""


class UnusualInput(UserWarning):
    """An input lies far outside the range of the calibration rows."""


_Number = Annotated[float, Number()]
_NotNegative = Annotated[float, Number(0)]


@dataclass(frozen=True)
class InputRange(Record, title="range"):
    """Range of the numbers of a floating-point input over the calibration rows."""

    low: _Number
    """Smallest number in any row."""
    high: _Number
    """Largest number in any row."""
    span: _NotNegative
    """Smallest difference, over the rows, of a row's largest and smallest number."""
    mean_low: _Number
    """Smallest mean of a row."""
    mean_high: _Number
    """Largest mean of a row."""
    mean: _Number
    """Of all numbers of all rows."""
    std: _NotNegative
    """Standard deviation of all numbers of all rows."""
    rows: Annotated[int, Whole(1, 1 << 62)]
    """Number of calibration rows."""

    def __post_init__(self) -> None:
        for low, high in (("low", "high"), ("mean_low", "mean_high")):
            if not getattr(self, low) <= getattr(self, high):
                raise DataError(f"{low}: expected at most {high} {getattr(self, high)!r}, found {getattr(self, low)!r}")

    def unusual(self, row: NDArray[Any]) -> str | None:
        """Why one input is unusual, in words; None = it is not.

        A number is far outside when it is beyond the range by more than the range is wide; a row's mean by more than
        half as much, and more than a twentieth of what all numbers span.
        """
        if self.rows < LEAST_ROWS or not row.size:
            return None
        least, most, flat, mean_least, mean_most = self._bounds
        low, high = float(np.minimum.reduce(row, None)), float(np.maximum.reduce(row, None))
        if not (low >= least and high <= most):
            return self._numbers(low, high)
        if high - low < flat:
            return (
                f"{self._numbers(low, high)}, and in every row the largest is at least {self.span:g} above the smallest"
            )
        mean = float(np.add.reduce(row, None, np.float32 if row.itemsize < 4 else None)) / row.size
        if mean_least <= mean <= mean_most:
            return None
        mirrored = mean_least <= self.low + self.high - mean <= mean_most
        return (
            f"its mean is {mean:g}; on {self.rows} calibration rows it is from {self.mean_low:g} to "
            f"{self.mean_high:g}" + (" (dark and light inverted?)" if mirrored else "")
        )

    @cached_property
    def _bounds(self) -> tuple[float, float, float, float, float]:
        """Limits of a row's smallest and largest number, span and mean, computed once."""
        width = (self.high - self.low) or abs(self.high)
        reach = max((self.mean_high - self.mean_low) / 2, width / 20)
        beyond = width or math.inf
        return self.low - beyond, self.high + beyond, FLAT * self.span, self.mean_low - reach, self.mean_high + reach

    def _numbers(self, low: float, high: float) -> str:
        return (
            f"its numbers are from {low:g} to {high:g}; on {self.rows} calibration rows they are from {self.low:g} to "
            f"{self.high:g}"
        )

    def __str__(self) -> str:
        """One line for people."""
        return (
            f"{self.low:g} to {self.high:g}, mean {self.mean:.4g} (of rows {self.mean_low:.4g} to "
            f"{self.mean_high:.4g}), standard deviation {self.std:.4g}"
        )


def measure(rows: Any) -> InputRange | None:
    """The range of floating-point rows; None = other numbers, no rows, or numbers that are not finite.

    Args:
        rows: `(n, ...)`, an array or anything whose slices are arrays.
    """
    parts: list[NDArray[np.float64]] = []
    step = max(_CHUNK // max(np.asarray(rows[0:1]).size, 1), 1)
    for start in range(0, len(rows), step):
        part = np.asarray(rows[start : start + step])
        if part.dtype.kind != "f" or not part.size:
            return None
        flat = part.reshape(len(part), -1).astype(np.float64)
        parts.append(np.stack([flat.min(1), flat.max(1), flat.mean(1), np.square(flat).mean(1)]))
    if not parts:
        return None
    low, high, mean, square = np.concatenate(parts, 1)
    if not np.isfinite(square).all():
        return None
    return InputRange(
        float(low.min()), float(high.max()), float((high - low).min()), float(mean.min()), float(mean.max()),
        float(mean.mean()), float(np.sqrt(max(square.mean() - mean.mean() ** 2, 0.0))), len(mean),
    )  # fmt: skip


def measure_all(names: Sequence[str], inputs: Sequence[Any]) -> Mapping[str, InputRange]:
    """The ranges of the inputs that have one, by name; inputs after the named ones are left out."""
    ranges = {name: measure(rows) for name, rows in zip(names, inputs, strict=False)}
    return {name: r for name, r in ranges.items() if r is not None}


class UsualInputs:
    """Detector of unusual inputs: one per engine, called once per run."""

    def __init__(self, names: Sequence[str], ranges: Mapping[str, InputRange]) -> None:
        self._ranges = [(k, name, ranges[name]) for k, name in enumerate(names) if name in ranges]
        self._has_warned = False

    def of(self, inputs: Sequence[NDArray[Any]]) -> str | None:
        """Why one input is unusual, as a sentence; None = it is not. The first one is also a warning."""
        for k, name, known in self._ranges:
            if (why := known.unusual(inputs[k])) is not None:
                text = f"input {name!r} is far outside what the network was calibrated on: {why}"
                self._warn(text)
                return text
        return None

    def each(self, inputs: Sequence[NDArray[Any]]) -> NDArray[np.bool_] | None:
        """Which of many inputs `(n, ...)` are unusual; None = no range is known. The first one is also a warning."""
        if not self._ranges:
            return None
        return np.array([self.of([a[i] for a in inputs]) is not None for i in range(len(inputs[0]))])

    def _warn(self, text: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(f"{text} (shown once per engine; see Decision.unusual)", UnusualInput, stacklevel=4)
