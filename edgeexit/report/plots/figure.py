"""PNG of a matplotlib figure, and the frame and charts that figures share."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

from edgeexit.errors import BackendMissing
from edgeexit.report.chart import Axis, Chart, Series

_MARKERS = ("o", "s", "D", "^", "v")


def rendered(width: int, height: int, draw: Callable[[Any], None]) -> bytes:
    """The PNG of a matplotlib figure that `draw` fills; the same bytes whatever the user's settings.

    Raises:
        BackendMissing: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib import style
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise BackendMissing("a figure needs matplotlib: pip install 'edgeexit[plots]'") from e
    # The user's own matplotlibrc must not change the bytes; names may hold "$" and letters the font lacks.
    with matplotlib.rc_context(), style.context("default"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        matplotlib.rcParams["text.parse_math"] = False
        figure = Figure(figsize=(width / 100, height / 100), dpi=100)
        FigureCanvasAgg(figure)
        draw(figure)
        out = io.BytesIO()
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def open_frame(axes: Any) -> None:
    """A pale grid behind the lines, and no frame above and to the right."""
    axes.grid(True, which="major", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def draw_chart(axes: Any, chart: Chart) -> None:
    """A chart on matplotlib axes; marks below a logarithmic axis are drawn on its edge."""
    for i, series in enumerate(chart.series):
        apart = float(1.05 ** (i - (len(chart.series) - 1) / 2))
        at = [mark.x * apart for mark in series.marks]
        axes.plot(at, [_on(chart.y, m.y) for m in series.marks], clip_on=False, label=series.label, **_style(series, i))
        for x, mark in zip(at, series.marks, strict=True):
            if mark.low is not None and mark.high is not None:
                low, high = _on(chart.y, mark.low), _on(chart.y, mark.high)
                axes.vlines([x], low, high, color=series.colour, linewidth=1, zorder=2)
    if chart.limit:
        ends = [chart.x.low, chart.x.high]
        axes.fill_between(ends, ends, [chart.y.high] * 2, color="#D55E00", alpha=0.08, linewidth=0)
        axes.plot(ends, ends, color="#888888", linestyle=":", linewidth=1)
    _scale(axes, axes.xaxis, chart.x, axes.set_xscale, axes.set_xlim, axes.set_xlabel)
    _scale(axes, axes.yaxis, chart.y, axes.set_yscale, axes.set_ylim, axes.set_ylabel)
    open_frame(axes)


def _on(axis: Axis, value: float) -> float:
    return max(value, axis.low) if axis.log else value


def _style(series: Series, i: int) -> dict[str, Any]:
    return {
        "color": series.colour,
        "linestyle": "--" if series.dashed else "-",
        "linewidth": 1.5,
        "marker": _MARKERS[i % len(_MARKERS)],
        "markersize": 6,
        "markerfacecolor": "white" if series.dashed else None,
        "zorder": 3,
    }


def _scale(axes: Any, side: Any, axis: Axis, set_scale: Any, set_limits: Any, set_label: Any) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    set_scale("log" if axis.log else "linear")
    set_limits(axis.low, axis.high)
    side.set_ticks(axis.ticks)
    side.set_major_formatter(FuncFormatter(lambda v, _: axis.text(v)))
    side.set_minor_formatter(NullFormatter())
    side.set_minor_locator(NullLocator())
    set_label(f"{axis.title} (log scale)" if axis.log else axis.title, fontsize=10)
