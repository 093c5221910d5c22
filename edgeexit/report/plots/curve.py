"""Figure of accuracy against cost: lines and single points."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgeexit.report.plots.figure import open_frame, rendered

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")


@dataclass(frozen=True)
class PlottedCurve:
    """A line, or with `marker` single points."""

    label: str
    points: Sequence[tuple[float, float]]
    """(cost as a fraction, accuracy as a fraction)."""
    marker: str | None = None
    """Of matplotlib; None = a line."""
    dashed: bool = False


def curve_png(
    curves: Sequence[PlottedCurve],
    title: str,
    foot: str,
    measure: str = "accuracy",
    *,
    width: int = 1200,
    height: int = 750,
) -> bytes:
    """A PNG; equal curves give equal bytes with one version of matplotlib.

    Args:
        curves: drawn in their order.
        title, foot: text above and below.
        measure: name of the vertical axis.
        width, height: pixels.

    Raises:
        BackendMissing: matplotlib is not installed.
    """

    def draw(figure: Any) -> None:
        axes = figure.add_axes((0.08, 0.15, 0.88, 0.70))
        for i, curve in enumerate(curves):
            costs, rights = [100 * c for c, _ in curve.points], [100 * a for _, a in curve.points]
            style: dict[str, Any] = {"color": _COLOURS[i % len(_COLOURS)], "label": curve.label, "zorder": 3}
            if curve.marker is None:
                axes.plot(costs, rights, linestyle="--" if curve.dashed else "-", linewidth=1.6, **style)
            else:
                axes.plot(costs, rights, linestyle="", marker=curve.marker, markersize=9, **style)
        axes.set_xlabel("mean multiply-accumulates per input, % of the untouched network's")
        axes.set_ylabel(f"{measure}, %")
        axes.legend(loc="lower right", frameon=True)
        open_frame(axes)
        figure.text(0.08, 0.97, "\n".join(textwrap.wrap(title, 125)[:4]), va="top", fontsize=11)
        figure.text(0.08, 0.015, "\n".join(textwrap.wrap(foot, 150)[:2]), va="bottom", fontsize=8, color="#555555")

    return rendered(width, height, draw)
