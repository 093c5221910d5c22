"""Clock, load, pressure and memory from the kernel's files."""

from __future__ import annotations

import contextlib
import os
import re
from typing import NamedTuple

from edgeexit.monitor.files import ReadingBuilder, decimal, listed, read, text, whole
from edgeexit.monitor.groups import Groups, Unreadable
from edgeexit.monitor.ranges import RANGES, outside, scaled
from edgeexit.monitor.reading import implausible

_CLOCKS = 8
_MAX_CPUS = 1 << 14
_PRESSURE = re.compile(r"^some avg10=([0-9]{1,9}\.[0-9]{1,9})(?:\s|$)", re.MULTILINE)
_PROCESSOR = re.compile(r"^processor\s*:", re.MULTILINE)


class FrequencyPolicy(NamedTuple):
    """The clock files of some cores."""

    name: str
    files: tuple[str, ...]
    """Paths of the clock now, preferred first; kHz."""
    highest: float
    """Hz."""


class Clock:
    """Highest current clock of the fastest cores over their maximum; idle cores clock down.

    Slower cores are used where none of the fastest answers.
    """

    fields = ("cpu_frequency_ratio",)

    def __init__(self, policies: list[FrequencyPolicy]) -> None:
        self.policies = policies
        """Fastest first."""
        fastest = [p.name for p in policies if p.highest == policies[0].highest]
        self.where = "cpufreq " + ", ".join(fastest)
        self.highest = policies[0].highest

    def read(self, builder: ReadingBuilder) -> None:
        ratios: list[float] = []
        for i, policy in enumerate(self.policies):
            if ratios and policy.highest < self.policies[i - 1].highest:
                break
            if (ratio := self._ratio(policy, builder)) is not None:
                ratios.append(ratio)
        if ratios:
            builder.put("cpu_frequency_ratio", max(ratios), self.where)

    def _ratio(self, policy: FrequencyPolicy, builder: ReadingBuilder) -> float | None:
        for path in policy.files:
            source = f"{policy.name} {os.path.basename(path)}"
            if (number := builder.number("cpu_frequency_ratio", path, source)) is None:
                continue
            ratio = number * RANGES["clock"].scale / policy.highest
            if (why := outside("cpu_frequency_ratio", ratio)) is None:
                return ratio
            highest = f"{policy.highest:.7g} Hz"
            builder.problem("cpu_frequency_ratio", source, f"{number} kHz of at most {highest}: a ratio of {why}")
        return None


def find_clock(root: str) -> Clock | str:
    base = os.path.join(root, "sys/devices/system/cpu/cpufreq")
    policies, wrong = [], []
    for name in (n for n in listed(base) if n.startswith("policy")):
        folder = os.path.join(base, name)
        for file in ("cpuinfo_max_freq", "scaling_max_freq"):
            try:
                highest = scaled("clock", whole(read(os.path.join(folder, file), 64)))
            except (OSError, ValueError) as e:
                if not isinstance(e, FileNotFoundError):
                    wrong.append(f"{name} {file}: {e}")
                continue
            now = (os.path.join(folder, f) for f in ("scaling_cur_freq", "cpuinfo_cur_freq"))
            policies.append(FrequencyPolicy(name, tuple(p for p in now if os.path.isfile(p)), highest))
            break
    if not policies and wrong:
        return f"no plausible highest clock: {wrong[0]}"
    if not policies:
        return "no cpufreq policy: the clock is fixed, or hidden by the host of this virtual machine"
    return Clock(sorted(policies, key=lambda p: -p.highest)[:_CLOCKS])


class UnderVoltage:
    """The firmware's alarm through the kernel's driver, which needs no `vcgencmd`."""

    fields = ("under_voltage",)

    def __init__(self, path: str) -> None:
        self.path, self.where = path, "hwmon rpi_volt"

    def read(self, builder: ReadingBuilder) -> None:
        alarm = builder.number("under_voltage", self.path, self.where)
        if alarm in (0, 1):
            builder.put("under_voltage", bool(alarm), self.where)
        elif alarm is not None:
            builder.problem("under_voltage", self.where, f"expected 0 or 1, found {alarm}")


