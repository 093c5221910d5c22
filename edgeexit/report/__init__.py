"""A sweep as a terminal table, CSV, JSON, a figure and one interactive page.

Every form begins with the verdict and carries the static baselines. matplotlib is needed for the figure only.
"""

from edgeexit.report.html import sweep_html
from edgeexit.report.png import sweep_png
from edgeexit.report.table import sweep_csv, sweep_json, sweep_text
from edgeexit.report.write import write_report

__all__ = ["sweep_csv", "sweep_html", "sweep_json", "sweep_png", "sweep_text", "write_report"]
