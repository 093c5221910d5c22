"""The processor's temperature, from thermal zones or hwmon."""

from __future__ import annotations

import os
import re

from edgeexit.monitor.files import ReadingBuilder, listed, text
from edgeexit.monitor.ranges import celsius, shows_thousandths
from edgeexit.monitor.reading import implausible

_ZONES = (
    # best first; zones of other parts (gpu, wifi, battery, acpitz) are never used for the processor
    re.compile(r"cpu", re.IGNORECASE),  # cpu-thermal of a Raspberry Pi, cpu0-thermal
    re.compile(r"x86_pkg_temp|package", re.IGNORECASE),
    re.compile(r"soc", re.IGNORECASE),
    re.compile(r"big|little", re.IGNORECASE),
)
_CHIPS = ("cpu_thermal", "coretemp", "k10temp", "zenpower")
_SENSORS = 8
"""At most so many are read: a server's 64 cores would take a millisecond."""


def of_the_processor(kind: str) -> int | None:
    """Rank of a zone type as the processor's, 0 = most certain; None = it is another part's."""
    return next((rank for rank, pattern in enumerate(_ZONES) if pattern.search(kind)), None)


class Heat:
    """The hottest of the processor's sensors of one kind."""

    fields = ("temperature_c",)

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files
        self.where = ", ".join(files)
        self._thousandths: set[str] = set()
        """Sensors known to count thousandths."""

    def read(self, builder: ReadingBuilder) -> None:
        degrees = []
        for name, path in self.files.items():
            if (number := builder.number("temperature_c", path, name)) is None:
                continue
            if shows_thousandths(number):
                self._thousandths.add(name)
            try:
                value = celsius(number, name in self._thousandths)
            except ValueError as e:
                builder.problem("temperature_c", name, e)
                continue
            if (why := implausible("temperature_c", value)) is not None:
                builder.problem("temperature_c", name, why)
            else:
                degrees.append(value)
        if degrees:
            builder.put("temperature_c", max(degrees), self.where)


def find_heat(root: str) -> list[Heat] | str:
    """The processor's sensors by kind, best first: thermal zones, then hwmon chips; a text = the reason for none."""
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
