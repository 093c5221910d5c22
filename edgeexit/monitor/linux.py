"""Readings on Linux, from /sys, /proc, control groups and a Raspberry Pi's firmware. Standard library only."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any, Literal

from edgeexit.monitor.background import Background, Sensor, ask_all
from edgeexit.monitor.files import ReadingBuilder
from edgeexit.monitor.firmware import Vcgencmd, find_firmware, find_vcgencmd
from edgeexit.monitor.groups import find_groups
from edgeexit.monitor.heat import find_heat
from edgeexit.monitor.reading import Reading
from edgeexit.monitor.supplies import find_supplies
from edgeexit.monitor.system import (
    Clock,
    MemoryReader,
    Share,
    find_clock,
    find_cpus,
    find_pressure,
    find_under_voltage,
)


class LinuxReader:
    """Reads this machine, or a recorded tree of its files.

    The constructor looks for the sensors; a reading then opens about ten small files. `vcgencmd` and batteries can be
    slow, so a reading uses their last answers while a thread gets new ones; the constructor waits for the first.

    Args:
        root: the folder that holds `sys` and `proc`.
        vcgencmd: asks a Raspberry Pi's firmware; None = there is none; "auto" = the program of that name if it is
            on this system and `root` is "/": a recorded tree is never mixed with the machine it is read on.
        clock: seconds that only go forward. One that jumps back affects the readings' `at_seconds` only.
        slow_seconds: age of a slow sensor's answer after which it is asked again; 0 = ask within every reading.

    Attributes:
        name: of this reader, for people.
        sources: field -> its source, and those used where it fails.
        unknown: field -> why it is unknown on this machine.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] = "/",
        vcgencmd: Vcgencmd | Literal["auto"] | None = "auto",
        clock: Callable[[], float] = time.monotonic,
        slow_seconds: float = 2.0,
    ) -> None:
        self.root = os.fspath(root)
        self.clock = clock
        here = self.root == "/"
        self.name = "Linux (/proc, /sys)" if here else f"recorded Linux tree {self.root}"
        self._ask = (find_vcgencmd() if here else None) if vcgencmd == "auto" else vcgencmd
        self._slow_seconds = max(0.0, slow_seconds)
        self.sources: dict[str, str] = {}
        self.unknown: dict[str, str] = {}
        self.discover()

    def discover(self) -> None:
        """Look for sensors again, e.g. after a battery was plugged in."""
        sources: dict[str, list[str]] = {}
        unknown: dict[str, str] = {}

        def keep(candidates: list[Any] | Sensor | str, *wanted: str) -> list[Sensor]:
            if isinstance(candidates, str):
                for field in wanted:
                    unknown.setdefault(field, candidates)
                return []
            sensors: list[Sensor] = candidates if isinstance(candidates, list) else [candidates]
            sensors = [s for s in sensors if s.fields]
            for sensor in sensors:
                for field in sensor.fields:
                    sources.setdefault(field, []).append(sensor.where)
            return sensors

        damaged = ReadingBuilder()
        groups, clock = find_groups(self.root), find_clock(self.root)
        fast = keep(find_heat(self.root), "temperature_c")
        fast += keep(find_under_voltage(self.root))
        fast += keep(clock, "cpu_frequency_ratio")
        fast += keep(Share(self.root, find_cpus(self.root, damaged), groups))
        for resource in ("cpu", "memory"):
            fast += keep(find_pressure(self.root, resource, groups), f"{resource}_pressure_avg10")
        if self.root == "/" or os.path.isfile(os.path.join(self.root, "proc/meminfo")):
            fast += keep(MemoryReader(self.root, groups))
        highest = clock.highest if isinstance(clock, Clock) else None
        firmware, mute = find_firmware(self.root, self._ask, sources, highest)
        slow = keep(firmware)
        slow += keep(find_supplies(self.root), "battery_percent", "on_battery", "battery_joules")
        unknown = _DEFAULTS | mute | unknown
        self.sources = {field: "; else ".join(dict.fromkeys(where)) for field, where in sources.items()}
        self.unknown = {field: why for field, why in unknown.items() if field not in sources}
        self._damaged = damaged.problems
        self._fast = fast
        self._slow = Background(slow, self._slow_seconds, self._now)
        builder = ReadingBuilder()
        ask_all(fast, builder)
        self._slow.prime(builder)

    def read(self) -> Reading:
        """Current values; never raises. A sensor that fails is a problem, and its field None without another source."""
        builder = ReadingBuilder()
        builder.problems += self._damaged
        ask_all(self._fast, builder)
        self._slow.read(builder)
        at = self._now()
        if at is None:
            builder.problem("at_seconds", "clock", "returned no time")
        return builder.reading(at)

    def _now(self) -> float | None:
        try:
            at = float(self.clock())
        except Exception:  # the callable is the user's
            return None
        return at if math.isfinite(at) else None


_DEFAULTS = {
    "load_per_cpu": "no /proc/loadavg, or the number of CPUs is unknown",
    "cpu_quota": "the number of CPUs is unknown and no control group limits them",
    "available_bytes": "no /proc/meminfo",
    "battery_percent": "the battery's driver does not say",
    "battery_joules": "the battery's driver does not say",
    "on_battery": "no battery and no supply in /sys/class/power_supply",
}
