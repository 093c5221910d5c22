"""Energy family: one threshold per exit, searched by the joules that each exit was measured to need.

Energy does not follow multiply-accumulates: loading weights, waking a core and idle power cost joules too. The family
is the threshold family of EdgeExit with another price on the exits, so that a budget in joules per input is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from edgeexit.calibrate.search.family import option
from edgeexit.calibrate.search.pareto import THRESHOLD
from edgeexit.errors import DataError, PolicyError
from edgeexit.records.base import R


def numbers(text: str) -> tuple[float, ...]:
    """Numbers separated by commas."""
    return tuple(float(part) for part in text.split(","))


@dataclass(frozen=True)
class EnergyOptions:
    """Options of the energy family; also options of `edgeexit calibrate`."""

    joules: tuple[float, ...] | None = field(
        default=None, metadata=option("measured joules per input that answers at each exit, e.g. 0.002,0.005", numbers)
    )


def priced(rows: R, options: EnergyOptions) -> R:
    """The rows with each exit's joules as its cost.

    Raises:
        PolicyError: no energies were given.
        DataError: not one growing positive number per exit.
    """
    joules = getattr(options, "joules", None)
    if joules is None:
        raise PolicyError("policy 'energy' needs the energy of each exit: --joules 0.002,0.005")
    cost = np.asarray(joules, np.float64)
    if cost.shape != (rows.exits,) or not (np.isfinite(cost).all() and cost[0] > 0 and (np.diff(cost) > 0).all()):
        raise DataError(f"joules must be {rows.exits} positive growing numbers, one per exit; found {list(joules)}")
    return rows.priced(cost)


ENERGY = replace(
    THRESHOLD,
    name="energy",
    label="{score} thresholds by energy",
    summary="thresholds per exit, by measured joules instead of MACs",
    options=EnergyOptions,
    price=priced,
    unit="joules",
    curves=lambda scores, default: (),  # a sweep has no energies
)
