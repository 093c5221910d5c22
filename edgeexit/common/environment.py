"""Environment of a measurement: device, system, versions, threads."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from edgeexit.version import __version__


def environment(engine: str | None = None, threads: int | None = None) -> dict[str, Any]:
    """Device, system and versions of a measurement; None = unknown or not used."""
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


def environment_line(measured_on: dict[str, Any]) -> str:
    """The environment as one line of text."""
    parts = [
        f"{measured_on['device'] or 'unknown device'}, {measured_on['cpus']} CPUs",
        measured_on["system"],
        f"Python {measured_on['python']}",
    ]
    parts.append(f"numpy {measured_on['numpy']}")
    if measured_on["engine"]:
        parts.append(measured_on["engine"])
    if measured_on["threads"]:
        parts.append(f"{measured_on['threads']} thread{'s' if measured_on['threads'] != 1 else ''}")
    return ", ".join([*parts, f"edgeexit {measured_on['edgeexit']}"])


def device() -> str | None:
    """The board or processor by name; None = unknown."""
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
