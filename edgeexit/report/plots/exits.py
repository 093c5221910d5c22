"""Figure of a language model's exits: perplexity, and agreement with the last exit."""

from __future__ import annotations

import textwrap
from typing import Any

from edgeexit.common.environment import environment_line
from edgeexit.lm.tuning.tune import TuningResult
from edgeexit.report.plots.figure import open_frame, rendered


def exits_png(study: TuningResult, name: str, *, width: int = 1200, height: int = 560) -> bytes:
    """Left: perplexity by layers run. Right: agreement on text and on the model's own, and what speculation needs.

    Raises:
        BackendMissing: matplotlib is not installed.
    """

    def draw(figure: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        left, right = figure.add_axes((0.06, 0.17, 0.40, 0.66)), figure.add_axes((0.55, 0.17, 0.43, 0.66))
        layers = [e.quality.layer for e in study.exits]
        known = [(e.quality.layer, e.quality.perplexity) for e in study.exits if e.quality.perplexity is not None]
        left.plot([x for x, _ in known], [y for _, y in known], color="#1f77b4", marker="o", markersize=4)
        left.set_yscale("log")
        low, high = left.get_ylim()
        ticks = [m * 10**e for e in range(7) for m in (1, 1.5, 2, 3, 5, 7) if low <= m * 10**e <= high]
        if len(ticks) < 3:  # exits that are nearly alike
            ticks = [float(t) for t in MaxNLocator(5).tick_values(low, high) if low <= t <= high]
        left.set_yticks(ticks, [f"{t:g}" for t in ticks])  # the axis' own labels are formulas, which are not drawn here
        left.set_yticks([], minor=True)
        left.set_ylabel("perplexity per token")
        for label, values, colour, style in (
            ("agreement on the text", [e.quality.agreement for e in study.exits], "#1f77b4", "-"),
            ("agreement on its own answers", [e.own for e in study.exits], "#2ca02c", "-"),
            ("needed to be as fast as plain decoding", [e.needed for e in study.exits], "#d62728", "--"),
        ):
            points = [(x, 100 * y) for x, y in zip(layers, values, strict=True) if y is not None]
            xs, ys = [x for x, _ in points], [y for _, y in points]
            right.plot(xs, ys, color=colour, linestyle=style, marker="o", markersize=4, label=label)
        right.set_ylabel("% of tokens")
        right.set_ylim(0, 103)
        right.legend(loc="lower right")
        for axes in (left, right):
            axes.set_xlabel("layers run")
            open_frame(axes)
        title = textwrap.wrap(f"{name}, {study.costs.artifact}: {study.verdict.text}", 125)[:3]
        figure.text(0.06, 0.96, "\n".join(title), va="top", fontsize=11)
        tokens = study.exits[0].quality.tokens
        own = sum(t.n for t in study.traces)
        foot = f"text: {tokens} tokens; own answers: {own} tokens; {environment_line(study.environment)}"
        figure.text(0.06, 0.02, "\n".join(textwrap.wrap(foot, 150)[:2]), va="bottom", fontsize=8, color="#555555")

    return rendered(width, height, draw)
