"""Rules that reject, as a sentence and as table rows."""

from __future__ import annotations

from edgeexit.calibrate.sweep import Rejection, Sweep

REJECTION_TERMS = (
    "For applications that reject unsure answers: coverage is the share accepted, risk the share of errors among the "
    "accepted. Each rule was chosen on the design rows for the most coverage at the target risk, and nothing is "
    "promised: measured risks scatter around the target. The threshold is the best that costs no more than the window."
)


def rejection_rows(sweep: Sweep) -> list[list[str]]:
    """Head and one row per rule and target; shares in per cent."""
    head = ["target risk", "rule", "coverage", "risk", "95 % interval", "accuracy, all rows", "cost", "exit rates"]
    return [head, *(_row(r) for r in sweep.rejections)]


def _row(r: Rejection) -> list[str]:
    start = [f"{100 * r.target:.3g}", r.rule]
    if r.coverage is None or r.exit_rates is None:
        return [*start, "-", "-", "-", "-", "-", "out of reach"]
    interval = (
        "-" if r.risk_low is None or r.risk_high is None else f"{100 * r.risk_low:.2f} to {100 * r.risk_high:.2f}"
    )
    return [
        *start,
        f"{100 * r.coverage:.1f}",
        "-" if r.risk is None else f"{100 * r.risk:.2f}",
        interval,
        f"{100 * (r.accuracy or 0):.1f}",
        f"{100 * (r.cost or 0):.1f}",
        " / ".join(f"{100 * rate:.0f}" for rate in r.exit_rates),
    ]
