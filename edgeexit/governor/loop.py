"""PI controller: keeps one measured quantity at or below its set-point by means of the budget."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from edgeexit.errors import PolicyError


@dataclass
class Loop:
    """PI controller with anti-windup (clamped integration).

    Budget = ceiling + proportional * e + the integral of integral * e over time, with e = 1 - measured / setpoint;
    where the budget stands at a limit, what would push it beyond is not integrated.
    """

    setpoint: float
    """In the unit of what is measured; the quantity should stay at or below it."""
    proportional: float = 0.5
    integral: float = 0.25
    """Per second."""
    floor: float = 0.05
    ceiling: float = 1.0
    _sum: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        if not 0 < self.setpoint < math.inf:
            raise PolicyError(f"a set-point is a positive number, found {self.setpoint!r}")
        if self.proportional < 0 or self.integral < 0:
            raise PolicyError("gains of a loop are 0 or more")
        if not 0 < self.floor <= self.ceiling <= 1:
            raise PolicyError(f"0 < floor <= ceiling <= 1; found {self.floor!r}, {self.ceiling!r}")

    def step(self, measured: float, seconds: float) -> float:
        """The budget after another measurement.

        Args:
            measured: the quantity now; NaN or infinite = not known.
            seconds: since the last one; 0 = the clock stood or jumped back.
        """
        if not math.isfinite(measured):  # no measurement; a NaN would stay in the sum
            measured = self.setpoint
        error = max(1 - measured / self.setpoint, -2.0)  # one spike must not take minutes to be forgotten
        target = self.ceiling + self.proportional * error + self._sum
        low, high = target <= self.floor, target >= self.ceiling
        if not (low and error < 0) and not (high and error > 0):
            self._sum += self.integral * error * max(seconds, 0.0)
            self._sum = min(max(self._sum, self.floor - self.ceiling), 0.0)
        return min(max(self.ceiling + self.proportional * error + self._sum, self.floor), self.ceiling)
