"""Figure of a sweep: accuracy against cost, one line per policy. matplotlib is imported when a figure is asked for."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgeexit.calibrate.sweep import Row, Static, Sweep
from edgeexit.common.measures import shown, shown_range
from edgeexit.report.plots.figure import open_frame, rendered
from edgeexit.report.text.words import (
    as_read,
    colour,
    dashed,
    data_line,
    environment_line,
    interval,
    lines,
    real_time,
    verdict_parts,
)

_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*", "h", "<", ">", "d")


def sweep_png(sweep: Sweep, *, width: int = 1200, height: int = 750) -> bytes:
    """Accuracy (or the error rate) against cost, one line per policy, static exits as black squares; the verdict is
    the title. Of sound that was timed there is a second panel, against the real-time factor.

    Equal sweeps give equal bytes with one version of matplotlib.

    Args:
        sweep: what to draw.
        width: pixels.
        height: pixels.

    Raises:
        BackendMissing: matplotlib is not installed.
    """

    def draw(figure: Any) -> None:
        timed = sweep.seconds is not None and sweep.audio_seconds is not None
        panels = ((0.07, 0.335, _COST), (0.475, 0.335, _REAL_TIME)) if timed else ((0.07, 0.72, _COST),)
        for left, wide, along in panels:
            axes = figure.add_axes((left, 0.155, wide, 0.71))
            _lines(axes, sweep, along)
            _statics(axes, sweep, along)
            _frame(axes, sweep, along)
        _print(figure, axes, sweep, width)

    return rendered(width, height, draw)


@dataclass(frozen=True)
class _Along:
    """What a panel's horizontal axis is."""

    title: str
    of: Callable[[Sweep, Row | Static], float | None]
    share: bool
    """Whether it is written in per cent."""


_COST = _Along("mean cost per input, relative to the last exit", lambda sweep, found: found.cost, True)
_REAL_TIME = _Along("real-time factor measured here", lambda sweep, found: real_time(sweep, found.seconds), False)


def _lines(axes: Any, sweep: Sweep, along: _Along) -> None:
    for i, policy in enumerate(lines(sweep)):
        rows = [r for r in sweep.rows if r.policy == policy and r.feasible]
        if not rows:
            continue
        hollow = dashed(sweep, policy)
        axes.plot(
            [along.of(sweep, r) for r in rows],
            [100 * (as_read(sweep, r.accuracy) or 0.0) for r in rows],
            color=colour(sweep, policy),
            linestyle="--" if hollow else "-",
            linewidth=1.6,
            marker=_MARKERS[i % len(_MARKERS)],
            markersize=4.5,
            markerfacecolor="white" if hollow else None,
            label=_short(policy),
            zorder=3,
        )
        if policy == sweep.verdict.policy:
            axes.fill_between(
                [along.of(sweep, r) for r in rows],
                [100 * (interval(sweep, r)[0] or 0.0) for r in rows],
                [100 * (interval(sweep, r)[1] or 0.0) for r in rows],
                color=colour(sweep, policy),
                alpha=0.13,
                linewidth=0,
                label="95 % interval",
            )


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"


def _statics(axes: Any, sweep: Sweep, along: _Along) -> None:
    cost = [along.of(sweep, s) for s in sweep.statics]
    share = [100 * shown(sweep.measure, s.accuracy) for s in sweep.statics]
    ends = [shown_range(sweep.measure, s.accuracy_low, s.accuracy_high) for s in sweep.statics]
    below = [max(at - 100 * low, 0.0) for at, (low, _) in zip(share, ends, strict=True)]
    above = [max(100 * high - at, 0.0) for at, (_, high) in zip(share, ends, strict=True)]
    axes.errorbar(
        cost,
        share,
        yerr=(below, above),
        fmt="s",
        color="black",
        markersize=7,
        capsize=3,
        linewidth=1,
        label="one exit alone (95 %)",
        zorder=5,
    )
    for s, x, (low, _) in zip(sweep.statics, cost, ends, strict=True):
        axes.annotate(
            f"exit {s.exit}" if along.share else f"{s.exit}",  # exits of nearly one time stand close
            (x, 100 * low),
            xytext=(0, -14),
            textcoords="offset points",
            ha="center",
            fontsize=10,
            weight="bold",
            zorder=6,
            bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8},
        )


def _frame(axes: Any, sweep: Sweep, along: _Along) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    rows = [r for r in sweep.rows if r.feasible]
    drawn: list[Row | Static] = [*rows, *sweep.statics]
    costs = [c for c in (along.of(sweep, row) for row in drawn) if c is not None]
    shares = [100 * v for v in (as_read(sweep, r.accuracy) for r in rows) if v is not None]
    shares += [100 * v for s in sweep.statics for v in interval(sweep, s) if v is not None]
    low, high = min(shares), max(shares)
    pad = max(0.08 * (high - low), 0.2)
    axes.set_ylim(max(0.0, low - pad), min(100 + pad / 2, high + pad))
    log = max(costs) / min(costs) > 6
    if log:
        axes.set_xscale("log")
        decades = (m * 10.0**e for e in range(-6, 1) for m in (1, 2, 5))
        axes.set_xticks([t for t in decades if min(costs) / 1.18 <= t <= max(costs) * 1.18])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(min(costs) / 1.18, max(costs) * 1.18)
    else:
        axes.set_xlim(0, max(costs) * 1.06)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g} %" if along.share else f"{v:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g} %"))
    scale = ", log scale" if log else ""
    axes.set_xlabel(f"{along.title} (held-out rows{scale})", fontsize=11)
    cut = "; the axis does not start at 0" if axes.get_ylim()[0] > 0 else ""
    axes.set_ylabel(f"{sweep.measure} (held-out rows{cut})", fontsize=11)
    open_frame(axes)


def _print(figure: Any, axes: Any, sweep: Sweep, width: int) -> None:
    headline, more = verdict_parts(sweep)
    title = textwrap.wrap(headline, max(30, width // 11), max_lines=3, placeholder=" ...")
    figure.text(0.02, 0.98, "\n".join(title), fontsize=12.5, weight="bold", va="top", ha="left")
    rest = textwrap.wrap(more, max(30, width // 8), max_lines=4 - len(title), placeholder=" ...")
    figure.text(0.02, 0.975 - 0.0285 * len(title), "\n".join(rest), fontsize=9.5, va="top", ha="left")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=10)
    small = [f"Data: {data_line(sweep)}.", f"Environment: {environment_line(sweep)}."]
    if sweep.data.get("static_cost_known") is False:
        small[0] += " Squares cost what their exit costs inside the adaptive network."
    lines = [w for text in small for w in textwrap.wrap(text, width // 7, max_lines=2, placeholder=" ...")]
    figure.text(0.02, 0.012, "\n".join(lines), fontsize=8.5, color="#444444", va="bottom", ha="left")
