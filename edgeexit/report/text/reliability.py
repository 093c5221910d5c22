"""Table of every exit's calibration error, Brier score and likelihood."""

from __future__ import annotations

from edgeexit.calibrate.sweep import Sweep


def reliability_rows(sweep: Sweep) -> list[list[str]]:
    """Head and one row per exit."""
    head = ["exit", "ECE", "Brier", "NLL", "temperature", "ECE after", "Brier after", "NLL after", ""]
    rows = [
        [str(c.exit), *_figures(c.before.ece, c.before.brier, c.before.nll), f"{c.temperature:.3f}"]
        + (_figures(c.after.ece, c.after.brier, c.after.nll) if c.skipped is None else [""] * 3)
        + [c.skipped or ""]
        for c in sweep.calibration
    ]
    return [head, *rows]


def _figures(*values: float) -> list[str]:
    return [f"{v:.4f}" for v in values]
