"""The processor's temperature, from thermal zones or hwmon."""

from __future__ import annotations

import os
import re

from edgeexit.monitor.files import Seen, listed, text
from edgeexit.monitor.ranges import celsius, shows_thousandths
from edgeexit.monitor.reading import implausible

_ZONES = (
    # best first; a zone of another part (gpu, wifi, battery, acpitz) is never taken for the processor's
    re.compile(r"cpu", re.IGNORECASE),  # cpu-thermal of a Raspberry Pi, cpu0-thermal
    re.compile(r"x86_pkg_temp|package", re.IGNORECASE),
    re.compile(r"soc", re.IGNORECASE),
    re.compile(r"big|little", re.IGNORECASE),
)
_CHIPS = ("cpu_thermal", "coretemp", "k10temp", "zenpower")
_SENSORS = 8
"""More are not read: a server's 64 cores would cost a millisecond."""


def of_the_processor(kind: str) -> int | None:
    """How surely a zone of this type is the processor's, 0 = most; None = it is another part's."""
    return next((rank for rank, pattern in enumerate(_ZONES) if pattern.search(kind)), None)


class Heat:
    """The hottest of the processor's sensors of one kind."""

    fields = ("temperature_c",)

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files
        self.where = ", ".join(files)
        self._thousandths: set[str] = set()
        """Sensors that have shown their unit."""

    def read(self, seen: Seen) -> None:
        degrees = []
        for name, path in self.files.items():
            if (number := seen.number("temperature_c", path, name)) is None:
                continue
            if shows_thousandths(number):
                self._thousandths.add(name)
            try:
                value = celsius(number, name in self._thousandths)
            except ValueError as e:
                seen.problem("temperature_c", name, e)
                continue
            if (why := implausible("temperature_c", value)) is not None:
                seen.problem("temperature_c", name, why)
            else:
                degrees.append(value)
        if degrees:
            seen.put("temperature_c", max(degrees), self.where)


def find_heat(root: str) -> list[Heat] | str:
    """The processor's sensors by kind, best first: thermal zones, then hwmon chips; a text = why there are none."""
    base = os.path.join(root, "sys/class/thermal")
    ranked: dict[int, dict[str, str]] = {}
    others = []
    for zone in listed(base):
        if not zone.startswith("thermal_zone"):
            continue
        kind = text(os.path.join(base, zone, "type")) or "unnamed"
        if (rank := of_the_processor(kind)) is None:
            others.append(kind)
        else:
            ranked.setdefault(rank, {})[f"{zone} ({kind})"] = os.path.join(base, zone, "temp")
    sensors = [ranked[rank] for rank in sorted(ranked)]
    base = os.path.join(root, "sys/class/hwmon")
    for chip in listed(base):
        if (name := text(os.path.join(base, chip, "name"))) in _CHIPS:
            inputs = [f for f in listed(os.path.join(base, chip)) if re.fullmatch(r"temp[0-9]+_input", f)]
            sensors.append({f"{name} {f}": os.path.join(base, chip, f) for f in inputs})
    if any(sensors):
        return [Heat(dict(list(files.items())[:_SENSORS])) for files in sensors if files]
    if others:
        return f"no thermal zone is the processor's (here: {', '.join(others[:4])})"
    return "no thermal zone and no hwmon chip of a processor"
