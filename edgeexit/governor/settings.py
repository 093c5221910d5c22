"""Settings of a governor, and `Move`, the record of one of its steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgeexit.errors import PolicyError
from edgeexit.governor.curves import DEFAULT_CURVES, BudgetCurve
from edgeexit.monitor import Reading


@dataclass(frozen=True)
class GovernorSettings:
    """Settings of a governor."""

    curves: tuple[BudgetCurve, ...] = DEFAULT_CURVES
    latency_p90_s: float | None = None
    """Set-point of a closed loop over the latest decisions, in seconds; None = no such loop."""
    temperature_c: float | None = None
    """Set-point of a closed loop, in °C; None = the curve alone."""
    battery_hours: float | None = None
    """Hours that the battery should last from the start: joules left over hours left are the allowed power."""
    throttled: float | None = 0.5
    """Budget while the firmware reports throttling or a capped frequency (Raspberry Pi). A low frequency alone is not a
    sign: an idle processor clocks down, too. None = ignored."""
    floor: float = 0.05
    """Lowest budget, as a fraction of the last exit's cost; the first exit is always available."""
    ceiling: float = 1.0
    fall_per_s: float = 0.5
    """Largest fall of the budget per second."""
    rise_per_s: float = 0.1
    """Largest rise of the budget per second: slower than the fall, or it swings."""
    dead_band: float = 0.03
    """Smaller changes of the budget are ignored, except to floor and ceiling."""
    interval_s: float = 0.25
    """Seconds between two readings."""

    def __post_init__(self) -> None:
        if not 0 < self.floor <= self.ceiling <= 1:
            raise PolicyError(f"0 < floor <= ceiling <= 1; found {self.floor!r}, {self.ceiling!r}")
        if not (self.fall_per_s > 0 and self.rise_per_s > 0 and 0 <= self.dead_band < 1):
            raise PolicyError("rates are above 0, the dead band in [0, 1)")
        if not 0 < self.interval_s <= 3600:
            raise PolicyError(f"the interval is above 0 s and at most an hour, found {self.interval_s!r}")
        if self.throttled is not None and not 0 < self.throttled <= 1:
            raise PolicyError(f"throttled is a budget in (0, 1], found {self.throttled!r}")
        if self.battery_hours is not None and not 0 < self.battery_hours < math.inf:
            raise PolicyError(f"battery_hours is a positive number, found {self.battery_hours!r}")


@dataclass(frozen=True)
class Move:
    """Result of one step."""

    at_seconds: float
    target: float
    """The budget that the signals leave."""
    budget: float
    """After rate limit and dead band."""
    cost: float
    """Cost of the policy that was taken, at most the budget if there is one so cheap."""
    limiting_signal: str
    """The signal that leaves the smallest budget; "nothing" where none limits."""
    pinned: bool
    """The budget is below the cheapest policy that may be taken."""
    changed: bool
    """The engine got another policy."""
    reading: Reading | None
    """None = the reader failed."""
    problems: tuple[str, ...] = ()
    point: str | None = None
    """Name of the operating point that was taken; None = a policy solved for the budget."""
