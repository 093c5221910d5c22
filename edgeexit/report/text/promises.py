"""Promises of a sweep as sentences, table rows and CSV."""

from __future__ import annotations

import csv
import io

from edgeexit.calibrate.sweep import Promise, Sweep
from edgeexit.report.text.words import as_read

LOSS_COLOURS = {
    "disagreement": "#0072B2",
    "accuracy_gap": "#D55E00",
    "accumulated_accuracy_gap": "#009E73",
    "brier_gap": "#CC79A7",
    "wer_gap": "#E69F00",
    "cer_gap": "#56B4E9",
}
"""The loss has the colour, conformal risk control the dashes."""


def by_guarantee(sweep: Sweep) -> dict[str, list[Promise]]:
    """The promises of each guarantee, alphas growing, by label."""
    groups: dict[str, list[Promise]] = {}
    for p in sweep.promises:
        groups.setdefault(p.label, []).append(p)
    return groups


def promise_terms(sweep: Sweep) -> str:
    """What was done on which rows, and what a promise says. Needs at least one promise."""
    p = sweep.promises[0]
    measured = [q for q in sweep.promises if q.kept is not None]
    kept = sum(bool(q.kept) for q in measured)
    delta = next((q.delta for q in sweep.promises if q.delta is not None), None)
    sure = "" if delta is None else f"with probability {1 - delta:g} over the certifying rows "
    average = " (crc: only on average over them)" if any(q.method == "crc" for q in sweep.promises) else ""
    return (
        f"{p.ordered_on:,} design rows ordered the policies, {p.certified_on:,} others certified one, and {p.n:,} "
        f"held-out rows measured it: {kept} of {len(measured)} measured losses are at most alpha, and "
        f"{len(sweep.promises) - len(measured)} of {len(sweep.promises)} promises were refused. A promise says that "
        f"{sure}the expected loss is at most alpha{average}, as long as field data follow the distribution of the "
        "certifying rows. Each stands "
        "alone; all of them together are less sure."
    )


def status(p: Promise) -> str:
    """What became of it, in a few words."""
    if p.loss is None or p.loss_low is None:
        return f"refused: needs {p.needed:,} rows" if p.certified_on < p.needed else "refused: no policy passes"
    if p.loss > p.alpha:
        return "above" if p.loss_low > p.alpha else "above, alpha within the interval"
    return "kept, by the last exit only" if p.exit_rates and p.exit_rates[-1] == 1 else "kept"


def promise_rows(sweep: Sweep) -> list[list[str]]:
    """Head and one row per promise; shares in per cent."""
    head = ["guarantee", "alpha", "measured", "95 % interval", "cost", sweep.measure, "exit rates", "outcome"]
    return [head, *(_row(sweep, p) for p in sweep.promises)]


def _row(sweep: Sweep, p: Promise) -> list[str]:
    start = [p.label, f"{100 * p.alpha:.3g}"]
    if p.loss is None or p.loss_low is None or p.loss_high is None:
        return [*start, "-", "-", "-", "-", "-", status(p)]
    return [
        *start,
        f"{100 * p.loss:.2f}",
        f"{100 * p.loss_low:.2f} to {100 * p.loss_high:.2f}",
        f"{100 * (p.cost or 0):.1f}",
        f"{100 * (as_read(sweep, p.accuracy) or 0):.1f}",
        " / ".join(f"{100 * r:.0f}" for r in p.exit_rates or ()),
        status(p),
    ]


def promises_csv(sweep: Sweep) -> str:
    """One line per promise after a ``#`` line with their terms; cells of what was refused are empty."""
    exits = len(sweep.statics)
    out = io.StringIO()
    out.write(f"# {promise_terms(sweep) if sweep.promises else 'no promises were asked for'}\n")
    table = csv.writer(out, lineterminator="\n")
    table.writerow(
        ["guarantee", "method", "alpha", "delta", "ordered_on", "certified_on", "needed", "certified_loss"]
        + ["loss", "loss_low", "loss_high", "loss_n", "n", "cost", sweep.measure, "outcome", "refusal", "score"]
        + [f"exit_rate_{k}" for k in range(exits)]
        + [f"threshold_{k}" for k in range(exits - 1)]
    )
    for p in sweep.promises:
        certified = [p.what, p.method, p.alpha, p.delta, p.ordered_on, p.certified_on, p.needed, p.certified_loss]
        measured = [
            p.loss,
            p.loss_low,
            p.loss_high,
            p.loss_n,
            p.n,
            p.cost,
            as_read(sweep, p.accuracy),
            status(p),
            p.refusal,
            p.score,
        ]
        rates, thresholds = p.exit_rates or ("",) * exits, p.thresholds or ("",) * (exits - 1)
        table.writerow([*certified, *measured, *rates, *thresholds])
    return out.getvalue()
