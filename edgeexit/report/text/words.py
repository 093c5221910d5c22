"""Sentences and colours that all forms of a report share."""

from __future__ import annotations

from edgeexit.calibrate.search.family import SweepCurve
from edgeexit.calibrate.sweep import Row, Static, Sweep
from edgeexit.common.measures import ERROR_RATES, shown, shown_range

_COLOURS = {
    "maxprob": "#0072B2",
    "entropy": "#D55E00",
    "margin": "#009E73",
    "learned": "#56B4E9",
    "ensemble": "#8C564B",
    # no rows have scores of both kinds
    "ctc_sequence_logprob": "#0072B2",
    "frame_entropy": "#D55E00",
    "agreement": "#009E73",
    "greedy_path": "#56B4E9",
    "frame_entropy_nonblank": "#8C564B",
    "nbest_posterior": "#B8A200",
}
"""Okabe and Ito's palette, which readers of all kinds of colour vision tell apart; the score has the colour,
a shared threshold has the dashes, so that no pair differs by colour alone. Families on no score have their own."""
_SPARE = "#B8A200"
"""Of a policy that the sweep has no curve of."""


def data_line(sweep: Sweep) -> str:
    """Where the rows came from."""
    data = sweep.data
    parts = [
        f"{label} {data[key]}" + (f" ({data[f'{key}_rows']:,} rows)" if f"{key}_rows" in data else "")
        for key, label in (("design", "chosen on"), ("held_out", "measured on"))
        if key in data
    ]
    return _one_line("; ".join(parts)) or "unknown"


def environment_line(sweep: Sweep) -> str:
    """What the caller said of device, versions and threads, without what played no part."""
    used = (f"{k} {v}" for k, v in sweep.environment.items() if v is not None)
    return _one_line(", ".join(used)) or "not given"


def terms(sweep: Sweep) -> str:
    """What the numbers mean, in two sentences, and a third where single-exit costs are unknown."""
    unit = ERROR_RATES.get(sweep.measure)
    if unit is not None:
        meaning = f"the edits (substitutions, insertions, deletions) per {unit} of the references: lower is better"
    else:
        meaning = "the share of rows answered " + (
            "right" if sweep.measure == "accuracy" else "as the last exit answers"
        )
    text = (
        "Cost is the mean work per input as a fraction of the work up to the last exit, and "
        f"{sweep.measure} is {meaning}. "
        "Every policy was chosen under a budget on the design rows and measured on held-out rows, so its "
        "cost there may differ from the budget; the squares are networks with one exit only."
    )
    if sweep.audio_seconds is not None and sweep.seconds is not None:
        text += (
            " The real-time factor is time over length of sound, both summed over the held-out rows: features, stages "
            "and what the policy looks at, measured one by one while recording."
        )
    if sweep.data.get("static_cost_known") is False:
        text += (
            " What such networks cost was not given: the cost of the exit inside the adaptive network stands "
            "in, which is a little too much."
        )
    return text


def as_read(sweep: Sweep, accuracy: float | None) -> float | None:
    """An accuracy of the sweep as its measure is read."""
    return None if accuracy is None else shown(sweep.measure, accuracy)


def interval(sweep: Sweep, row: Row | Static) -> tuple[float | None, float | None]:
    """The 95 % interval of a row or an exit as the measure is read, the lower end first."""
    low, high = row.accuracy_low, row.accuracy_high
    return (None, None) if low is None or high is None else shown_range(sweep.measure, low, high)


def real_time(sweep: Sweep, seconds: float | None) -> float | None:
    """The real-time factor of a time per row; None = no time, or no sound."""
    return None if seconds is None or sweep.audio_seconds is None else seconds / sweep.audio_seconds


def time_head(sweep: Sweep) -> str:
    """What `time_cell` holds."""
    return "seconds" if sweep.audio_seconds is None else "real-time factor"


def time_cell(sweep: Sweep, seconds: float | None) -> float | None:
    """Seconds per row, or of sound the real-time factor."""
    return seconds if sweep.audio_seconds is None else real_time(sweep, seconds)


def verdict_line(sweep: Sweep) -> str:
    """The first line of every form."""
    return _one_line(sweep.verdict.text)


def verdict_parts(sweep: Sweep) -> tuple[str, str]:
    """The first line as a headline, its first sentence, and the rest."""
    headline, stop, more = verdict_line(sweep).partition(". ")
    return headline + stop.strip(), more


def colour(sweep: Sweep, policy: str) -> str:
    """``#rrggbb`` of a policy's line: the curve's own, or its score's."""
    curve = _curve(sweep, policy)
    return _SPARE if curve is None else curve.colour or _COLOURS.get(curve.score or "", _SPARE)


def dashed(sweep: Sweep, policy: str) -> bool:
    """Whether a policy's line is dashed."""
    curve = _curve(sweep, policy)
    return curve is not None and curve.dashed


def lines(sweep: Sweep, *, controls: bool = True) -> list[str]:
    """Policies that are drawn as lines; single exits are points."""
    left_out = {"single exits"} if controls else {"single exits", "control"}
    curves = {policy: _curve(sweep, policy) for policy in sweep.policies}
    return [policy for policy, curve in curves.items() if curve is None or curve.role not in left_out]


def _curve(sweep: Sweep, policy: str) -> SweepCurve | None:
    return next((curve for curve in sweep.curves if curve.name == policy), None)


def _one_line(text: str) -> str:
    return " ".join(text.split())