def find_under_voltage(root: str) -> UnderVoltage | str:
    base = os.path.join(root, "sys/class/hwmon")
    for chip in listed(base):
        if text(os.path.join(base, chip, "name")) == "rpi_volt":
            return UnderVoltage(os.path.join(base, chip, "in0_lcrit_alarm"))
    return "no hwmon chip rpi_volt"


class Pressure:
    """Pressure stall information of one resource, the line `some`: at least one task waited."""

    def __init__(self, field: str, path: str, where: str) -> None:
        self.fields, self.path, self.where = (field,), path, where

    def read(self, builder: ReadingBuilder) -> None:
        try:
            match = _PRESSURE.search(content := read(self.path, 256))
            if match is None:
                raise ValueError(f"expected some avg10=..., found {content[:24]!r}")
            builder.put(self.fields[0], float(match[1]), self.where)
        except (OSError, ValueError) as e:
            builder.problem(self.fields[0], self.where, e)


def find_pressure(root: str, resource: str, groups: Groups) -> list[Pressure] | str:
    """The system's, then that of the outermost visible control group, in a container often the only one."""
    path = os.path.join(root, "proc/pressure", resource)
    field, why, sources = f"{resource}_pressure_avg10", f"no /proc/pressure/{resource}", []
    try:
        if read(path, 256):
            sources.append(Pressure(field, path, f"pressure {resource}"))
    except OSError as e:
        if not isinstance(e, FileNotFoundError):
            why = f"/proc/pressure/{resource}: {e.strerror}"
    if resource in groups.pressure:
        sources.append(Pressure(field, groups.pressure[resource], f"control group {resource}.pressure"))
    return sources or f"{why} (a Raspberry Pi's kernel needs psi=1 in cmdline.txt)"


class Share:
    """CPUs that may be used, and the load on each of them.

    The kernel counts the load of the whole machine: in a container it includes the neighbours'.
    """

    def __init__(self, root: str, cpus: int | None, groups: Groups) -> None:
        self.cpus, self.groups = cpus, groups
        self.load = os.path.join(root, "proc/loadavg")
        self.here = root == "/"
        limits = max((len(folders) for _, folders in groups.cpu), default=0)
        self.where = f"loadavg, {cpus} CPUs, {limits} control groups"
        self.fields: tuple[str, ...] = ("cpu_quota",) if cpus or groups.cpu else ()
        if cpus and (os.path.isfile(self.load) or (self.here and _system_load() is not None)):
            self.fields += ("load_per_cpu",)

    def read(self, builder: ReadingBuilder) -> None:
        try:
            quota = self.groups.quota("/".join(self.fields), builder)
        except Unreadable:
            return  # it may be the tightest limit
        limits = [n for n in (self.cpus, quota) if n is not None]
        if not limits:
            return
        usable = float(min(limits))
        builder.put("cpu_quota", usable, "control group")
        if "load_per_cpu" not in self.fields or "cpu_quota" not in builder.values:
            return
        try:
            builder.put("load_per_cpu", decimal(read(self.load, 128).partition(" ")[0]) / usable, "loadavg")
        except (OSError, ValueError) as e:
            builder.problem("load_per_cpu", "loadavg", e)
        if self.here and "load_per_cpu" not in builder.values and (load := _system_load()) is not None:
            builder.put("load_per_cpu", load / usable, "getloadavg")


def _system_load() -> float | None:
    """This machine's load from the C library, which on some systems needs no /proc."""
    with contextlib.suppress(OSError, AttributeError):
        return os.getloadavg()[0]
    return None


