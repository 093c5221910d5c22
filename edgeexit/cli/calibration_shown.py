"""Text of a calibrated operating point for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeexit.cli.common import percent, table
from edgeexit.common.measures import MEASURES
from edgeexit.policy.operating_point import OperatingPoint
from edgeexit.policy.sets import ConformalSets


def calibration_text(point: OperatingPoint) -> str:
    """For the terminal: target, policy, expected cost and accuracy, promise."""
    e = point.expected
    measure = next(m for m in MEASURES if m in e)
    table_ = point.policy.to_dict()
    numbers = {k: v for k, v in table_.items() if k not in ("kind", "score", "temperatures") and v != []}
    shown = "; ".join(("" if k == "thresholds" else f"{k} ") + _numbers(v) for k, v in numbers.items())
    rows = [
        ["asked", ", ".join(f"{k} {v:g}" for k, v in point.asked.items())],
        ["policy", f"{table_['kind']}" + (f" on {table_['score']}" if "score" in table_ else "") + f": {shown}"],
        ["expected cost", f"{percent(e['cost'])} of the last exit's"],
        [
            f"expected {measure}",
            f"{percent(e[measure], 2)} ({_points(e[f'{measure}_low'])} to {percent(e[f'{measure}_high'])}), last exit "
            f"{percent(e[f'last_exit_{measure}'], 2)}",
        ],
        [
            "drop",
            f"{100 * e['drop']:.2f} points ({_points(e['drop_low'])} to {_points(e['drop_high'])}) below the last exit",
        ],
        ["exit rates", "  ".join(percent(r) for r in e["exit_rates"])],
        ["measured on", str(e["measured_on"])],
        ["promise", "none: these are estimates" if point.promise is None else _promise(point.promise)],
    ]
    if "tau" in e:
        risk = "no row is"
        if e["risk"] is not None:
            risk = f"risk {percent(e['risk'], 2)} ({_points(e['risk_low'])} to {percent(e['risk_high'])})"
        rows.insert(4, ["accepted", f"score >= {e['tau']:.6g}: coverage {percent(e['coverage'])}, {risk}"])
    if point.sets is not None:
        sets = ConformalSets.from_dict(point.sets)
        rows.append(["sets", f"{sets.promise} (mean size {e['set_size']:.2f} on the rows that made them)"])
    if "allowed" in e:
        rows.insert(3, ["budget", f"{percent(e['allowed'])} allowed, {percent(e['planned'])} planned"])
    return table(rows)


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _numbers(value: Any) -> str:
    return ", ".join(n if isinstance(n, str) else f"{n:.6g}" for n in (value if isinstance(value, list) else [value]))


def _promise(promise: Mapping[str, Any]) -> str:
    return f"{promise['text']} (n = {promise['n']}, {promise['test']}, measured {promise['measured']:.4g})"
