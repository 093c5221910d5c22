"""Plausible ranges of sensor values: one table for the signals of a reading and for the numbers that kernel files hold.

A value outside is wrong: the sensor fails, or its driver writes another unit than the kernel documents
(docs/decisions/sensor-units.md).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple


class Range(NamedTuple):
    """Plausible range of a value."""

    low: float
    high: float
    unit: str
    scale: float = 1.0
    """Units in 1 of the file's number: 1e-6 for micro-volts."""
    signed: bool = False
    """The file's number may be negative, so a driver may have written its 32 or 64 bits without the sign."""


RANGES: dict[str, Range] = {
    # signals of a reading
    "temperature_c": Range(-40.0, 150.0, "C"),
    "cpu_frequency_ratio": Range(0.01, 4.0, ""),  # Hz over kHz is 1000, kHz over Hz 0.001
    "load_per_cpu": Range(0.0, 1e4, ""),
    "cpu_pressure_avg10": Range(0.0, 100.0, "%"),
    "memory_pressure_avg10": Range(0.0, 100.0, "%"),
    "cpu_quota": Range(1e-3, 1 << 14, "CPUs"),  # the kernel takes at least 1 ms in at most 1 s
    "available_bytes": Range(0, 1 << 50, "bytes"),
    "battery_percent": Range(0.0, 100.0, "%"),
    "battery_joules": Range(0.0, 1e9, "J"),
    "power_w": Range(1e-6, 1e4, "W"),
    # numbers of /sys/class/power_supply, one battery's; a gauge's registers hold 16 bits of mA and mV
    "capacity": Range(0.0, 100.0, "%"),
    "voltage": Range(0.5, 100.0, "V", 1e-6),
    "current": Range(-32.767, 32.767, "A", 1e-6, signed=True),
    "power": Range(-2e3, 2e3, "W", 1e-6, signed=True),
    "charge": Range(0.0, 1e3, "Ah", 1e-6),
    "charge_full": Range(0.01, 1e3, "Ah", 1e-6),
    "energy": Range(0.0, 2e3, "Wh", 1e-6),
    "energy_full": Range(0.05, 2e3, "Wh", 1e-6),
    "battery_power": Range(0.05, 4e3, "W"),  # what a computer that reads this draws: milli-watts are taken for micro
    # others
    "clock": Range(1e6, 1e11, "Hz", 1e3),
    "online": Range(0, 2, ""),  # offline, online with fixed or with programmable voltage
}

_ZERO_C = 0.15
"""A processor's sensor at so few degrees was never read, or its whole degrees were taken for thousandths."""
_ERRORS = 4096
"""Numbers from -4095 to -1 are the kernel's error codes, not currents."""


def outside(name: str, value: Any) -> str | None:
    """Why a signal or quantity, in the table's unit, cannot have this value; None = it can."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"expected a number, found {value!r:.40}"
    row = RANGES.get(name, Range(-math.inf, math.inf, ""))
    if not row.low <= value <= row.high or not abs(value) < math.inf:  # whole numbers may be beyond floats
        shown = f"{value:.7g}" if abs(value) < 1e300 else f"{value!r:.40}"
        return f"{shown} {row.unit} is implausible".replace("  ", " ")
    if name == "temperature_c" and abs(value) <= _ZERO_C:
        if value == 0:
            return "exactly 0 C, as of a sensor that was never read"
        return f"{value:.7g} C, as of whole degrees taken for thousandths"
    return None


def scaled(name: str, number: int) -> float:
    """A file's number in the table's unit, with the sign that a driver lost.

    Raises:
        ValueError: it is implausible; the message has both.
    """
    row = RANGES[name]
    if row.signed:
        for bits in (32, 64):
            if 1 << bits - 1 <= number < (1 << bits) - _ERRORS:
                negative = (number - (1 << bits)) * row.scale
                if outside(name, negative) is None:
                    return negative
    value = number * row.scale
    if (why := outside(name, value)) is not None:
        raise ValueError(why if row.scale == 1 else f"{number}: {why}")
    return value


def celsius(number: int, thousandths: bool) -> float:
    """Degrees of a thermal file's number: thousandths as the kernel documents, or whole ones as some vendors write.

    A sensor of thousandths would have to stand within 0.15 C of freezing to give a number up to 150.

    Args:
        number: as the file has it.
        thousandths: this sensor has shown its unit by a larger number, so that small ones are thousandths, too.

    Raises:
        ValueError: too large for whole degrees, and within 1 C of freezing if it were thousandths.
    """
    if thousandths or abs(number) >= 1000 or number == 0:
        return number / 1000
    if abs(number) > RANGES["temperature_c"].high:
        raise ValueError(f"{number} is neither whole degrees nor, within 1 C of freezing, surely thousandths")
    return float(number)


def shows_thousandths(number: int) -> bool:
    """Whether a thermal file's number can be a temperature in thousandths only."""
    return 1000 <= abs(number) <= 1000 * RANGES["temperature_c"].high
