"""SVG of a chart and its legend. No script."""

from __future__ import annotations

from html import escape

from edgeexit.report.chart import Chart, Series
from edgeexit.report.html.svg import Panel

_SIDE = 300
_APART = 5
"""Pixels between the series' marks at one place, so that none hides another."""
_SHAPES = (
    "m-4,0a4,4 0 1 0 8,0a4,4 0 1 0 -8,0z",
    "m-4,-4h8v8h-8z",
    "m0,-5l5,5l-5,5l-5,-5z",
    "m0,-5l4.5,9h-9z",
    "m0,5l4.5,-9h-9z",
)
"""Circle, square, diamond, triangles: colour alone tells nothing apart."""


def chart_svg(chart: Chart) -> str:
    """The chart as a picture; marks below an axis are drawn on its edge."""
    panel = Panel(chart.x, chart.y, _SIDE)
    parts = []
    if chart.limit:
        low, high, top = chart.x.low, chart.x.high, chart.y.high
        parts = [panel.area([(low, low), (high, high), (high, top), (low, top)], "above")]
        parts.append(panel.line([(low, low), (high, high)], 1, "axis"))
    for i, series in enumerate(chart.series):
        shift = _APART * (i - (len(chart.series) - 1) / 2)
        spots = []
        for mark in series.marks:
            x, y = panel.spot(mark.x, mark.y)
            spots.append((x + shift, y))
            if mark.low is not None and mark.high is not None:
                lowest, highest = (panel.spot(mark.x, v)[1] for v in (mark.low, mark.high))
                line = f"M{x + shift:.1f},{highest:.1f}V{lowest:.1f}"
                parts.append(f'<path class="interval" d="{line}" stroke="{series.colour}"/>')
        if spots:
            at = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
            parts.append(f'<polyline fill="none" stroke-width="1.6" points="{at}" {_stroke(series)}/>')
        parts += [_mark(series, i, x, y, m.title) for (x, y), m in zip(spots, series.marks, strict=True)]
    return panel.svg(chart.title, parts)


def legend_html(chart: Chart) -> str:
    """A swatch and a name for each series."""
    entries = []
    for i, series in enumerate(chart.series):
        sample = f'<path d="M1,8H33" stroke-width="1.6" {_stroke(series)}/>{_mark(series, i, 17, 8, "")}'
        swatch = f'<svg width="34" height="16" aria-hidden="true">{sample}</svg>'
        entries.append(f"<label>{swatch}{escape(series.label)}</label>")
    return "".join(entries)


def _stroke(series: Series) -> str:
    dash = ' stroke-dasharray="5 3"' if series.dashed else ""
    return f'stroke="{series.colour}"{dash}'


def _mark(series: Series, i: int, x: float, y: float, title: str) -> str:
    fill = "var(--paper)" if series.dashed else series.colour
    text = f"<title>{escape(title)}</title>" if title else ""
    shape = f"M{x:.1f},{y:.1f}{_SHAPES[i % len(_SHAPES)]}"
    return f'<path class="mark" d="{shape}" stroke="{series.colour}" fill="{fill}">{text}</path>'
