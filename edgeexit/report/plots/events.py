"""Figure of an event log: temperature, budget, exits and latency over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeexit.report.plots.figure import rendered

_NOTES = 60
"""That are drawn: more could not be read."""
_EXITS = ("#2ca02c", "#98df8a", "#ffdd57", "#ff9f40", "#d62728", "#8c564b")


def events_png(
    events: Sequence[dict[str, Any]], title: str, foot: str, *, width: int = 1200, height: int = 1000
) -> bytes:
    """A PNG of four panels over seconds.

    Args:
        events: of `edgeexit.governor.event_files.read_events`.
        title, foot: text above and below.
        width, height: pixels.

    Raises:
        BackendMissing: matplotlib is not installed.
    """
    windows = [e for e in events if e["event"] == "window"]
    moves = [e for e in events if e["event"] == "move"]
    notes = [e for e in events if e["event"] == "note" and isinstance(e.get("text"), str)][:_NOTES]

    def draw(figure: Any) -> None:
        panels = figure.subplots(4, 1, sharex=True, gridspec_kw={"height_ratios": [1, 1, 1, 1.2]})
        figure.subplots_adjust(left=0.08, right=0.92, top=0.92, bottom=0.08, hspace=0.18)
        _machine(panels[0], [e for e in events if e["event"] in ("move", "reading")])
        _budget(panels[1], moves)
        _mix(panels[2], windows)
        _latency(panels[3], windows)
        for panel in panels:
            panel.grid(True, color="#e5e5e5", linewidth=0.6)
            for note in notes:
                panel.axvline(note["at"], color="#888888", linewidth=0.8, linestyle=":")
        for note in notes:
            panels[0].annotate(
                note["text"][:40], (note["at"], 1.0), xycoords=("data", "axes fraction"), fontsize=8, rotation=0,
                xytext=(2, 2), textcoords="offset points", color="#555555",
            )  # fmt: skip
        panels[-1].set_xlabel("seconds")
        figure.text(0.08, 0.975, title[:150], va="top", fontsize=11)
        figure.text(0.08, 0.015, foot[:180], va="bottom", fontsize=8, color="#555555")

    return rendered(width, height, draw)


def _series(events: Sequence[dict[str, Any]], *keys: str) -> tuple[list[float], list[float]]:
    """Times and values where there is one."""
    points = []
    for e in events:
        value: Any = e
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, int | float) and not isinstance(value, bool):
            points.append((float(e["at"]), float(value)))
    return [t for t, _ in points], [v for _, v in points]


def _machine(panel: Any, seen: Sequence[dict[str, Any]]) -> None:
    temperature = _series(seen, "reading", "temperature_c")
    lines = []
    if temperature[0]:
        lines += panel.plot(*temperature, color="#d62728", label="temperature, °C")
        panel.set_ylabel("°C")
    else:
        panel.set_yticks([])
    other = panel.twinx()
    for key, label, colour in (
        ("load_per_cpu", "load per CPU", "#1f77b4"),
        ("cpu_frequency_ratio", "frequency, of the highest", "#7f7f7f"),
    ):
        series = _series(seen, "reading", key)
        if series[0]:
            lines += other.plot(*series, color=colour, label=label)
    if lines:
        panel.legend(lines, [line.get_label() for line in lines], loc="upper left", fontsize=8, ncols=3)
    else:
        panel.text(0.5, 0.5, "no sensors here", transform=panel.transAxes, ha="center", color="#888888")


def _budget(panel: Any, moves: Sequence[dict[str, Any]]) -> None:
    for key, label, style in (("target", "target", ":"), ("budget", "budget", "-"), ("cost", "policy taken", "--")):
        panel.plot(*_series(moves, key), linestyle=style, label=label)
    panel.set_ylim(0, 1.05)
    panel.set_ylabel("share of the full cost")
    if moves:
        panel.legend(loc="lower left", fontsize=8, ncols=3)
    else:
        panel.text(0.5, 0.5, "no governor", transform=panel.transAxes, ha="center", color="#888888")


def _mix(panel: Any, windows: Sequence[dict[str, Any]]) -> None:
    rows = [(w["at"], w["exits"]) for w in windows if isinstance(w.get("exits"), list) and sum(w["exits"])]
    if not rows:
        return
    shares = np.zeros((max(len(e) for _, e in rows), len(rows)))
    for i, (_, e) in enumerate(rows):  # a log that was added to may be of two models
        shares[: len(e), i] = np.array(e) / sum(e)
    colours = [_EXITS[i % len(_EXITS)] for i in range(len(shares))]
    labels = [f"exit {k}" for k in range(len(shares))]
    panel.stackplot([t for t, _ in rows], shares, colors=colours, labels=labels, step="post")
    panel.set_ylim(0, 1)
    panel.set_ylabel("exit mix")
    panel.legend(loc="lower left", fontsize=8, ncols=6)


def _latency(panel: Any, windows: Sequence[dict[str, Any]]) -> None:
    lines = []
    for key, label, colour in (("p50_s", "p50", "#1f77b4"), ("p90_s", "p90", "#ff7f0e")):
        times, values = _series(windows, key)
        lines += panel.plot(times, [1000 * v for v in values], color=colour, label=f"latency {label}, ms")
    panel.set_ylabel("ms")
    panel.set_ylim(bottom=0)
    accuracy = _series(windows, "accuracy")
    if accuracy[0]:
        other = panel.twinx()
        lines += other.plot(*accuracy, color="#2ca02c", linewidth=0.9, label="accuracy")
        other.set_ylim(0, 1.02)
    panel.legend(lines, [line.get_label() for line in lines], loc="lower left", fontsize=8, ncols=3)
