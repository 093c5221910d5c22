"""Control groups, version 1 and 2: the CPU quota, the memory and the pressure of this process's group."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import TypeVar

from edgeexit.monitor.files import ReadingBuilder, read, whole
from edgeexit.monitor.ranges import outside

T = TypeVar("T", int, float)
_DEPTH = 16
_NO_LIMIT = 1 << 60
"""Version 1 writes a number near 2^63 where nothing is limited."""

Hierarchy = tuple[int, list[str]]
"""Version, and the folders of this process's group and those above it that have the controller's file."""


class Unreadable(Exception):
    """A limit exists and cannot be read; it might be the tightest. The problem is already listed."""


class Groups:
    """Control groups of this process, whose limits all hold; of two hierarchies the first readable one is used."""

    def __init__(self, base: str, cpu: list[Hierarchy], memory: list[Hierarchy], pressure: dict[str, str]) -> None:
        self.base, self.cpu, self.memory = base, cpu, memory
        self.pressure = pressure
        """Resource -> pressure file of the outermost visible group."""

    def quota(self, field: str, builder: ReadingBuilder) -> float | None:
        """The smallest quota in CPUs; None = none is set.

        Raises:
            Unreadable: one cannot be read.
        """
        return self._tightest(self.cpu, {1: _quota1, 2: _quota2}, field, builder)

    def headroom(self, field: str, builder: ReadingBuilder) -> int | None:
        """Bytes left below the tightest memory limit, page cache that can be freed included; None = no limit is set.

        Raises:
            Unreadable: one cannot be read.
        """
        return self._tightest(self.memory, {1: _headroom1, 2: _headroom2}, field, builder)

    def _tightest(
        self,
        hierarchies: list[Hierarchy],
        readers: dict[int, Callable[[str], T | None]],
        field: str,
        builder: ReadingBuilder,
    ) -> T | None:
        for version, folders in hierarchies:
            limits = []
            try:
                for folder in folders:
                    limits.append(readers[version](folder))
            except (OSError, ValueError) as e:
                group = os.path.relpath(folder, self.base)
                named = os.path.basename(e.filename) if isinstance(e, OSError) and e.filename else ""
                builder.problem(field, f"control group {group}" + (f" {named}" if named else ""), e)
                continue
            return min((limit for limit in limits if limit is not None), default=None)
        if hierarchies:
            raise Unreadable
        return None


def _number(folder: str, file: str) -> int:
    return _parsed(file, read(os.path.join(folder, file), 64))


def _parsed(file: str, content: str) -> int:
    try:
        return whole(content)
    except ValueError as e:
        raise ValueError(f"{file}: {e}") from e


def _quota2(folder: str) -> float | None:
    quota, _, period = read(os.path.join(folder, "cpu.max"), 64).strip().partition(" ")
    return None if quota == "max" else _share(_parsed("cpu.max", quota), _parsed("cpu.max", period), "cpu.max")


def _quota1(folder: str) -> float | None:
    quota = _number(folder, "cpu.cfs_quota_us")
    return None if quota == -1 else _share(quota, _number(folder, "cpu.cfs_period_us"), "cpu.cfs_quota_us")


def _share(quota: int, period: int, file: str) -> float:
    if quota <= 0 or period <= 0 or outside("cpu_quota", quota / period) is not None:
        raise ValueError(f"{file}: a quota of {quota} in {period} us is implausible")
    return quota / period


def _headroom2(folder: str) -> int | None:
    limit = read(os.path.join(folder, "memory.max"), 64).strip()
    return None if limit == "max" else _left(folder, "memory.max", limit, "memory.current", "inactive_file")


def _headroom1(folder: str) -> int | None:
    limit = read(os.path.join(folder, "memory.limit_in_bytes"), 64)
    if _parsed("memory.limit_in_bytes", limit) >= _NO_LIMIT:
        return None
    return _left(folder, "memory.limit_in_bytes", limit, "memory.usage_in_bytes", "total_inactive_file")


def _left(folder: str, file: str, content: str, used: str, cache: str) -> int:
    if (limit := _parsed(file, content)) < 0:
        raise ValueError(f"{file}: a limit of {limit} bytes is implausible")
    left = limit - _number(folder, used)
    for line in read(os.path.join(folder, "memory.stat"), 8192).splitlines():
        name, _, value = line.partition(" ")
        if name == cache:
            left += _parsed("memory.stat", value)
    return max(0, min(left, limit))


def find_groups(root: str) -> Groups:
    """This process's groups; empty lists where there are none, which is no limit."""
    paths: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in read(os.path.join(root, "proc/self/cgroup")).splitlines():
            _, controllers, path = line.split(":", 2)
            paths |= dict.fromkeys(controllers.split(","), path)
    base = os.path.join(root, "sys/fs/cgroup")
    hierarchies: list[list[Hierarchy]] = []
    for controller, first, second, mounts in (
        ("cpu", "cpu.cfs_quota_us", "cpu.max", ("cpu", "cpu,cpuacct")),
        ("memory", "memory.limit_in_bytes", "memory.max", ("memory",)),
    ):
        own, unified = paths.get(controller, "/"), paths.get("", "/")
        one = (_chain(os.path.join(base, mount), own, first) for mount in mounts)
        two = (_chain(mount, unified, second) for mount in (base, os.path.join(base, "unified")))
        chains = [(1, next(filter(None, one), [])), (2, next(filter(None, two), []))]
        hierarchies.append([h for h in chains if h[1]])
    pressure: dict[str, str] = {}
    for resource in ("cpu", "memory"):
        file = f"{resource}.pressure"
        for mount in (base, os.path.join(base, "unified")):
            if chain := _chain(mount, paths.get("", "/"), file):
                pressure.setdefault(resource, os.path.join(chain[-1], file))
    return Groups(base, hierarchies[0], hierarchies[1], pressure)


def _chain(mount: str, path: str, file: str) -> list[str]:
    """Folders from the group up to its mount that have this file. In a container the path may be the host's."""
    parts = [p for p in path.split("/") if p][:_DEPTH]
    if ".." in parts:
        parts = []
    folders = [os.path.join(mount, *parts[:n]) for n in range(len(parts), -1, -1)]
    return [f for f in folders if os.path.isfile(os.path.join(f, file))]
