"""The sentences and colours that all forms of a report share."""

from __future__ import annotations

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
_OTHERS = {
    "patience": "#CC79A7",
    "random": "#8A8A8A",
    "eero": "#E69F00",
    "eero-survivors": "#E69F00",
    "qexit": "#7F5FBF",
}
_SPARE = ("#B8A200",)
"""Okabe and Ito's palette, which readers of all kinds of colour vision tell apart; the score has the colour,
a shared threshold has the dashes, so that no pair differs by colour alone."""


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


def interval(sweep: Sweep, found: Row | Static) -> tuple[float | None, float | None]:
    """The 95 % interval of a row or an exit as the measure is read, the lower end first."""
    low, high = found.accuracy_low, found.accuracy_high
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
    """``#rrggbb`` of a policy's line."""
    plain = policy.removeprefix("shared-")
    if plain in _COLOURS:
        return _COLOURS[plain]
    unknown = [p for p in sweep.policies if p.removeprefix("shared-") not in _COLOURS and p not in _OTHERS]
    return _OTHERS[policy] if policy in _OTHERS else _SPARE[unknown.index(policy) % len(_SPARE)]


def dashed(policy: str) -> bool:
    """Whether the line is dashed: one threshold for all exits, EERO's other mode, or chance."""
    return policy.startswith("shared-") or policy in ("eero-survivors", "random")


def _one_line(text: str) -> str:
    return " ".join(text.split())
