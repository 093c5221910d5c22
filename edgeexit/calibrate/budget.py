"""Budget with its unit: a fraction of the last exit's cost, MACs, joules, or seconds on this device."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError, Infeasible, PolicyError
from edgeexit.records.base import R

_UNITS = {
    "": ("fraction", 1.0),
    "%": ("fraction", 0.01),
    "macs": ("macs", 1.0),
    "kmacs": ("macs", 1e3),
    "mmacs": ("macs", 1e6),
    "gmacs": ("macs", 1e9),
    "s": ("seconds", 1.0),
    "ms": ("seconds", 1e-3),
    "us": ("seconds", 1e-6),
    "µs": ("seconds", 1e-6),
    "j": ("joules", 1.0),
    "mj": ("joules", 1e-3),
    "uj": ("joules", 1e-6),
    "µj": ("joules", 1e-6),
}


@dataclass(frozen=True)
class Budget:
    """Mean cost allowed per input."""

    value: float
    unit: Literal["fraction", "macs", "seconds", "joules"] = "fraction"

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``0.3``, ``30%``, ``4MMACs`` or ``2.5ms``.

        Raises:
            PolicyError: not a positive number with one of these units.
        """
        match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Zµ%]*)\s*", text)
        try:
            unit, scale = _UNITS[match[2].lower()]  # type: ignore[index]
            value = float(match[1]) * scale  # type: ignore[index]
            if not 0 < value < float("inf"):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise PolicyError(
                f"budget {text!r:.40}: expected a fraction of the last exit's cost (0.3, 30%), "
                "MACs (4MMACs) or seconds on this device (2.5ms)"
            ) from None
        return cls(value, unit)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}"

    def relative(
        self, cost: NDArray[np.float64], seconds: Sequence[float] | None = None, unit: str = "macs"
    ) -> tuple[NDArray[np.float64], float]:
        """Costs in the budget's unit, as fractions of the last exit's, and the budget as such a fraction.

        Args:
            cost: `(exits,)` cumulative.
            seconds: `(exits,)` measured seconds to answer at each exit on this device.
            unit: of `cost`: "macs" (which a budget in seconds replaces), or "joules".

        Raises:
            Infeasible: below the first exit's cost, said in the budget's own unit.
            DataError: seconds were not measured, or do not grow from exit to exit.
            PolicyError: the costs are in another unit.
        """
        if self.unit == "fraction":
            return cost / cost[-1], self.value
        if self.unit != unit and (self.unit, unit) != ("seconds", "macs"):
            raise PolicyError(
                f"a budget of {self} does not go with costs in {unit}; give {unit}, or a fraction of the last "
                "exit's cost"
            )
        if self.unit == "seconds":
            if seconds is None:
                raise DataError("a budget in seconds needs stage times of this device: give a bundle, not records")
            cost = np.asarray(seconds, np.float64)
            if (np.diff(cost) <= 0).any():
                times = ", ".join(f"{1e3 * t:.3g} ms" for t in cost)
                raise DataError(
                    f"the measured times do not grow from exit to exit ({times}): this device is too busy, or the "
                    "exits too alike, for a budget in seconds; give MACs or a fraction"
                )
        if self.value < cost[0]:
            raise Infeasible(
                f"a budget of {self.value:g} {self.unit} is below the first exit's {cost[0]:g} {self.unit}, "
                "the least feasible budget"
            )
        return cost / cost[-1], min(1.0, float(self.value / cost[-1]))

    def on(self, records: R, seconds: Sequence[float] | None = None, unit: str = "macs") -> tuple[R, float]:
        """As `relative`, for records: with seconds they are given this device's costs.

        Raises:
            Infeasible, DataError, PolicyError: as `relative`.
        """
        cost, fraction = self.relative(records.cost, seconds, unit)
        return (records.priced(cost) if self.unit == "seconds" else records), fraction
