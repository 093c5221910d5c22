"""Cautions about an operating point: too few rows, nothing saved, or a drop above the target."""

from __future__ import annotations

import math

from edgeexit.common.measures import MEASURES, inside
from edgeexit.policy.operating_point import OperatingPoint

_SAVES_NOTHING = 0.995
"""Mean cost from which an operating point is said to save nothing."""
_WIDE = 0.02
"""Half-width of an interval from which rows are called few."""


def cautions(point: OperatingPoint) -> list[str]:
    """Sentences for people; empty = nothing speaks against it."""
    e = point.expected
    measure = next((m for m in MEASURES if m in e), None)
    if measure is None or "drop_low" not in e:
        return []
    what, sentences = inside(measure), []
    half, n = (e["drop_high"] - e["drop_low"]) / 2, e["n"]
    asked = point.asked.get("accuracy_drop")
    if asked and point.promise is None and (rows := point.data.get("design_rows", n)) < 1 / asked - 1e-9:
        sentences.append(
            f"{rows:,} rows to choose on cannot show a loss of {_points(asked)}, so the last exit answers; at least "
            f"{math.ceil(1 / asked - 1e-9):,} are needed"
        )
    elif e["cost"] >= _SAVES_NOTHING:
        sentences.append(
            "it saves nothing: "
            + ("the promise is met" if point.promise is not None else "the target is met")
            + " by (almost) never leaving early; more rows or a weaker target may allow more"
        )
    if asked and half > max(asked, 0.005):
        sentences.append(
            f"{n:,} rows measure the drop to ±{100 * half:.1f} points only, {_points(asked)} asked for; about "
            f"{_rounded(n * (half / max(asked, 0.005)) ** 2):,} rows to measure on would do"
        )
    elif asked is None and (width := (e[f"{measure}_high"] - e[f"{measure}_low"]) / 2) > _WIDE:
        sentences.append(
            f"{n:,} rows measure the {measure} to ±{100 * width:.1f} points only; about "
            f"{_rounded(n * (width / _WIDE) ** 2):,} would give ±{100 * _WIDE:g}"
        )
    if asked is not None and e["drop_low"] > asked:
        sentences.append(
            f"on the rows that measured it, it loses {100 * e['drop']:.1f} points of {what}, clearly more than the "
            f"{_points(asked)} asked for: were the rows that chose it of another kind?"
        )
    return sentences


def _points(share: float) -> str:
    return "1 point" if share == 0.01 else f"{100 * share:g} points"


def _rounded(n: float) -> int:
    """Two digits, upwards."""
    step = int(10 ** max(0, math.floor(math.log10(n)) - 1))
    return math.ceil(n / step) * step
