"""Q-exit family: stop where the probability of having stopped is above q (PALBERT, NeurIPS 2022)."""

from __future__ import annotations

import numpy as np

from edgeexit.calibrate.search.family import PolicyFamily, SweepCurve
from edgeexit.calibrate.search.front import ParetoFront, measured
from edgeexit.policy.policies import QExit
from edgeexit.records.base import Rows


def qexit_front(records: Rows, score: str = "maxprob", *, temperatures: tuple[float, ...] | None = None) -> ParetoFront:
    """Pareto front of `QExit` at q from 0 up, most of them near 1, where confident exits differ."""
    q = [float(v) for v in np.unique(np.concatenate([np.linspace(0, 1, 100, False), 1 - np.geomspace(1e-6, 1, 100)]))]
    policies = (QExit(v, score, temperatures) for v in q)
    return ParetoFront.of(f"Q-exit on {score}", records.measure, measured(policies, records))


QEXIT = PolicyFamily(
    "qexit",
    "Q-exit on {score}",
    "probability of having stopped",
    front=lambda rows, asked: qexit_front(rows, asked.score, temperatures=asked.temperatures),
    example=lambda exits, score: QExit(0.5, score),
    curves=lambda scores, default: [SweepCurve("qexit", default, colour="#7F5FBF")],
)
