"""The packages of `examples/extending` without pip: their entry-point metadata on the path, and programs with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def write_metadata(package: Path, site: Path) -> None:
    """Write the metadata of a package's pyproject.toml into a folder of the path, as pip would.

    Python 3.10 has no reader of TOML; the test is skipped there.
    """
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    info.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    info.joinpath("entry_points.txt").write_text("\n".join(lines))


def run_with(package: Path, folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with the package and the metadata in the folder's `site` on the path."""
    path = os.pathsep.join([str(package), str(folder / "site"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
