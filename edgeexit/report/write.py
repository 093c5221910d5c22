"""Writer of a report: all its files in one folder."""

from __future__ import annotations

import json
from pathlib import Path

from edgeexit.calibrate.sweep import Sweep
from edgeexit.common.files import write_atomic
from edgeexit.report.html.page import sweep_html
from edgeexit.report.plots.promises import promises_png
from edgeexit.report.plots.sweep import sweep_png
from edgeexit.report.text.promises import promises_csv
from edgeexit.report.text.table import sweep_csv, sweep_json


def write_report(sweep: Sweep, folder: Path | str) -> dict[str, Path]:
    """Write `sweep.csv`, `sweep.json`, `sweep.png` and `report.html`, and of a sweep with promises `promises.csv`
    and `promises.png` too; equal sweeps give equal bytes.

    Nothing is written before all of them are made. Of an older report in the folder nothing is left.

    Returns:
        Paths by kind: "csv", "json", "png", "html", "promises_csv", "promises_png".

    Raises:
        BackendMissing: matplotlib is not installed.
        EdgeExitError: the folder cannot be written.
    """
    contents: dict[str, tuple[str, str | bytes]] = {
        "csv": ("sweep.csv", sweep_csv(sweep)),
        "json": ("sweep.json", json.dumps(sweep_json(sweep), indent=1, allow_nan=False) + "\n"),
        "png": ("sweep.png", sweep_png(sweep)),
        "html": ("report.html", sweep_html(sweep)),
    }
    if sweep.promises:
        contents["promises_csv"] = ("promises.csv", promises_csv(sweep))
        contents["promises_png"] = ("promises.png", promises_png(sweep))
    paths = {kind: Path(folder) / name for kind, (name, _) in contents.items()}
    for kind, (_, content) in contents.items():
        write_atomic(paths[kind], content)
    if not sweep.promises:  # an older report's would pass for this one's
        for name in ("promises.csv", "promises.png"):
            (Path(folder) / name).unlink(missing_ok=True)
    return paths
