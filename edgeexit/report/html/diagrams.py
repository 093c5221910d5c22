"""SVG of budgets kept, and of reliability per exit. No script."""

from __future__ import annotations

import math
from html import escape

from edgeexit.calibrate.sweep import Calibration, Sweep
from edgeexit.report.chart import UNIT, Axis
from edgeexit.report.html.svg import Panel
from edgeexit.report.text.words import colour, dashed, lines


def budgets_svg(sweep: Sweep) -> str:
    """Mean cost on the held-out rows against the budget allowed on the design rows; the diagonal is a kept promise."""
    panel = Panel(Axis("budget allowed", 0, 1.05, UNIT), Axis("cost measured", 0, 1.05, UNIT))
    drawn = [panel.line([(0, 0), (1, 1)], 1, "axis")]
    for policy in lines(sweep, controls=False):
        points = [(r.budget, r.cost) for r in sweep.rows if r.policy == policy and r.cost is not None]
        dash = ' stroke-dasharray="5 3"' if dashed(sweep, policy) else ""
        line = f"{panel.line(points, 1.6)}<title>{escape(policy)}</title>"
        drawn.append(f'<g stroke="{colour(sweep, policy)}"{dash}>{line}</g>')
    return panel.svg("", drawn)


def reliability_svg(calibration: Calibration) -> str:
    """Accuracy against confidence, bin by bin: before temperature as bars, after it as a line where it is used."""
    panel = Panel(Axis("confidence", 0, 1, UNIT), Axis("accuracy", 0, 1, UNIT))
    before, after = calibration.before, calibration.after
    most = max(int(before.count.max()), 1)
    gap = 1 / panel.side
    parts = []
    for low, high, right, count in zip(
        before.edges[:-1], before.edges[1:], before.bin_accuracy, before.count, strict=True
    ):
        if count:
            shade = 0.25 + 0.75 * math.sqrt(count / most)  # the eye goes to where the rows are
            span, title = (float(low), float(high) - gap), f"<title>{count} rows</title>"
            parts.append(panel.box(span, (0.0, float(right)), title, class_="bin", opacity=f"{shade:.2f}"))
    parts.append(panel.line([(0, 0), (1, 1)], 1, "axis"))
    if calibration.temperature != 1:
        line = [(c, a) for c, a in zip(after.confidence, after.bin_accuracy, strict=True) if not math.isnan(c)]
        parts.append(f'<g class="after">{panel.line(line, 2)}</g>')
    return panel.svg(f"exit {calibration.exit}", parts)
