"""Small still pictures of the page: budgets kept, and reliability per exit. SVG, no script."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

from edgeexit.report.words import colour, dashed
from edgeexit.sweep import Calibration, Sweep

_SIDE, _LEFT, _TOP, _BOTTOM = 220, 44, 22, 40
"""Of the square that is drawn in, and the room for ticks and titles."""


def budgets_svg(sweep: Sweep) -> str:
    """Mean cost on the held-out rows against the budget allowed on the design rows; the diagonal is a kept promise."""
    most = 1.05
    lines = [_line([(0, 0), (1, 1)], 1, "axis", most)]
    for policy in sweep.policies:
        if policy in ("fixed", "random"):
            continue
        points = [(r.budget, r.cost) for r in sweep.rows if r.policy == policy and r.cost is not None]
        dash = ' stroke-dasharray="5 3"' if dashed(policy) else ""
        line = f"{_line(points, 1.6, '', most)}<title>{escape(policy)}</title>"
        lines.append(f'<g stroke="{colour(sweep, policy)}"{dash}>{line}</g>')
    return _frame("budget allowed", "cost measured", "", lines, most)


def reliability_svg(found: Calibration) -> str:
    """Accuracy against confidence, bin by bin: before temperature as bars, after it as a line where it is used."""
    before, after = found.before, found.after
    width = float(before.edges[1] - before.edges[0])
    most = max(int(before.count.max()), 1)
    parts = []
    for low, right, count in zip(before.edges[:-1], before.bin_accuracy, before.count, strict=True):
        if count:
            x, y = _LEFT + _SIDE * float(low), _TOP + _SIDE * (1 - float(right))
            shade = 0.25 + 0.75 * math.sqrt(count / most)  # the eye goes to where the rows are
            parts.append(
                f'<rect class="bin" x="{x:.1f}" y="{y:.1f}" width="{_SIDE * width - 1:.1f}" '
                f'height="{_SIDE * float(right):.1f}" opacity="{shade:.2f}"><title>{count} rows</title></rect>'
            )
    parts.append(_line([(0, 0), (1, 1)], 1, "axis", 1))
    if found.temperature != 1:
        line = [(c, a) for c, a in zip(after.confidence, after.bin_accuracy, strict=True) if not math.isnan(c)]
        parts.append(f'<g class="after">{_line(line, 2, "", 1)}</g>')
    return _frame("confidence", "accuracy", f"exit {found.exit}", parts, 1)


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


def _line(points: Iterable[tuple[float, float]], width: float, name: str, most: float) -> str:
    at = " ".join(f"{_LEFT + _SIDE * x / most:.1f},{_TOP + _SIDE * (1 - y / most):.1f}" for x, y in points)
    return f'<polyline class="{name}" fill="none" stroke-width="{width}" points="{at}"/>'


def _frame(x: str, y: str, title: str, inside: Iterable[str], most: float) -> str:
    ticks = []
    for t in (0, 0.5, 1):
        place = t / most
        ticks.append(f'<text x="{_LEFT + _SIDE * place:.1f}" y="{_TOP + _SIDE + 14}" text-anchor="middle">{t:g}</text>')
        ticks.append(f'<text x="{_LEFT - 5}" y="{_TOP + _SIDE * (1 - place) + 4:.1f}" text-anchor="end">{t:g}</text>')
    middle = _LEFT + _SIDE / 2
    return (
        f'<svg class="small" viewBox="0 0 {_LEFT + _SIDE + 12} {_TOP + _SIDE + _BOTTOM}" role="img" '
        f'aria-label="{escape(f"{title} {y} against {x}".strip())}">'
        f'<text x="{middle}" y="14" text-anchor="middle" class="title">{escape(title)}</text>'
        f'<rect class="frame" x="{_LEFT}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}"/>'
        f"{''.join(inside)}{''.join(ticks)}"
        f'<text x="{middle}" y="{_TOP + _SIDE + 32}" text-anchor="middle">{escape(x)}</text>'
        f'<text transform="translate(11 {_TOP + _SIDE / 2}) rotate(-90)" text-anchor="middle">{escape(y)}</text></svg>'
    )