def find_cpus(root: str, builder: ReadingBuilder) -> int | None:
    """CPUs that are online and that this process may run on; None = unknown. Damaged files are problems."""
    allowed = online = None
    try:
        online = _cpu_list(read(os.path.join(root, "sys/devices/system/cpu/online")))
    except (OSError, ValueError) as e:
        _unless_missing(builder, "cpu/online", e)
    try:
        for line in read(os.path.join(root, "proc/self/status")).splitlines():
            if line.startswith("Cpus_allowed_list:"):
                allowed = _cpu_list(line.partition(":")[2])
    except (OSError, ValueError) as e:
        _unless_missing(builder, "self/status Cpus_allowed_list", e)
    if allowed is None and root == "/":
        with contextlib.suppress(OSError, AttributeError):
            allowed = os.sched_getaffinity(0)
    if allowed and online:
        return len(allowed & online) or None
    return len(allowed or online or ()) or _listed_cpus(root) or None


def _unless_missing(builder: ReadingBuilder, source: str, error: Exception) -> None:
    if not isinstance(error, FileNotFoundError):
        builder.problem("cpu_quota", source, error)


def _listed_cpus(root: str) -> int:
    """Lines of processors in /proc/cpuinfo, in its first 64 KiB."""
    with contextlib.suppress(OSError):
        return len(_PROCESSOR.findall(read(os.path.join(root, "proc/cpuinfo"), 1 << 16)))
    return 0


def _cpu_list(listing: str) -> set[int]:
    """CPU numbers of a text such as 0-3,8."""
    numbers: set[int] = set()
    for part in listing.strip().split(","):
        first, _, last = part.partition("-")
        low, high = whole(first), whole(last or first)
        if not 0 <= low <= high < _MAX_CPUS:
            raise ValueError(f"{part[:24]!r} is no range of CPUs")
        numbers.update(range(low, high + 1))
    return numbers


class MemoryReader:
    """Available memory: the system's, at most what is left below the control group's limit."""

    fields = ("available_bytes",)

    def __init__(self, root: str, groups: Groups) -> None:
        self.path, self.groups = os.path.join(root, "proc/meminfo"), groups
        self.here = root == "/"
        limits = max((len(folders) for _, folders in groups.memory), default=0)
        self.where = f"meminfo, {limits} control groups"

    def read(self, builder: ReadingBuilder) -> None:
        try:
            left = self.groups.headroom("available_bytes", builder)
        except Unreadable:
            return  # it may be the tightest limit
        system = self._system(builder)
        if system is not None:  # the group's limit may be far above the machine's memory
            builder.put("available_bytes", system if left is None else min(system, left), self.where)

    def _system(self, builder: ReadingBuilder) -> int | None:
        try:
            return _available(read(self.path), builder)
        except (OSError, ValueError) as e:
            builder.problem("available_bytes", "meminfo", e)
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if self.here and (pages := os.sysconf("SC_AVPHYS_PAGES")) > 0:
                return pages * os.sysconf("SC_PAGE_SIZE")
        return None


def _available(meminfo: str, builder: ReadingBuilder) -> int:
    """MemAvailable; where it is missing or implausible, computed from other lines as before kernel 3.14.

    Raises:
        ValueError: neither is there.
    """
    lines = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)

    def size(name: str) -> int:
        if name not in lines:
            raise ValueError(f"no {name}")
        try:
            number = whole(lines[name].strip().removesuffix("kB")) * 1024
        except ValueError as e:
            raise ValueError(f"{name}: {e}") from e
        if (why := implausible("available_bytes", number)) is not None:
            raise ValueError(f"{name}: {why}")
        return number

    try:
        available = size("MemAvailable")
        if "MemTotal" in lines and available > (total := size("MemTotal")):
            raise ValueError(f"MemAvailable: {available} bytes of {total} is implausible")
        return available
    except ValueError as e:
        try:
            free = size("MemFree")
            available = max(free, free + size("Buffers") + size("Cached") - size("Shmem"))
        except ValueError:
            raise e from None
        builder.problem("available_bytes", "meminfo", f"{e}; MemFree + Buffers + Cached - Shmem taken")
        return available
