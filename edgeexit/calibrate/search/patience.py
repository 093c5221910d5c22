"""Patience family: stop after equal answers in a row (PABEE, NeurIPS 2020)."""

from __future__ import annotations

from edgeexit.calibrate.search.family import PolicyFamily, SweepCurve
from edgeexit.calibrate.search.front import ParetoFront, measured
from edgeexit.policy.policies import Patience
from edgeexit.records.base import Rows


def patience_front(records: Rows) -> ParetoFront:
    """Pareto front of `Patience` of 1 to exits - 1 (the last never stops early)."""
    policies = (Patience(p) for p in range(1, records.exits))
    return ParetoFront.of("patience", records.measure, measured(policies, records))


PATIENCE = PolicyFamily(
    "patience",
    "patience",
    "equal answers in a row",
    front=lambda rows, asked: patience_front(rows),
    example=lambda exits, score: Patience(1),
    compares_scores=False,
    curves=lambda scores, default: [SweepCurve("patience", None, colour="#CC79A7")],
)
