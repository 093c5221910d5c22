"""Small square picture between two axes, as SVG text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from edgeexit.report.chart import Axis

_LEFT, _TOP, _RIGHT, _BOTTOM = 58, 22, 12, 40
"""Room for ticks and titles, in pixels."""


@dataclass(frozen=True)
class Panel:
    """A square between two axes."""

    x: Axis
    y: Axis
    side: int = 220
    """Pixels."""

    def spot(self, x: float, y: float) -> tuple[float, float]:
        """Pixels from the left and from the top."""
        return _LEFT + self.side * self.x.share(x), _TOP + self.side * (1 - self.y.share(y))

    def line(self, points: Iterable[tuple[float, float]], width: float, name: str = "") -> str:
        return f'<polyline class="{name}" fill="none" stroke-width="{width}" points="{self._at(points)}"/>'

    def area(self, points: Iterable[tuple[float, float]], name: str) -> str:
        return f'<polygon class="{name}" points="{self._at(points)}"/>'

    def box(self, x: tuple[float, float], y: tuple[float, float], inside: str = "", **attributes: str) -> str:
        """A rectangle from x[0] to x[1] and from y[0] up to y[1]; `class_` is its class."""
        (left, bottom), (right, top) = self.spot(x[0], y[0]), self.spot(x[1], y[1])
        given = "".join(f' {k.rstrip("_")}="{v}"' for k, v in attributes.items())
        place = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"'
        return f"<rect {place}{given}>{inside}</rect>"

    def svg(self, title: str, inside: Iterable[str]) -> str:
        """The whole picture, `inside` drawn over the frame."""
        ticks = []
        for t in self.x.ticks:
            x, y = self.spot(t, self.y.low)
            ticks.append(f'<text x="{x:.1f}" y="{y + 14:.1f}" text-anchor="middle">{self.x.text(t)}</text>')
        for t in self.y.ticks:
            x, y = self.spot(self.x.low, t)
            ticks.append(f'<text x="{x - 5:.1f}" y="{y + 4:.1f}" text-anchor="end">{self.y.text(t)}</text>')
        width, height = _LEFT + self.side + _RIGHT, _TOP + self.side + _BOTTOM
        middle = _LEFT + self.side / 2
        label = escape(f"{title} {self.y.title} against {self.x.title}".strip())
        return (
            f'<svg class="small" width="{width}" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
            f'<text x="{middle}" y="14" text-anchor="middle" class="title">{escape(title)}</text>'
            f'<rect class="frame" x="{_LEFT}" y="{_TOP}" width="{self.side}" height="{self.side}"/>'
            f"{''.join(inside)}{''.join(ticks)}"
            f'<text x="{middle}" y="{height - 8}" text-anchor="middle">{escape(self.x.title)}</text>'
            f'<text transform="translate(11 {_TOP + self.side / 2}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.y.title)}</text></svg>"
        )

    def _at(self, points: Iterable[tuple[float, float]]) -> str:
        return " ".join("{:.1f},{:.1f}".format(*self.spot(x, y)) for x, y in points)
