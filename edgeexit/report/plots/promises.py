"""Figure of the promises. matplotlib is imported when a figure is asked for."""

from __future__ import annotations

import textwrap
from typing import Any

from edgeexit.calibrate.sweep import Sweep
from edgeexit.report.plots.figure import draw_chart, rendered
from edgeexit.report.promise_charts import cost_chart, loss_chart
from edgeexit.report.text.promises import promise_terms
from edgeexit.report.text.words import data_line


def promises_png(sweep: Sweep, *, width: int = 1200, height: int = 640) -> bytes:
    """Measured against promised loss with 95 % intervals, and the cost of each promise beside it.

    Equal sweeps give equal bytes with one version of matplotlib.

    Args:
        sweep: with at least one promise, refused or not.
        width: pixels.
        height: pixels.

    Raises:
        BackendMissing: matplotlib is not installed.
    """

    def draw(figure: Any) -> None:
        losses = figure.add_axes((0.07, 0.23, 0.305, 0.66))
        costs = figure.add_axes((0.45, 0.23, 0.305, 0.66))
        draw_chart(losses, loss_chart(sweep))
        draw_chart(costs, cost_chart(sweep))
        above = {"transform": losses.transAxes, "va": "top", "fontsize": 9, "color": "#A04000"}
        losses.text(0.03, 0.97, "more than was promised", **above)
        figure.text(0.02, 0.97, "What is promised, and what was measured", fontsize=12.5, weight="bold", va="top")
        costs.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9.5)
        small = textwrap.wrap(f"{promise_terms(sweep)} Data: {data_line(sweep)}.", width // 7, max_lines=5)
        figure.text(0.02, 0.012, "\n".join(small), fontsize=8.5, color="#444444", va="bottom", ha="left")

    return rendered(width, height, draw)
