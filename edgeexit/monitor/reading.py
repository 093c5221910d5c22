"""Readings: a machine's signals at one moment; unknown is None, never 0, and implausible values are problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

from edgeexit.monitor.ranges import outside

THROTTLE_BITS = ("under_voltage", "frequency_capped", "throttled", "soft_temperature_limit")
"""Bits 0 to 3 of the Raspberry Pi's `get_throttled` are the current state, 16 to 19 whatever occurred since boot."""

_TRUTHS = ("under_voltage", "on_battery")


@dataclass(frozen=True, slots=True)
class Throttled:
    """The throttling flags of a Raspberry Pi's firmware."""

    bits: int
    """As `vcgencmd get_throttled` gives them, e.g. 0x50005."""

    def _now(self, bit: int) -> bool:
        return bool(self.bits >> bit & 1)

    @property
    def under_voltage_now(self) -> bool:
        return self._now(0)

    @property
    def frequency_capped_now(self) -> bool:
        return self._now(1)

    @property
    def throttled_now(self) -> bool:
        return self._now(2)

    @property
    def soft_temperature_limit_now(self) -> bool:
        return self._now(3)

    @property
    def under_voltage_since_boot(self) -> bool:
        return self._now(16)

    @property
    def frequency_capped_since_boot(self) -> bool:
        return self._now(17)

    @property
    def throttled_since_boot(self) -> bool:
        return self._now(18)

    @property
    def soft_temperature_limit_since_boot(self) -> bool:
        return self._now(19)

    @property
    def now(self) -> tuple[str, ...]:
        """Names of the current flags, e.g. `("under_voltage", "throttled")`."""
        return tuple(name for bit, name in enumerate(THROTTLE_BITS) if self._now(bit))

    @property
    def since_boot(self) -> tuple[str, ...]:
        return tuple(name for bit, name in enumerate(THROTTLE_BITS) if self._now(bit + 16))

    def __str__(self) -> str:
        return f"0x{self.bits:x}"


@dataclass(frozen=True, slots=True)
class Reading:
    """Signals of a machine at one moment; None = unknown.

    A reader of your own builds it with `Reading.checked`, which turns implausible values into None and a problem.
    """

    at_seconds: float | None = None
    """The reader's clock; only differences are meaningful."""
    temperature_c: float | None = None
    """Of the processor, the hottest of its sensors."""
    throttled: Throttled | None = None
    """The firmware's flags (Raspberry Pi)."""
    under_voltage: bool | None = None
    """Whether the supply is too weak at this moment (Raspberry Pi)."""
    cpu_frequency_ratio: float | None = None
    """Clock over the highest clock, (0, 1], a little more with turbo. An idle processor clocks down too: a low ratio
    means slow only together with load."""
    load_per_cpu: float | None = None
    """Tasks that ran or wanted to over the last minute, per CPU that may be used."""
    cpu_pressure_avg10: float | None = None
    """Percent of the last 10 s in which some task waited for a CPU."""
    memory_pressure_avg10: float | None = None
    """Percent of the last 10 s in which some task waited for memory."""
    cpu_quota: float | None = None
    """CPUs' worth of time that this process may take: its control group's quota, at most the CPUs it may run on."""
    available_bytes: int | None = None
    """Memory to be had without swapping, within the control group's limit."""
    battery_percent: float | None = None
    """Of the batteries that answer together."""
    on_battery: bool | None = None
    """Whether a battery is being drained; False = mains, or a battery that is not."""
    battery_joules: float | None = None
    """Energy left in the batteries that answer."""
    power_w: float | None = None
    """Raspberry Pi 5: sum of its regulator's rails, without what USB ports and 5 V pins feed. Elsewhere: what is drawn
    from the battery while nothing charges it."""
    problems: tuple[str, ...] = ()
    """Failures of existing sensors, as `field: reason`; the field is None. A missing sensor is no problem."""

    @classmethod
    def checked(cls, values: Mapping[str, Any], problems: Sequence[str] = ()) -> Reading:
        """A reading without implausible values.

        Args:
            values: fields by name; names that no reading has are refused.
            problems: earlier ones.

        Raises:
            TypeError: an unknown field.
        """
        plausible = dict(values)
        reasons = list(problems)
        for name, value in values.items():
            if value is not None and (why := implausible(name, value)) is not None:
                plausible[name] = None
                reasons.append(f"{name}: {why}")
        return cls(**plausible, problems=tuple(reasons))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: `throttled` as its bits, all numbers finite where the reading was checked."""
        data = asdict(self)
        data["throttled"] = None if self.throttled is None else self.throttled.bits
        data["problems"] = list(self.problems)
        return data


SIGNALS = tuple(f.name for f in fields(Reading) if f.name not in ("at_seconds", "problems"))
"""Fields that may be known or unknown."""


def implausible(name: str, value: Any) -> str | None:
    """Why a field cannot have this value; None = it can."""
    if name in _TRUTHS:
        return None if isinstance(value, bool) else f"expected true or false, found {value!r:.40}"
    if name == "throttled":
        fits = isinstance(value, Throttled) and 0 <= value.bits < 0xFFFFFFFF
        return None if fits else f"{value!s:.40} is not a set of flags"
    return outside(name, value)


class Reader(Protocol):
    """Source of readings; a board with sensors of its own needs one method."""

    def read(self) -> Reading:
        """Current values. Fast, and never raises: a failure is None and a problem."""
        ...
