"""Readings on macOS and Windows through psutil, and the choice of a reader."""

from __future__ import annotations

import importlib
import math
import sys
import time
from collections.abc import Callable
from typing import Any

from edgeexit.errors import BackendMissing
from edgeexit.monitor.background import ask_all
from edgeexit.monitor.files import Seen
from edgeexit.monitor.firmware import said_by
from edgeexit.monitor.heat import of_the_processor
from edgeexit.monitor.linux import LinuxReader
from edgeexit.monitor.reading import SIGNALS, Reading, implausible

_WINDOWS_LOAD_SECONDS = 5.0
"""On Windows psutil counts the load itself, and says 0 until it has begun."""
_CHIPS = ("coretemp", "k10temp", "zenpower")


class PsutilReader:
    """What psutil knows of a development host: load, memory, and where the system tells, clock, heat and battery.

    Meant for macOS and Windows; on Linux `LinuxReader` knows more (pressure, quota, throttling, power).

    Args:
        clock: seconds that only go forward.
        psutil: the module; None = import it.

    Raises:
        BackendMissing: psutil is not installed.
    """

    name = "psutil"

    def __init__(self, clock: Callable[[], float] = time.monotonic, psutil: Any = None) -> None:
        if psutil is None:
            try:
                psutil = importlib.import_module("psutil")
            except ImportError as e:
                raise BackendMissing(
                    f"the monitor needs psutil on {sys.platform}: pip install 'edgeexit[monitor]'"
                ) from e
        self.psutil, self.clock = psutil, clock
        self._born = time.monotonic()
        self._sensors = [
            _Asked(("temperature_c",), "sensors_temperatures", _temperature, psutil),
            _Asked(("cpu_frequency_ratio",), "cpu_freq", _clock, psutil),
            _Asked(("load_per_cpu", "cpu_quota"), "getloadavg", self._load, psutil),
            _Asked(("available_bytes",), "virtual_memory", _memory, psutil),
            _Asked(("battery_percent", "on_battery"), "sensors_battery", _battery, psutil),
        ]
        seen = Seen()
        ask_all(self._sensors, seen)
        self.sources = {f: f"psutil.{s.call}" for s in self._sensors for f in s.fields if f in seen.values}
        if hasattr(psutil, "getloadavg"):  # may begin later
            self.sources.setdefault("load_per_cpu", "psutil.getloadavg")
        self.unknown = {f: f"psutil does not tell on {sys.platform}" for f in SIGNALS if f not in self.sources}

    def read(self) -> Reading:
        """What is so now; never raises."""
        seen = Seen()
        ask_all(self._sensors, seen)
        try:
            at = float(self.clock())
        except Exception:  # the callable is anybody's
            at = math.nan
        if not math.isfinite(at):
            seen.problem("at_seconds", "clock", "gave no time")
        return seen.reading(at if math.isfinite(at) else None)

    def _load(self, psutil: Any, seen: Seen) -> None:
        allowed = None
        try:
            process: Any = psutil.Process()
            allowed = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else None
        except Exception as e:  # psutil's own classes, and the system's
            seen.problem("cpu_quota", "cpu_affinity", said_by(e))
        allowed = allowed or psutil.cpu_count()
        if not allowed:
            return
        seen.put("cpu_quota", float(allowed), "psutil")
        load = psutil.getloadavg()[0]
        if sys.platform != "win32" or time.monotonic() - self._born > _WINDOWS_LOAD_SECONDS:
            seen.put("load_per_cpu", load / allowed, "getloadavg")


class _Asked:
    """One function of psutil; not every system's psutil has it."""

    def __init__(self, fields: tuple[str, ...], call: str, ask: Callable[[Any, Seen], None], psutil: Any) -> None:
        self.fields, self.call, self.ask, self.psutil = fields, call, ask, psutil
        self.where = f"psutil.{call}"

    def read(self, seen: Seen) -> None:
        if hasattr(self.psutil, self.call):
            self.ask(self.psutil, seen)


def _temperature(psutil: Any, seen: Seen) -> None:
    """The first chip of a processor with a sensor that does not lie."""
    chips = psutil.sensors_temperatures() or {}
    for name, sensors in chips.items():
        if "temperature_c" in seen.values or not (name in _CHIPS or of_the_processor(name) is not None):
            continue
        degrees = []
        for sensor in sensors:
            if sensor.current is None:
                continue
            if (why := implausible("temperature_c", sensor.current)) is not None:
                seen.problem("temperature_c", name, why)
            else:
                degrees.append(float(sensor.current))
        if degrees:
            seen.put("temperature_c", max(degrees), name)


def _clock(psutil: Any, seen: Seen) -> None:
    clock = psutil.cpu_freq()
    if clock is not None and clock.max:  # 0.0 = unknown, as in virtual machines
        seen.put("cpu_frequency_ratio", clock.current / clock.max, "cpu_freq")


def _memory(psutil: Any, seen: Seen) -> None:
    memory = psutil.virtual_memory()
    seen.put("available_bytes", int(memory.available), "virtual_memory available")
    if "available_bytes" not in seen.values and hasattr(memory, "free"):
        seen.put("available_bytes", int(memory.free), "virtual_memory free")


def _battery(psutil: Any, seen: Seen) -> None:
    battery = psutil.sensors_battery()
    if battery is not None:
        seen.put("battery_percent", float(battery.percent), "sensors_battery")
        if battery.power_plugged is not None:
            seen.put("on_battery", not battery.power_plugged, "sensors_battery")


def default_reader() -> LinuxReader | PsutilReader:
    """The reader for this system; its `name` says which, `sources` and `unknown` what it can tell.

    Raises:
        BackendMissing: not Linux, and psutil is not installed.
    """
    return LinuxReader() if sys.platform.startswith(("linux", "android")) else PsutilReader()
