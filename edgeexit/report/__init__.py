"""Reports of a sweep: terminal table, CSV, JSON, figures and one interactive page.

Every form begins with the verdict and carries the static baselines; promises have a CSV and a figure of their own.
matplotlib is needed for the figures only.
"""

from edgeexit.report.html.page import sweep_html
from edgeexit.report.plots.promises import promises_png
from edgeexit.report.plots.sweep import sweep_png
from edgeexit.report.text.promises import promises_csv
from edgeexit.report.text.table import sweep_csv, sweep_json, sweep_text
from edgeexit.report.write import write_report

__all__ = [
    "promises_csv",
    "promises_png",
    "sweep_csv",
    "sweep_html",
    "sweep_json",
    "sweep_png",
    "sweep_text",
    "write_report",
]
