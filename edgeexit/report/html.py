"""A sweep as one page that needs nothing but a browser: no network, no other file."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from html import escape
from importlib.resources import files

from edgeexit.report.diagrams import budgets_svg, reliability_rows, reliability_svg
from edgeexit.report.table import sweep_json
from edgeexit.report.words import colour, dashed, data_line, environment_line, terms, verdict_line
from edgeexit.sweep import Row, Sweep

_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def sweep_html(sweep: Sweep) -> str:
    """The page: verdict, plot, details of a chosen point, and all rows as a table that needs no script."""
    template = files("edgeexit.report").joinpath("template.html").read_text(encoding="utf-8")
    script = _SCRIPT.search(template)
    assert script is not None
    digest = hashlib.sha256(script[1].encode()).digest()
    data = sweep_json(sweep)
    data["lines"] = [
        {"policy": p, "colour": colour(sweep, p), "dashed": dashed(p)} for p in sweep.policies if p != "fixed"
    ]
    parts = {
        "hash": base64.b64encode(digest).decode(),
        "verdict": escape(verdict_line(sweep)),
        "environment": escape(environment_line(sweep)),
        "origin": escape(data_line(sweep)),
        "terms": escape(terms(sweep)),
        "measure": escape(sweep.measure),
        "statics": _statics(sweep),
        "rows": _rows(sweep),
        "budgets": budgets_svg(sweep),
        "reliability": _reliability(sweep),
        "data": _embedded(data),
    }
    # One pass, so that a placeholder inside somebody's name stays text.
    return re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m[1]], template)


def _embedded(data: object) -> str:
    """JSON that cannot end its script element, whatever names it holds."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _statics(sweep: Sweep) -> str:
    timed = sweep.seconds is not None
    head = ["exit", "cost alone", "cost inside", sweep.measure, "95 % interval", *["seconds"] * timed]
    body = [
        [
            str(s.exit),
            _percent(s.cost),
            _percent(s.cost_inside),
            _percent(s.accuracy),
            f"{_percent(s.accuracy_low)} to {_percent(s.accuracy_high)}",
            *[_number(s.seconds)] * timed,
        ]
        for s in sweep.statics
    ]
    cells = "".join(f'<th scope="col">{escape(h)}</th>' for h in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>\n" for row in body)
    return f"<thead><tr>{cells}</tr></thead>\n<tbody>\n{lines}</tbody>"


def _reliability(sweep: Sweep) -> str:
    if not sweep.calibration:
        return "<p>Not measured: these rows have no labels.</p>"
    pictures = "".join(reliability_svg(c) for c in sweep.calibration)
    head, *rows = reliability_rows(sweep)
    cells = "".join(f'<th scope="col">{escape(h)}</th>' for h in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>\n" for row in rows)
    table = f"<table><thead><tr>{cells}</tr></thead>\n<tbody>\n{lines}</tbody></table>"
    return f'<div class="row">{pictures}</div>\n<div class="scroll">{table}</div>'


def _rows(sweep: Sweep) -> str:
    timed = sweep.seconds is not None
    head = ["policy", "budget", "cost", sweep.measure, "95 % interval", "exit rates", "setting"]
    head += ["seconds"] * timed
    cells = "".join(f'<th scope="col">{escape(h)}</th>' for h in head)
    lines = []
    for i, r in enumerate(sweep.rows):
        rates = "out of reach" if r.exit_rates is None else " / ".join(_percent(e) for e in r.exit_rates)
        interval = "" if not r.feasible else f"{_percent(r.accuracy_low)} to {_percent(r.accuracy_high)}"
        columns: list[tuple[str, float | str | None]] = [
            (r.policy, r.policy),
            (_percent(r.budget), r.budget),
            (_percent(r.cost), r.cost),
            (_percent(r.accuracy), r.accuracy),
            (interval, r.accuracy_low),
            (rates, None if r.exit_rates is None else r.exit_rates[0]),
            (_setting(r), None if r.thresholds is None else r.thresholds[0]),
        ]
        columns += [(_number(r.seconds), r.seconds)] * timed
        tds = "".join(f'<td data-v="{escape("" if v is None else str(v))}">{escape(text)}</td>' for text, v in columns)
        lines.append(f'<tr data-i="{i}">{tds}</tr>\n')
    return f"<thead><tr>{cells}</tr></thead>\n<tbody>\n{''.join(lines)}</tbody>"


def _setting(row: Row) -> str:
    if row.patience is not None:
        return f"patience {row.patience}"
    if row.q is not None:
        return f"q {row.q:.4f}"
    if row.thresholds is None:
        return ""
    words = {math.inf: "never", -math.inf: "always"}
    return " / ".join(words.get(t) or f"{t:.4f}" for t in row.thresholds)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
