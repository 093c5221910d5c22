"""Sweep as a terminal table, CSV and JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import textwrap
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from edgeexit.calibrate.metrics.reliability import Reliability
from edgeexit.calibrate.sweep import Sweep
from edgeexit.common.formatting import percent, plain
from edgeexit.report.text.promises import promise_rows, promise_terms
from edgeexit.report.text.rejections import REJECTION_TERMS, rejection_rows
from edgeexit.report.text.reliability import reliability_rows
from edgeexit.report.text.words import (
    as_read,
    data_line,
    environment_line,
    interval,
    terms,
    time_cell,
    time_head,
    verdict_line,
)

_MOST_BUDGETS = 16
_share = partial(percent, unit="")


def sweep_json(sweep: Sweep) -> dict[str, Any]:
    """Everything, as JSON holds it: infinite thresholds are "inf" and "-inf", unknown is null."""
    return {
        "schema": 1,
        "verdict": plain(dataclasses.asdict(sweep.verdict)),
        "measure": sweep.measure,
        "data": plain(dict(sweep.data)),
        "environment": plain(dict(sweep.environment)),
        "seconds": plain(sweep.seconds),
        "audio_seconds": sweep.audio_seconds,
        "statics": [plain(dataclasses.asdict(s)) for s in sweep.statics],
        "calibration": [
            {
                "exit": c.exit,
                "temperature": c.temperature,
                "skipped": c.skipped,
                "before": _reliability(c.before),
                "after": _reliability(c.after),
            }
            for c in sweep.calibration
        ],
        "promises": [plain({**dataclasses.asdict(p), "kept": p.kept}) for p in sweep.promises],
        "rejections": [plain(dataclasses.asdict(r)) for r in sweep.rejections],
        "rows": [plain(dataclasses.asdict(row)) for row in sweep.rows],
    }


def _reliability(r: Reliability) -> dict[str, Any]:
    return {"n": r.n, "accuracy": r.accuracy, "ece": r.ece, "brier": r.brier, "nll": r.nll}


def sweep_csv(sweep: Sweep) -> str:
    """One line per policy and budget after a ``#`` line with the verdict; static exits are `exit-k-alone`.

    Unknown and infeasible cells are empty. The columns of accuracy are named by the measure.
    """
    exits = len(sweep.statics)
    m = sweep.measure
    measured = ["design_cost", f"design_{m}", "cost", m, f"{m}_low", f"{m}_high", "n", "seconds"]
    rates = [f"exit_rate_{k}" for k in range(exits)]
    thresholds = [f"threshold_{k}" for k in range(exits - 1)]
    out = io.StringIO()
    out.write(f"# {verdict_line(sweep)}\n")
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["policy", "score", "budget", *measured, "patience", "q", *rates, *thresholds])
    for s in sweep.statics:
        figures = [s.cost, as_read(sweep, s.design_accuracy), s.cost, as_read(sweep, s.accuracy), *interval(sweep, s)]
        own = [1.0 * (k == s.exit) for k in range(exits)]
        table.writerow([f"exit-{s.exit}-alone", "", "", *figures, sweep.verdict.n, s.seconds, "", "", *own])
    for r in sweep.rows:
        there = [
            r.design_cost,
            as_read(sweep, r.design_accuracy),
            r.cost,
            as_read(sweep, r.accuracy),
            *interval(sweep, r),
        ]
        taken = r.exit_rates or ("",) * exits
        limits = r.thresholds or ()
        table.writerow(
            [r.policy, r.score, r.budget, *there, r.n, r.seconds, r.patience, r.q, *taken, *limits]
            + [""] * (exits - 1 - len(limits))
        )
    return out.getvalue()


def sweep_text(sweep: Sweep) -> str:
    """For the terminal: the verdict, the static exits, and accuracy by budget and policy, in per cent."""
    lines = [verdict_line(sweep), "", f"data         {data_line(sweep)}"]
    lines += [f"environment  {environment_line(sweep)}", "", "One exit for every input:"]
    head = ["exit", "cost alone", "cost inside", sweep.measure, "95 % interval"]
    timed = sweep.seconds is not None
    body = [
        [
            str(s.exit),
            f"{s.cost:.3f}",
            f"{s.cost_inside:.3f}",
            _share(as_read(sweep, s.accuracy)),
            " to ".join(_share(end) for end in interval(sweep, s)),
        ]
        + ["-" if (t := time_cell(sweep, s.seconds)) is None else f"{t:.3g}"] * timed
        for s in sweep.statics
    ]
    lines += _aligned([head + [time_head(sweep)] * timed, *body])
    budgets = sorted({row.budget for row in sweep.rows})
    shown = _spread(budgets, _MOST_BUDGETS)
    left_out = f"; {len(shown)} of {len(budgets)} budgets shown" if len(shown) < len(budgets) else ""
    note = f"in %, by mean cost allowed (- = out of reach{left_out})"
    if budgets:
        lines += ["", f"{sweep.measure[0].upper()}{sweep.measure[1:]} of each policy {note}:"]
        cells = {(row.policy, row.budget): _share(as_read(sweep, row.accuracy)) for row in sweep.rows}
        table = [[f"{b:.3f}", *(cells.get((p, b), "-") for p in sweep.policies)] for b in shown]
        lines += _aligned([["budget", *sweep.policies], *table])
    if sweep.promises:
        lines += ["", "Guarantees, in % (cost of the last exit's, exit rates on the held-out rows):"]
        lines += [*_aligned(promise_rows(sweep)), *textwrap.wrap(promise_terms(sweep), 110)]
    if sweep.rejections:
        lines += ["", "Answering only what is sure enough, in %:", *_aligned(rejection_rows(sweep))]
        lines += textwrap.wrap(REJECTION_TERMS, 110)
    if sweep.calibration:
        lines += ["", "Calibration of each exit's probabilities (15 bins), before and after a temperature:"]
        lines += _aligned(row[:-1] for row in reliability_rows(sweep))
    return "\n".join([*lines, "", terms(sweep), ""])


def _spread(values: Sequence[float], most: int) -> list[float]:
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def _aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    table = list(rows)
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in table]
