"""Curves: the budget that each signal leaves, as data that a device can replace."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgeexit.common.files import MAX_JSON_BYTES, read_json
from edgeexit.errors import BackendMissing, PolicyError

SIGNALS = (
    "temperature_c",
    "load_per_cpu",
    "cpu_pressure_avg10",
    "memory_pressure_avg10",
    "cpu_frequency_ratio",
    "battery_percent",
    "available_bytes",
    "power_w",
)
"""Fields of a reading that a curve can follow."""


_LARGEST = 1e18
"""Of the numbers in a file of curves: a whole number may have more digits than a float holds."""


@dataclass(frozen=True)
class BudgetCurve:
    """A signal's value -> the budget it leaves, straight lines between points and level beyond them."""

    signal: str
    points: tuple[tuple[float, float], ...]
    """(value, budget as a fraction in (0, 1]); values grow, and budgets only fall or only grow."""
    on_battery_only: bool = False
    """It counts only while the device runs on its battery."""

    def __post_init__(self) -> None:
        if self.signal not in SIGNALS:
            raise PolicyError(f"curve {self.signal!r:.40}: no such signal; known: {', '.join(SIGNALS)}")
        if len(self.points) < 2:
            raise PolicyError(f"curve {self.signal}: needs two points or more, found {len(self.points)}")
        for value, budget in self.points:
            if not math.isfinite(value) or not 0 < budget <= 1:
                raise PolicyError(f"curve {self.signal}: point [{value:g}, {budget:g}]; budgets are in (0, 1]")
        if any(b <= a for (a, _), (b, _) in pairwise(self.points)):
            raise PolicyError(f"curve {self.signal}: values must grow from point to point")
        steps = [b - a for (_, a), (_, b) in pairwise(self.points)]
        if min(steps) < 0 < max(steps):
            raise PolicyError(f"curve {self.signal}: budgets rise and fall; a curve goes one way only")

    def budget(self, value: float) -> float:
        """The budget at a value of the signal."""
        (low, first), (high, last) = self.points[0], self.points[-1]
        if value <= low:
            return first
        if value >= high:
            return last
        for (a, p), (b, q) in pairwise(self.points):
            if value <= b:
                return p + (q - p) * (value - a) / (b - a)
        return last


DEFAULT_CURVES = (
    # A Pi throttles at 80 C (soft limit 60 C on a 3B+) and stops at 85 C: leave before it does.
    BudgetCurve("temperature_c", ((70.0, 1.0), (80.0, 0.4), (85.0, 0.2))),
    # Runnable tasks per CPU; above 1, somebody waits.
    BudgetCurve("load_per_cpu", ((1.0, 1.0), (2.0, 0.5), (4.0, 0.25))),
    # Pressure stall information: share of the last 10 s in which some task waited, in per cent.
    BudgetCurve("cpu_pressure_avg10", ((20.0, 1.0), (60.0, 0.5), (90.0, 0.25))),
    BudgetCurve("memory_pressure_avg10", ((5.0, 1.0), (30.0, 0.5))),
    BudgetCurve("battery_percent", ((5.0, 0.2), (30.0, 1.0)), on_battery_only=True),
)
"""Used by default; docs/governor.md gives the reasons."""


def read_curves(path: Path | str) -> tuple[BudgetCurve, ...]:
    """Curves from a ``.json`` or ``.toml`` file: ``{"temperature_c": [[70, 1.0], [80, 0.4]], "battery_percent":
    {"points": [[5, 0.2], [30, 1.0]], "on_battery_only": true}}``.

    Raises:
        PolicyError: not readable as that, an unknown signal, or points that make no curve.
        BackendMissing: a .toml file before Python 3.11.
    """
    path = Path(path)
    if path.suffix == ".toml":
        try:
            tomllib = importlib.import_module("tomllib")
        except ImportError as e:
            raise BackendMissing(f"{path}: reading .toml needs Python 3.11; write the curves as .json") from e
        try:
            with path.open("rb") as stream:
                table = tomllib.loads(stream.read(MAX_JSON_BYTES).decode())
        except (OSError, ValueError, RecursionError) as e:
            raise PolicyError(f"{path}: not readable as TOML: {e}") from e
    else:
        table = read_json(path, PolicyError)
    return curves_of(table, str(path))


def curves_of(table: Any, at: str = "curves") -> tuple[BudgetCurve, ...]:
    """Curves from a parsed JSON or TOML document; see `read_curves`."""
    if not isinstance(table, Mapping) or not table:
        raise PolicyError(f"{at}: expected an object of curves, one per signal ({', '.join(SIGNALS)})")
    curves = []
    for signal, value in table.items():
        options = value if isinstance(value, Mapping) else {"points": value}
        points, battery = options.get("points"), options.get("on_battery_only", False)
        if not isinstance(battery, bool) or set(options) - {"points", "on_battery_only"}:
            raise PolicyError(
                f"{at}: curve {signal!r:.40} has points, and on_battery_only true or false; found {options!s:.80}"
            )
        if not isinstance(points, Sequence) or isinstance(points, str) or not all(_is_point(p) for p in points):
            raise PolicyError(f"{at}: curve {signal!r:.40} needs points [[value, budget], ...], found {points!s:.80}")
        try:
            curves.append(BudgetCurve(signal, tuple((float(v), float(b)) for v, b in points), battery))
        except PolicyError as e:
            raise PolicyError(f"{at}: {e}") from e
    return tuple(curves)


def _is_point(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) == 2
        and all(isinstance(n, int | float) and not isinstance(n, bool) and abs(n) <= _LARGEST for n in value)
    )
