"""The line that every table of numbers stands under: device, system, versions, threads."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from edgeexit.version import __version__


def environment(engine: str | None = None, threads: int | None = None) -> dict[str, Any]:
    """What the numbers were measured with; None = unknown or not used."""
    return {
        "device": device(),
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "edgeexit": __version__,
        "engine": engine,
        "threads": threads,
    }


def environment_line(found: dict[str, Any]) -> str:
    """The environment as one line of text."""
    parts = [
        f"{found['device'] or 'unknown device'}, {found['cpus']} CPUs",
        found["system"],
        f"Python {found['python']}",
    ]
    parts.append(f"numpy {found['numpy']}")
    if found["engine"]:
        parts.append(found["engine"])
    if found["threads"]:
        parts.append(f"{found['threads']} thread{'s' if found['threads'] != 1 else ''}")
    return ", ".join([*parts, f"edgeexit {found['edgeexit']}"])


def device() -> str | None:
    """The board or processor by name; None = the system does not say."""
    try:
        return Path("/proc/device-tree/model").read_text().strip("\0 \n")  # Raspberry Pi and other boards
    except OSError:
        pass
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or None
