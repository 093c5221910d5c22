"""Still pictures of the promises: measured against promised loss, and what keeping it costs. No script."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from edgeexit.calibrate.sweep import Promise, Sweep
from edgeexit.report.html.svg import UNIT, Axis, Panel, log_ticks
from edgeexit.report.text.promises import LOSS_COLOURS, series, status

_SIDE = 300
_APART = 5
"""Pixels between the guarantees' marks at one alpha, so that none hides another."""


@dataclass(frozen=True)
class Limits:
    """Ends of the figures' axes."""

    low: float
    high: float
    """Least and largest alpha with some room."""
    floor: float
    """The least loss that the logarithmic axis tells from 0."""
    top: float
    """Room for every measured loss."""


def limits(sweep: Sweep) -> Limits:
    """Of a sweep with at least one promise."""
    alphas = [p.alpha for p in sweep.promises]
    low, high = min(alphas) / 1.5, min(max(alphas) * 1.5, 1.0)
    losses = [p.loss_high for p in sweep.promises if p.loss_high is not None]
    return Limits(low, high, min(alphas) / 10, max([high, *(1.1 * v for v in losses)]))


def spaced_alphas(sweep: Sweep) -> tuple[float, ...]:
    """The alphas as ticks, without those that would run into the one before."""
    ends = limits(sweep)
    axis = Axis("", ends.low, ends.high, (), log=True)
    found: list[float] = []
    for alpha in sorted({p.alpha for p in sweep.promises}):
        if not found or axis.share(alpha) - axis.share(found[-1]) > 0.11:
            found.append(alpha)
    return tuple(found)


def promises_svg(sweep: Sweep) -> str:
    """Loss on the held-out rows against alpha, both logarithmic; above the diagonal is more than was promised."""
    ends = limits(sweep)
    low, high, top = ends.low, ends.high, ends.top
    loss = Axis("loss measured", ends.floor, top, log_ticks(ends.floor, top), log=True, percent=True)
    panel = Panel(_alpha_axis(sweep), loss, _SIDE)
    above = panel.area([(low, low), (high, high), (high, top), (low, top)], "above")
    parts = [above, panel.line([(low, low), (high, high)], 1, "axis")]
    for i, points in enumerate(series(sweep).values()):
        spots = []
        for p in points:
            if p.loss is not None and p.loss_low is not None and p.loss_high is not None:
                x = panel.spot(p.alpha, p.loss)[0] + _shift(sweep, i)
                lowest, middle, highest = (panel.spot(p.alpha, v)[1] for v in (p.loss_low, p.loss, p.loss_high))
                spots.append((p, x, middle))
                line = f"M{x:.1f},{highest:.1f}V{lowest:.1f}"
                parts.append(f'<path class="interval" d="{line}" stroke="{LOSS_COLOURS[p.what]}"/>')
        parts.append(_joined(i, spots))
    return panel.svg("promised and measured", parts)


def promise_costs_svg(sweep: Sweep) -> str:
    """Mean cost on the held-out rows against alpha."""
    panel = Panel(_alpha_axis(sweep), Axis("cost measured", 0, 1.05, UNIT), _SIDE)
    parts = []
    for i, points in enumerate(series(sweep).values()):
        spots = [(p, *panel.spot(p.alpha, p.cost)) for p in points if p.cost is not None]
        parts.append(_joined(i, [(p, x + _shift(sweep, i), y) for p, x, y in spots]))
    return panel.svg("what it costs", parts)


def legend_name(label: str, points: list[Promise]) -> str:
    """A guarantee that has no marks says why."""
    return label if any(p.loss is not None for p in points) else f"{label} (refused)"


def promise_legend(sweep: Sweep) -> str:
    """A swatch and a name for each guarantee, in HTML."""
    entries = []
    for i, (label, points) in enumerate(series(sweep).items()):
        sample = f'<path d="M1,8H33" stroke-width="1.6" {_stroke(points[0])}/>{_mark(points[0], i, 17, 8)}'
        name = escape(legend_name(label, points))
        entries.append(f'<label><svg width="34" height="16" aria-hidden="true">{sample}</svg>{name}</label>')
    return "".join(entries)


def _alpha_axis(sweep: Sweep) -> Axis:
    ends = limits(sweep)
    return Axis("alpha promised", ends.low, ends.high, spaced_alphas(sweep), log=True, percent=True)


def _shift(sweep: Sweep, i: int) -> float:
    return _APART * (i - (len(series(sweep)) - 1) / 2)


def _joined(i: int, spots: list[tuple[Promise, float, float]]) -> str:
    """One guarantee's marks and the line through them; nothing where all was refused."""
    if not spots:
        return ""
    at = " ".join(f"{x:.1f},{y:.1f}" for _, x, y in spots)
    line = f'<polyline fill="none" stroke-width="1.6" points="{at}" {_stroke(spots[0][0])}/>'
    return line + "".join(_mark(p, i, x, y) for p, x, y in spots)


def _stroke(p: Promise) -> str:
    dash = ' stroke-dasharray="5 3"' if p.method == "crc" else ""
    return f'stroke="{LOSS_COLOURS[p.what]}"{dash}'


def _mark(p: Promise, i: int, x: float, y: float) -> str:
    """Circle, square, diamond or a triangle, hollow for crc: colour alone tells nothing apart."""
    shapes = (
        "m-4,0a4,4 0 1 0 8,0a4,4 0 1 0 -8,0z",
        "m-4,-4h8v8h-8z",
        "m0,-5l5,5l-5,5l-5,-5z",
        "m0,-5l4.5,9h-9z",
        "m0,5l4.5,-9h-9z",
    )
    colour = LOSS_COLOURS[p.what]
    fill = "var(--paper)" if p.method == "crc" else colour
    measured = "refused" if p.loss is None else f"measured {100 * p.loss:.2f} %"
    title = escape(f"{p.label}: alpha {100 * p.alpha:.3g} %, {measured}, {status(p)}")
    shape = f"M{x:.1f},{y:.1f}{shapes[i % len(shapes)]}"
    return f'<path class="mark" d="{shape}" stroke="{colour}" fill="{fill}"><title>{title}</title></path>'
