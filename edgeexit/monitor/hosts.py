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
from edgeexit.monitor.files import ReadingBuilder
from edgeexit.monitor.firmware import error_text
from edgeexit.monitor.heat import of_the_processor
from edgeexit.monitor.linux import LinuxReader
from edgeexit.monitor.reading import SIGNALS, Reading, implausible

_WINDOWS_LOAD_SECONDS = 5.0
"""On Windows psutil averages the load itself and reports 0 at first."""
_CHIPS = ("coretemp", "k10temp", "zenpower")


class PsutilReader:
    """Readings of a development host through psutil: load, memory and, where available, clock, temperature, battery.

    For macOS and Windows; on Linux `LinuxReader` provides more (pressure, quota, throttling, power).

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
            _PsutilCall(("temperature_c",), "sensors_temperatures", _temperature, psutil),
            _PsutilCall(("cpu_frequency_ratio",), "cpu_freq", _clock, psutil),
            _PsutilCall(("load_per_cpu", "cpu_quota"), "getloadavg", self._load, psutil),
            _PsutilCall(("available_bytes",), "virtual_memory", _memory, psutil),
            _PsutilCall(("battery_percent", "on_battery"), "sensors_battery", _battery, psutil),
        ]
        builder = ReadingBuilder()
        ask_all(self._sensors, builder)
        self.sources = {f: f"psutil.{s.call}" for s in self._sensors for f in s.fields if f in builder.values}
        if hasattr(psutil, "getloadavg"):  # its values may start later
            self.sources.setdefault("load_per_cpu", "psutil.getloadavg")
        self.unknown = {f: f"psutil does not report it on {sys.platform}" for f in SIGNALS if f not in self.sources}

    def read(self) -> Reading:
        """Current values; never raises."""
        builder = ReadingBuilder()
        ask_all(self._sensors, builder)
        try:
            at = float(self.clock())
        except Exception:  # the callable is the user's
            at = math.nan
        if not math.isfinite(at):
            builder.problem("at_seconds", "clock", "returned no time")
        return builder.reading(at if math.isfinite(at) else None)

    def _load(self, psutil: Any, builder: ReadingBuilder) -> None:
        allowed = None
        try:
            process: Any = psutil.Process()
            allowed = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else None
        except Exception as e:  # psutil's own classes, and the system's
            builder.problem("cpu_quota", "cpu_affinity", error_text(e))
        allowed = allowed or psutil.cpu_count()
        if not allowed:
            return
        builder.put("cpu_quota", float(allowed), "psutil")
        load = psutil.getloadavg()[0]
        if sys.platform != "win32" or time.monotonic() - self._born > _WINDOWS_LOAD_SECONDS:
            builder.put("load_per_cpu", load / allowed, "getloadavg")


class _PsutilCall:
    """One function of psutil, which some systems lack."""

    def __init__(
        self, fields: tuple[str, ...], call: str, ask: Callable[[Any, ReadingBuilder], None], psutil: Any
    ) -> None:
        self.fields, self.call, self.ask, self.psutil = fields, call, ask, psutil
        self.where = f"psutil.{call}"

    def read(self, builder: ReadingBuilder) -> None:
        if hasattr(self.psutil, self.call):
            self.ask(self.psutil, builder)


def _temperature(psutil: Any, builder: ReadingBuilder) -> None:
    """Temperature of the first processor chip with a plausible sensor."""
    chips = psutil.sensors_temperatures() or {}
    for name, sensors in chips.items():
        if "temperature_c" in builder.values or not (name in _CHIPS or of_the_processor(name) is not None):
            continue
        degrees = []
        for sensor in sensors:
            if sensor.current is None:
                continue
            if (why := implausible("temperature_c", sensor.current)) is not None:
                builder.problem("temperature_c", name, why)
            else:
                degrees.append(float(sensor.current))
        if degrees:
            builder.put("temperature_c", max(degrees), name)


def _clock(psutil: Any, builder: ReadingBuilder) -> None:
    clock = psutil.cpu_freq()
    if clock is not None and clock.max:  # 0.0 = unknown, as in virtual machines
        builder.put("cpu_frequency_ratio", clock.current / clock.max, "cpu_freq")


def _memory(psutil: Any, builder: ReadingBuilder) -> None:
    memory = psutil.virtual_memory()
    builder.put("available_bytes", int(memory.available), "virtual_memory available")
    if "available_bytes" not in builder.values and hasattr(memory, "free"):
        builder.put("available_bytes", int(memory.free), "virtual_memory free")


def _battery(psutil: Any, builder: ReadingBuilder) -> None:
    battery = psutil.sensors_battery()
    if battery is not None:
        builder.put("battery_percent", float(battery.percent), "sensors_battery")
        if battery.power_plugged is not None:
            builder.put("on_battery", not battery.power_plugged, "sensors_battery")


def default_reader() -> LinuxReader | PsutilReader:
    """The reader for this system; see its `name`, `sources` and `unknown`.

    Raises:
        BackendMissing: not Linux, and psutil is not installed.
    """
    return LinuxReader() if sys.platform.startswith(("linux", "android")) else PsutilReader()
