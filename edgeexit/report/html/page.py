"""Page of a sweep: one HTML file that needs nothing but a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from functools import partial
from html import escape
from importlib.resources import files
from typing import Any

from edgeexit.calibrate.sweep import Row, Sweep
from edgeexit.common.formatting import percent
from edgeexit.common.measures import is_error, shown, shown_range
from edgeexit.report.html.chart_svg import chart_svg, legend_html
from edgeexit.report.html.chosen import chosen_rows, exit_rates_svg, expected_svg
from edgeexit.report.html.diagrams import budgets_svg, reliability_svg
from edgeexit.report.promise_charts import cost_chart, least_loss, loss_chart
from edgeexit.report.text.promises import promise_rows, promise_terms
from edgeexit.report.text.rejections import REJECTION_TERMS, rejection_rows
from edgeexit.report.text.reliability import reliability_rows
from edgeexit.report.text.table import sweep_json
from edgeexit.report.text.words import (
    as_read,
    colour,
    dashed,
    data_line,
    environment_line,
    interval,
    lines,
    terms,
    time_cell,
    time_head,
    verdict_parts,
)

_share = partial(percent, unknown="")
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def sweep_html(sweep: Sweep) -> str:
    """The page: verdict, plot, details of a chosen point, and all rows as a table that needs no script."""
    template = files("edgeexit.report.html").joinpath("template.html").read_text(encoding="utf-8")
    script = _SCRIPT.search(template)
    assert script is not None
    digest = hashlib.sha256(script[1].encode()).digest()
    data = _as_shown(sweep_json(sweep))
    data["lines"] = [{"policy": p, "colour": colour(sweep, p), "dashed": dashed(sweep, p)} for p in lines(sweep)]
    headline, more = verdict_parts(sweep)
    parts = {
        "hash": base64.b64encode(digest).decode(),
        "verdict": escape(headline),
        "more": f'<p class="lead">{escape(more)}</p>' if more else "",
        "environment": escape(environment_line(sweep)),
        "origin": escape(data_line(sweep)),
        "terms": escape(terms(sweep)),
        "measure": escape(sweep.measure),
        "statics": _statics(sweep),
        "rows": _rows(sweep),
        "chosen": _chosen(sweep),
        "budgets": budgets_svg(sweep),
        "promises": _promises(sweep),
        "rejections": _rejections(sweep),
        "reliability": _reliability(sweep),
        "data": _embedded(data),
    }
    # One pass, so that a placeholder inside somebody's name stays text.
    return re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m[1]], template)


def _as_shown(data: dict[str, Any]) -> dict[str, Any]:
    """The sweep with every accuracy as its measure is read, for the script to draw."""
    measure = data["measure"]
    data["less_is_better"] = is_error(measure)
    for row in (*data["rows"], *data["statics"]) if is_error(measure) else ():
        for key in ("accuracy", "design_accuracy"):
            row[key] = None if row[key] is None else shown(measure, row[key])
        low, high = row["accuracy_low"], row["accuracy_high"]
        if low is not None:
            row["accuracy_low"], row["accuracy_high"] = shown_range(measure, low, high)
    return data


def _embedded(data: object) -> str:
    """JSON that cannot end its script element, whatever names it holds."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _statics(sweep: Sweep) -> str:
    timed = sweep.seconds is not None
    head = ["exit", "cost alone", "cost inside", sweep.measure, "95 % interval"]
    body = [
        [
            str(s.exit),
            _share(s.cost),
            _share(s.cost_inside),
            _share(as_read(sweep, s.accuracy)),
            " to ".join(_share(end) for end in interval(sweep, s)),
            *[_number(time_cell(sweep, s.seconds))] * timed,
        ]
        for s in sweep.statics
    ]
    return _table([head + [time_head(sweep)] * timed, *body])


def _reliability(sweep: Sweep) -> str:
    if not sweep.calibration:
        return "<p>Not measured: these rows have no labels.</p>"
    pictures = "".join(reliability_svg(c) for c in sweep.calibration)
    return (
        f'<div class="row">{pictures}</div>\n<div class="scroll"><table>{_table(reliability_rows(sweep))}</table></div>'
    )


def _chosen(sweep: Sweep) -> str:
    if not chosen_rows(sweep):
        return "<p>No adaptive policy was compared at these budgets.</p>"
    name = escape(sweep.verdict.policy or "")
    note = (
        f"Policy {name}, the verdict's. Left: where inputs leave under each budget. Right: dashes are what the design "
        "rows let expect, the line with its 95 % band is what the held-out rows gave."
    )
    return f'<p class="soft">{note}</p>\n<div class="row">{exit_rates_svg(sweep)}{expected_svg(sweep)}</div>'


def _promises(sweep: Sweep) -> str:
    if not sweep.promises:
        return "<p>None were asked for.</p>"
    note = (
        "Marks of one alpha stand side by side; those in the shaded part lost more than was promised, and a loss "
        f"of less than {100 * least_loss(sweep):.3g} % is drawn on the lower edge. The table is in per cent."
    )
    reasons = "".join(
        f"<li>{escape(p.label)}, alpha {100 * p.alpha:.3g} %: {escape(p.refusal)}</li>\n"
        for p in sweep.promises
        if p.refusal is not None
    )
    return (
        f'<p class="soft">{escape(promise_terms(sweep))} {note}</p>\n'
        f'<div class="row">{chart_svg(loss_chart(sweep))}{chart_svg(cost_chart(sweep))}</div>\n'
        f'<div class="row soft">{legend_html(loss_chart(sweep))}</div>\n'
        f'<div class="scroll"><table id="promises">{_table(promise_rows(sweep))}</table></div>'
        + (f'\n<ul class="soft">\n{reasons}</ul>' if reasons else "")
    )


def _rejections(sweep: Sweep) -> str:
    if not sweep.rejections:
        return "<p>Not measured: these rows have no labels, or no risk was asked for.</p>"
    table = f'<div class="scroll"><table id="rejections">{_table(rejection_rows(sweep))}</table></div>'
    return f'<p class="soft">{escape(REJECTION_TERMS)} In per cent.</p>\n{table}'


def _table(rows: list[list[str]]) -> str:
    """Head and body; the first row is the head."""
    head, *body = rows
    cells = "".join(f'<th scope="col">{escape(h)}</th>' for h in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>\n" for row in body)
    return f"<thead><tr>{cells}</tr></thead>\n<tbody>\n{lines}</tbody>"


def _rows(sweep: Sweep) -> str:
    timed = sweep.seconds is not None
    head = ["policy", "budget", "cost", sweep.measure, "95 % interval", "exit rates", "setting"]
    head += [time_head(sweep)] * timed
    cells = "".join(f'<th scope="col">{escape(h)}</th>' for h in head)
    lines = []
    for i, r in enumerate(sweep.rows):
        rates = "out of reach" if r.exit_rates is None else " / ".join(_share(e) for e in r.exit_rates)
        ends = "" if not r.feasible else " to ".join(_share(end) for end in interval(sweep, r))
        columns: list[tuple[str, float | str | None]] = [
            (r.policy, r.policy),
            (_share(r.budget), r.budget),
            (_share(r.cost), r.cost),
            (_share(as_read(sweep, r.accuracy)), as_read(sweep, r.accuracy)),
            (ends, interval(sweep, r)[0]),
            (rates, None if r.exit_rates is None else r.exit_rates[0]),
            (_setting(r), None if r.thresholds is None else r.thresholds[0]),
        ]
        columns += [(_number(time_cell(sweep, r.seconds)), time_cell(sweep, r.seconds))] * timed
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


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
