"""All files of a report in one folder."""

from __future__ import annotations

import json
from pathlib import Path

from edgeexit.files import write_atomic
from edgeexit.report.html import sweep_html
from edgeexit.report.png import sweep_png
from edgeexit.report.table import sweep_csv, sweep_json
from edgeexit.sweep import Sweep


def write_report(sweep: Sweep, folder: Path | str) -> dict[str, Path]:
    """Write `sweep.csv`, `sweep.json`, `sweep.png` and `report.html`; equal sweeps give equal bytes.

    Nothing is written before all of them are made.

    Returns:
        Paths by kind: "csv", "json", "png", "html".

    Raises:
        BackendMissing: matplotlib is not installed.
        EdgeExitError: the folder cannot be written.
    """
    made: dict[str, tuple[str, str | bytes]] = {
        "csv": ("sweep.csv", sweep_csv(sweep)),
        "json": ("sweep.json", json.dumps(sweep_json(sweep), indent=1, allow_nan=False) + "\n"),
        "png": ("sweep.png", sweep_png(sweep)),
        "html": ("report.html", sweep_html(sweep)),
    }
    paths = {kind: Path(folder) / name for kind, (name, _) in made.items()}
    for kind, (_, content) in made.items():
        write_atomic(paths[kind], content)
    return paths
