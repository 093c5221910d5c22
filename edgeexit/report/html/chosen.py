"""SVG of the verdict's policy at every budget: exit rates, and accuracy expected and measured."""

from __future__ import annotations

from html import escape
from itertools import pairwise

from edgeexit.calibrate.sweep import Row, Sweep
from edgeexit.report.chart import UNIT, Axis, nice_ticks
from edgeexit.report.html.svg import Panel
from edgeexit.report.text.words import as_read, colour, interval

_FIRST, _LAST = (0xD3, 0xE5, 0xF3), (0x0B, 0x4A, 0x86)
"""Colours of the first and the last exit; those between are mixed."""
_SIDE = 300
_BUDGET = "budget allowed"


def chosen_rows(sweep: Sweep) -> list[Row]:
    """The feasible rows of the verdict's policy, budgets growing; empty where no policy was compared."""
    return [r for r in sweep.rows if r.policy == sweep.verdict.policy and r.feasible]


def exit_rates_svg(sweep: Sweep) -> str:
    """A stacked bar of exit rates on the held-out rows for every budget; it reaches up to the next budget."""
    rows = chosen_rows(sweep)
    panel = Panel(Axis(_BUDGET, 0, 1.05, UNIT), Axis("share of inputs", 0, 1, UNIT), _SIDE)
    starts = [r.budget for r in rows]
    gaps = [b - a for a, b in pairwise(starts)] or [0.05]
    ends = [*starts[1:], min(starts[-1] + gaps[-1], 1.05)]
    exits = len(sweep.statics)
    bars, names = [], []
    for k in range(exits):
        bands = []
        for row, start, end in zip(rows, starts, ends, strict=True):
            rates = row.exit_rates or ()
            low = min(sum(rates[:k]), 1.0)
            high = min(low + rates[k], 1.0)
            if high > low:
                title = f"<title>exit {k}: {100 * rates[k]:.1f} % at a budget of {100 * start:.1f} %</title>"
                bars.append(panel.box((start, end), (low, high), title, fill=_shade(k, exits)))
                bands.append(((start + end) / 2, (low + high) / 2, (end - start) * (high - low), high - low))
        if weight := sum(area for _, _, area, _ in bands):
            # The name stands in the middle of the exit's inputs, if its band is thick enough there.
            middle = sum(x * area for x, _, area, _ in bands) / weight
            x, y, _, thick = min(bands, key=lambda band: abs(band[0] - middle))
            if thick > 0.06:
                left, top = panel.spot(x, y)
                names.append(
                    f'<text class="halo" x="{left:.1f}" y="{top + 4:.1f}" text-anchor="middle">exit {k}</text>'
                )
    return panel.svg("exit rates", [*bars, *names])


def expected_svg(sweep: Sweep) -> str:
    """Accuracy against budget: what the design rows promised as dashes, what the held-out rows gave as a line."""
    rows = chosen_rows(sweep)
    values = [v for r in rows for v in (as_read(sweep, r.design_accuracy), *interval(sweep, r)) if v is not None]
    pad = max(0.05 * (max(values) - min(values)), 0.002)
    low, high = max(0.0, min(values) - pad), min(1.0, max(values) + pad)
    y = Axis(sweep.measure, low, high, nice_ticks(low, high), percent=True)
    panel = Panel(Axis(_BUDGET, 0, 1.05, UNIT), y, _SIDE)
    at = {
        name: [(r.budget, as_read(sweep, getattr(r, name)) or 0.0) for r in rows]
        for name in ("design_accuracy", "accuracy", "accuracy_low", "accuracy_high")
    }
    own = escape(colour(sweep, sweep.verdict.policy or ""))
    return panel.svg(
        f"{sweep.measure} expected and measured",
        [
            f'<g fill="{own}" opacity="0.15">{panel.area(at["accuracy_low"] + at["accuracy_high"][::-1], "")}</g>',
            f'<g stroke="{own}">{panel.line(at["accuracy"], 2, "measured")}</g>',
            f'<g stroke="{own}" stroke-dasharray="5 4">{panel.line(at["design_accuracy"], 1.4, "expected")}</g>',
        ],
    )


def _shade(k: int, exits: int) -> str:
    mix = (round(a + (b - a) * k / max(exits - 1, 1)) for a, b in zip(_FIRST, _LAST, strict=True))
    return "#{:02x}{:02x}{:02x}".format(*mix)
