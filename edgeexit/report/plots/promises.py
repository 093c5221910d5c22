"""The promises as a figure. matplotlib is imported when a figure is asked for."""

from __future__ import annotations

import textwrap
from typing import Any

from edgeexit.calibrate.sweep import Promise, Sweep
from edgeexit.report.html.promise_diagrams import legend_name, limits, spaced_alphas
from edgeexit.report.html.svg import log_ticks
from edgeexit.report.plots.sweep import rendered
from edgeexit.report.text.promises import LOSS_COLOURS, promise_terms, series
from edgeexit.report.text.words import data_line

_MARKERS = ("o", "s", "D", "^", "v")


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
        for i, (label, points) in enumerate(series(sweep).items()):
            made = [p for p in points if p.loss is not None]
            _losses(losses, sweep, i, made)
            own = {**_line(i, points[0]), "label": legend_name(label, points)}
            costs.plot([p.alpha * _apart(sweep, i) for p in made], [p.cost for p in made], **own)
        _frames(losses, costs, sweep)
        figure.text(0.02, 0.97, "What is promised, and what was measured", fontsize=12.5, weight="bold", va="top")
        costs.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9.5)
        small = textwrap.wrap(f"{promise_terms(sweep)} Data: {data_line(sweep)}.", width // 7, max_lines=5)
        figure.text(0.02, 0.012, "\n".join(small), fontsize=8.5, color="#444444", va="bottom", ha="left")

    return rendered(width, height, draw)


def _losses(axes: Any, sweep: Sweep, i: int, points: list[Promise]) -> None:
    if not points:
        return
    floor = limits(sweep).floor
    measured = [(p.loss, p.loss_low, p.loss_high) for p in points]
    at = [p.alpha * _apart(sweep, i) for p in points]
    # Nothing below the floor has a place on a logarithmic axis; it is drawn on its edge.
    seen, low, high = ([max(v or 0.0, floor) for v in values] for values in zip(*measured, strict=True))
    axes.vlines(at, low, high, color=LOSS_COLOURS[points[0].what], linewidth=1, zorder=2)
    axes.plot(at, seen, clip_on=False, **_line(i, points[0]))


def _line(i: int, p: Promise) -> dict[str, Any]:
    hollow = p.method == "crc"
    return {
        "color": LOSS_COLOURS[p.what],
        "linestyle": "--" if hollow else "-",
        "linewidth": 1.5,
        "marker": _MARKERS[i % len(_MARKERS)],
        "markersize": 6,
        "markerfacecolor": "white" if hollow else None,
        "zorder": 3,
    }


def _apart(sweep: Sweep, i: int) -> float:
    """The guarantees' marks at one alpha stand side by side."""
    return float(1.05 ** (i - (len(series(sweep)) - 1) / 2))


def _frames(losses: Any, costs: Any, sweep: Sweep) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    ends = limits(sweep)
    low, high = ends.low, ends.high
    percent = FuncFormatter(lambda v, _: f"{100 * v:.4g} %")
    losses.fill_between([low, high], [low, high], [ends.top, ends.top], color="#D55E00", alpha=0.08, linewidth=0)
    losses.plot([low, high], [low, high], color="#888888", linestyle=":", linewidth=1)
    losses.set_yscale("log")
    losses.set_ylim(ends.floor, ends.top)
    losses.set_yticks(log_ticks(ends.floor, ends.top))
    losses.set_ylabel("loss measured on held-out rows (log scale, 95 %)", fontsize=10)
    losses.text(0.03, 0.97, "more than was promised", transform=losses.transAxes, va="top", fontsize=9, color="#A04000")
    costs.set_ylim(0, 1.05)
    costs.set_ylabel("mean cost, relative to the last exit", fontsize=10)
    for axes in (losses, costs):
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.set_xticks(spaced_alphas(sweep))
        axes.set_xlabel("alpha promised (log scale)", fontsize=10)
        axes.xaxis.set_major_formatter(percent)
        axes.yaxis.set_major_formatter(percent)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_formatter(NullFormatter())
            axis.set_minor_locator(NullLocator())
        axes.grid(True, which="major", color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
