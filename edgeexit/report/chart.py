"""Charts as data: axes, and series of points with intervals. The page draws them as SVG, figures with matplotlib."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """Range, ticks and scale of one axis."""

    title: str
    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False
    percent: bool = False
    """Whether shares are written in per cent."""

    def share(self, value: float) -> float:
        """The share of the way along the axis; what lies beyond an end is put on it."""
        if self.log:
            low, value, high = (math.log(max(v, 1e-300)) for v in (self.low, value, self.high))
        else:
            low, high = self.low, self.high
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def text(self, tick: float) -> str:
        return f"{100 * tick:.4g} %" if self.percent else f"{tick:.4g}"


UNIT = (0.0, 0.5, 1.0)
"""Ticks of a share."""


@dataclass(frozen=True)
class Mark:
    """One point of a series."""

    x: float
    y: float
    low: float | None = None
    """95 % interval of `y`, as `high`; None = not drawn."""
    high: float | None = None
    title: str = ""
    """In words, for the page."""


@dataclass(frozen=True)
class Series:
    """Marks joined by a line; colour, dashes and shape together tell series apart."""

    label: str
    marks: tuple[Mark, ...]
    colour: str
    """``#rrggbb``."""
    dashed: bool = False
    """The marks of a dashed line are hollow."""


@dataclass(frozen=True)
class Chart:
    """Series between two axes; their marks at one `x` stand side by side."""

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    limit: bool = False
    """Whether `y` should not exceed `x`: the diagonal is drawn, and what is above it is shaded."""


def nice_ticks(low: float, high: float, most: int = 5) -> tuple[float, ...]:
    """At most `most` + 1 round numbers from `low` to `high`."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(k * step, 12) for k in range(first, last + 1))


def log_ticks(low: float, high: float) -> tuple[float, ...]:
    """1, 2 and 5 times powers of ten from `low` to `high`; only the powers where that is more than eight."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [m * 10.0**e for e in powers for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    coarse = [10.0**e for e in powers if low <= 10.0**e <= high]
    return tuple(fine if len(fine) <= 8 else coarse)
