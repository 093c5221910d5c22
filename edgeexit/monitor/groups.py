"""Control groups, version 1 and 2: the CPU quota and the memory that this process may take."""

from __future__ import annotations

import contextlib
import os

from edgeexit.monitor.files import read, whole

_DEPTH = 16
_NO_LIMIT = 1 << 60
"""Version 1 writes a number near 2^63 where nothing is limited."""


class Groups:
    """The folders of this process's group and those above it: each of their limits holds."""

    def __init__(self, cpu: list[str], cpu_version: int, memory: list[str], memory_version: int) -> None:
        self.cpu, self.cpu_version = cpu, cpu_version
        self.memory, self.memory_version = memory, memory_version

    def quota(self) -> float | None:
        """The smallest quota in CPUs; None = none is set.

        Raises:
            OSError, ValueError: one cannot be read: it might be the smallest.
        """
        found = [_quota2(f) if self.cpu_version == 2 else _quota1(f) for f in self.cpu]
        return min((q for q in found if q is not None), default=None)

    def headroom(self) -> int | None:
        """Bytes left below the tightest memory limit, page cache that can go included; None = no limit is set.

        Raises:
            OSError, ValueError: one cannot be read: it might be the tightest.
        """
        found = [_headroom2(f) if self.memory_version == 2 else _headroom1(f) for f in self.memory]
        return min((b for b in found if b is not None), default=None)


def _quota2(folder: str) -> float | None:
    quota, _, period = read(os.path.join(folder, "cpu.max"), 64).strip().partition(" ")
    return None if quota == "max" else _share(whole(quota), whole(period))


def _quota1(folder: str) -> float | None:
    quota = whole(read(os.path.join(folder, "cpu.cfs_quota_us"), 64))
    return None if quota == -1 else _share(quota, whole(read(os.path.join(folder, "cpu.cfs_period_us"), 64)))


def _share(quota: int, period: int) -> float:
    if quota <= 0 or period <= 0:
        raise ValueError(f"a quota of {quota} in {period} us cannot be")
    return quota / period


def _headroom2(folder: str) -> int | None:
    limit = read(os.path.join(folder, "memory.max"), 64).strip()
    return None if limit == "max" else _left(folder, whole(limit), "memory.current", "inactive_file")


def _headroom1(folder: str) -> int | None:
    limit = whole(read(os.path.join(folder, "memory.limit_in_bytes"), 64))
    return None if limit >= _NO_LIMIT else _left(folder, limit, "memory.usage_in_bytes", "total_inactive_file")


def _left(folder: str, limit: int, used: str, cache: str) -> int:
    left = limit - whole(read(os.path.join(folder, used), 64))
    for line in read(os.path.join(folder, "memory.stat"), 8192).splitlines():
        name, _, value = line.partition(" ")
        if name == cache:
            left += whole(value)
    if limit < 0:
        raise ValueError(f"a limit of {limit} bytes cannot be")
    return max(0, min(left, limit))


def find_groups(root: str) -> Groups:
    """This process's groups; empty lists where there are none, which is no limit."""
    paths: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in read(os.path.join(root, "proc/self/cgroup")).splitlines():
            _, controllers, path = line.split(":", 2)
            paths |= dict.fromkeys(controllers.split(","), path)
    base = os.path.join(root, "sys/fs/cgroup")
    found: list[tuple[list[str], int]] = []
    for controller, first, files in (
        ("cpu", "cpu.cfs_quota_us", ("cpu", "cpu,cpuacct")),
        ("memory", "memory.limit_in_bytes", ("memory",)),
    ):
        for mount in files:
            chain = _chain(os.path.join(base, mount), paths.get(controller, "/"), first)
            if chain:
                found.append((chain, 1))
                break
        else:
            second = "cpu.max" if controller == "cpu" else "memory.max"
            chain = _chain(base, paths.get("", "/"), second)
            found.append((chain or _chain(os.path.join(base, "unified"), paths.get("", "/"), second), 2))
    return Groups(*found[0], *found[1])


def _chain(mount: str, path: str, file: str) -> list[str]:
    """Folders from the group up to its mount that have this file. In a container the path may be the host's."""
    parts = [p for p in path.split("/") if p][:_DEPTH]
    if ".." in parts:
        parts = []
    folders = [os.path.join(mount, *parts[:n]) for n in range(len(parts), -1, -1)]
    return [f for f in folders if os.path.isfile(os.path.join(f, file))]
