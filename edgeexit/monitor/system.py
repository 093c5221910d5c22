"""Clock, load, pressure and memory: what the kernel says about the processor and those who share it."""

from __future__ import annotations

import contextlib
import os
import re

from edgeexit.monitor.files import Seen, decimal, listed, read, text, whole
from edgeexit.monitor.groups import Groups
from edgeexit.monitor.reading import implausible

_CLOCKS = 8
_MAX_CPUS = 1 << 14
_PRESSURE = re.compile(r"some avg10=([0-9]{1,9}\.[0-9]{1,9}) ")


class Clock:
    """The clock of the fastest cores over their highest, the fastest of them counts: cores that idle clock down."""

    fields = ("cpu_frequency_ratio",)

    def __init__(self, files: dict[str, tuple[str, int]]) -> None:
        self.files = files
        """Policy -> file of the clock now, highest clock; both in kHz."""
        self.where = "cpufreq " + ", ".join(files)

    def read(self, seen: Seen) -> None:
        ratios = []
        for name, (path, highest) in self.files.items():
            if (found := seen.number("cpu_frequency_ratio", path, name)) is not None:
                ratios.append(found / highest)
        if ratios:
            seen.put("cpu_frequency_ratio", max(ratios), self.where)


def find_clock(root: str) -> Clock | str:
    base = os.path.join(root, "sys/devices/system/cpu/cpufreq")
    highest: dict[str, int] = {}
    for policy in listed(base):
        for file in ("cpuinfo_max_freq", "scaling_max_freq"):
            try:
                if policy.startswith("policy") and (found := whole(read(os.path.join(base, policy, file), 64))) > 0:
                    highest[policy] = found
                    break
            except (OSError, ValueError):
                continue
    fastest = [p for p, khz in highest.items() if khz == max(highest.values())][:_CLOCKS]
    if not fastest:
        return "no cpufreq policy: the clock is fixed, or the host of this virtual machine keeps it to itself"
    return Clock({p: (os.path.join(base, p, "scaling_cur_freq"), highest[p]) for p in fastest})


class UnderVoltage:
    """The kernel's driver of the firmware's alarm, which costs no `vcgencmd`."""

    fields = ("under_voltage",)

    def __init__(self, path: str) -> None:
        self.path, self.where = path, "hwmon rpi_volt"

    def read(self, seen: Seen) -> None:
        found = seen.number("under_voltage", self.path, self.where)
        if found in (0, 1):
            seen.put("under_voltage", bool(found), self.where)
        elif found is not None:
            seen.problem("under_voltage", self.where, f"expected 0 or 1, found {found}")


def find_under_voltage(root: str) -> UnderVoltage | str:
    base = os.path.join(root, "sys/class/hwmon")
    for chip in listed(base):
        if text(os.path.join(base, chip, "name")) == "rpi_volt":
            return UnderVoltage(os.path.join(base, chip, "in0_lcrit_alarm"))
    return "no hwmon chip rpi_volt"


class Pressure:
    """Stall information of one resource; the first line counts tasks of which some waited."""

    def __init__(self, field: str, path: str) -> None:
        self.fields, self.path = (field,), path
        self.where = "pressure " + os.path.basename(path)

    def read(self, seen: Seen) -> None:
        try:
            found = _PRESSURE.match(said := read(self.path, 256))
            if found is None:
                raise ValueError(f"expected some avg10=..., found {said[:24]!r}")
            seen.put(self.fields[0], float(found[1]), self.where)
        except (OSError, ValueError) as e:
            seen.problem(self.fields[0], self.where, e)


def find_pressure(root: str, resource: str) -> Pressure | str:
    path = os.path.join(root, "proc/pressure", resource)
    try:
        if read(path, 256):
            return Pressure(f"{resource}_pressure_avg10", path)
    except OSError as e:
        if not isinstance(e, FileNotFoundError):
            return f"/proc/pressure/{resource}: {e.strerror} (a Raspberry Pi's kernel needs psi=1 in cmdline.txt)"
    return f"no /proc/pressure/{resource} (a Raspberry Pi's kernel needs psi=1 in cmdline.txt)"


class Share:
    """CPUs that may be used, and the load on each of them.

    The kernel counts the load of the whole machine: in a container it includes the neighbours'.
    """

    def __init__(self, root: str, cpus: int | None, groups: Groups) -> None:
        self.cpus, self.groups = cpus, groups
        self.load = os.path.join(root, "proc/loadavg")
        self.where = f"loadavg, {cpus} CPUs, {len(groups.cpu)} control groups"
        self.fields: tuple[str, ...] = ("cpu_quota",) if cpus or groups.cpu else ()
        if cpus and os.path.isfile(self.load):
            self.fields += ("load_per_cpu",)

    def read(self, seen: Seen) -> None:
        limits = [n for n in (self.cpus, self.groups.quota()) if n is not None]
        if not limits:
            return
        usable = float(min(limits))
        seen.put("cpu_quota", usable, "control group")
        if "load_per_cpu" in self.fields and "cpu_quota" in seen.values:
            try:
                seen.put("load_per_cpu", decimal(read(self.load, 128).partition(" ")[0]) / usable, "loadavg")
            except (OSError, ValueError) as e:
                seen.problem("load_per_cpu", "loadavg", e)


def find_cpus(root: str) -> int | None:
    """CPUs that are online and that this process may run on; None = neither is told."""
    allowed = online = None
    with contextlib.suppress(OSError, ValueError):
        online = _cpu_list(read(os.path.join(root, "sys/devices/system/cpu/online")))
    with contextlib.suppress(OSError, ValueError):
        for line in read(os.path.join(root, "proc/self/status")).splitlines():
            if line.startswith("Cpus_allowed_list:"):
                allowed = _cpu_list(line.partition(":")[2])
    if allowed is None or online is None:
        return len(allowed or online or ()) or None
    return len(allowed & online) or None


def _cpu_list(said: str) -> set[int]:
    """CPU numbers of a text such as 0-3,8."""
    found: set[int] = set()
    for part in said.strip().split(","):
        first, _, last = part.partition("-")
        low, high = whole(first), whole(last or first)
        if not 0 <= low <= high < _MAX_CPUS:
            raise ValueError(f"{part[:24]!r} is no range of CPUs")
        found.update(range(low, high + 1))
    return found


class Memory:
    """Memory that can be had: the system's, and what is left below the control group's limit."""

    fields = ("available_bytes",)

    def __init__(self, root: str, groups: Groups) -> None:
        self.path, self.groups = os.path.join(root, "proc/meminfo"), groups
        self.where = f"meminfo, {len(groups.memory)} control groups"

    def read(self, seen: Seen) -> None:
        left = self.groups.headroom()
        try:
            system = _available(read(self.path))
        except (OSError, ValueError) as e:
            seen.problem("available_bytes", "meminfo", e)
            return  # the group's room alone may be far more than there is
        if (why := implausible("available_bytes", system)) is not None:
            seen.problem("available_bytes", "meminfo", why)
            return
        seen.put("available_bytes", system if left is None else min(system, left), self.where)


def _available(said: str) -> int:
    for line in said.splitlines():
        if line.startswith("MemAvailable:"):
            return whole(line.partition(":")[2].strip().removesuffix("kB")) * 1024
    raise ValueError("no MemAvailable")
