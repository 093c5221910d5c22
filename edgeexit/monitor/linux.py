"""Readings on Linux, from /sys, /proc, control groups and a Raspberry Pi's firmware. Standard library only."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any, Literal

from edgeexit.monitor.background import Background, Sensor, ask_all
from edgeexit.monitor.files import Seen
from edgeexit.monitor.firmware import Vcgencmd, find_firmware, find_vcgencmd
from edgeexit.monitor.groups import find_groups
from edgeexit.monitor.heat import find_heat
from edgeexit.monitor.reading import Reading
from edgeexit.monitor.supplies import find_supplies
from edgeexit.monitor.system import (
    Clock,
    Memory,
    Share,
    find_clock,
    find_cpus,
    find_pressure,
    find_under_voltage,
)


class LinuxReader:
    """Reads this machine, or a recorded tree of its files.

    Where to look is found once, here; a reading then opens about ten small files. `vcgencmd` and the batteries can take
    long, so their last answers are given and new ones are asked for beside the readings; only the first ones are waited
    for, in the constructor.

    Args:
        root: the folder that holds `sys` and `proc`.
        vcgencmd: asks a Raspberry Pi's firmware; None = there is none; "auto" = the program of that name if it is
            on this system and `root` is "/": a recorded tree is never mixed with the machine it is read on.
        clock: seconds that only go forward. One that jumps back does no harm but to the readings' `at_seconds`.
        slow_seconds: how old the answers of slow sensors may become before they are asked again; 0 = ask them within
            every reading.

    Attributes:
        name: what this reader is, in words.
        sources: field -> where it comes from, and what else is asked where that fails.
        unknown: field -> why this machine cannot tell.
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
        """Look again for what is here, for instance after a battery was plugged in."""
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

        damaged = Seen()
        groups, clock = find_groups(self.root), find_clock(self.root)
        fast = keep(find_heat(self.root), "temperature_c")
        fast += keep(find_under_voltage(self.root))
        fast += keep(clock, "cpu_frequency_ratio")
        fast += keep(Share(self.root, find_cpus(self.root, damaged), groups))
        for resource in ("cpu", "memory"):
            fast += keep(find_pressure(self.root, resource, groups), f"{resource}_pressure_avg10")
        if self.root == "/" or os.path.isfile(os.path.join(self.root, "proc/meminfo")):
            fast += keep(Memory(self.root, groups))
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
        seen = Seen()
        ask_all(fast, seen)
        self._slow.prime(seen)

    def read(self) -> Reading:
        """What is so now; never raises. A sensor that fails is a problem, and None where no other one tells."""
        seen = Seen()
        seen.problems += self._damaged
        ask_all(self._fast, seen)
        self._slow.read(seen)
        at = self._now()
        if at is None:
            seen.problem("at_seconds", "clock", "gave no time")
        return seen.reading(at)

    def _now(self) -> float | None:
        try:
            at = float(self.clock())
        except Exception:  # the callable is anybody's
            return None
        return at if math.isfinite(at) else None


_DEFAULTS = {
    "load_per_cpu": "no /proc/loadavg, or the number of CPUs is not told",
    "cpu_quota": "the number of CPUs is not told and no control group limits them",
    "available_bytes": "no /proc/meminfo",
    "battery_percent": "the battery's driver does not say",
    "battery_joules": "the battery's driver does not say",
    "on_battery": "no battery and no supply that the system knows of",
}
