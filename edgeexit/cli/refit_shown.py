"""Text of what quantizing did to every exit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeexit.cli.common import count, percent, table

if TYPE_CHECKING:
    from edgeexit_exporters.refit import Refit, RefitOutcome


def refit_text(report: Refit) -> str:
    """Accuracy per exit and form; then where inputs leave, with float thresholds and with the form's own."""
    labelled = any(e.accuracy is not None for f in report.forms for e in f.exits)
    rows = [["exit", "form", *["accuracy"] * labelled, "as float", "error", "file alone", "MACs"]]
    for k, exit in enumerate(report.forms[0].exits):
        for f in report.forms:
            e = f.exits[k]
            size = "-" if e.bytes is None else f"{e.bytes / 1024:.1f} KiB"
            accuracy = [percent(e.accuracy, 2)] * labelled
            rows.append(
                [
                    exit.name,
                    _form(f.artifact),
                    *accuracy,
                    percent(e.agreement, 2),
                    percent(e.error),
                    size,
                    count(e.macs),
                ]
            )
    lines = [f"On {report.held_out:,} rows that neither ranges nor thresholds were chosen on:"]
    lines.append(table(rows, right=range(2, len(rows[0]))))
    rows = [["form", "size", "thresholds", report.measure, "cost", "exit rates"]]
    for f in report.forms:
        size = f"{f.bytes / 1024:.1f} KiB"
        rows.append([f.artifact, size, "of the float network", *_outcome(f.before)])
        rows.append(["", "", "its own" if f.point is None else f"its own, {f.point!r}", *_outcome(f.after)])
    points = "1 point" if report.drop == 0.01 else f"{100 * report.drop:g} points"
    lines += ["", f"At most {points} below the last exit (chosen on {report.design:,} other rows):"]
    lines.append(table(rows, right=(1, 3, 4)))
    if any(f.after is None for f in report.forms):
        lines.append("(- : no thresholds of this artifact keep that drop, or its layout does not decide)")
    if report.layers:
        rows = [["layer", "operation", *(e.name for e in report.forms[0].exits)]]
        rows += [[layer.node, layer.operation, *(percent(e, 2) for e in layer.errors)] for layer in report.layers[:12]]
        lines += ["", "Error of every exit with this layer alone in int8, the worst first:"]
        lines.append(table(rows, right=range(2, len(rows[0]))))
        if len(report.layers) > 12:
            lines.append(f"and {len(report.layers) - 12} more; all with --json")
    return "\n".join(lines)


def _form(artifact: str) -> str:
    format_, _, precision = artifact.split("-", 2)
    return f"{format_} {precision}"


def _outcome(result: RefitOutcome | None) -> list[str]:
    if result is None:
        return ["-", "-", "-"]
    rates = " ".join(percent(r, 0) for r in result.rates)
    return [percent(result.right, 2), percent(result.cost), rates]
