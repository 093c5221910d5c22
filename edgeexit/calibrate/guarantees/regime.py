"""Drift regime of a policy, measured on recorded outputs."""

from __future__ import annotations

import numpy as np

from edgeexit.calibrate.guarantees.betting import wsr_upper
from edgeexit.calibrate.guarantees.bounds import shuffled
from edgeexit.errors import PolicyError
from edgeexit.policy.drift import ROUNDING, DriftRegime
from edgeexit.policy.policies import Policy
from edgeexit.records.base import Rows, replay


def regime_of(policy: Policy, records: Rows, *, eta: float = 0.01, level: float = 1e4) -> DriftRegime:
    """Upper bounds of the mean relative cost and mean doubt (1 - score) of a policy.

    Args:
        policy: what will run.
        records: rows that the policy was *not* chosen on, independent, and from where it will run. Labels are not
            needed. Fewer rows give wider bounds and a monitor that is slower to notice.
        eta: probability, over draws of the rows, that a bound is too low and undrifted inputs count as drift.
        level: see `DriftRegime.level`.

    Raises:
        PolicyError: `eta` or `level` is out of range, or the policy does not fit the records.
        DataError: scores outside [0, 1].
    """
    if not 0 < eta < 1:
        raise PolicyError(f"eta is a probability strictly between 0 and 1, found {eta}")
    taken = replay(policy, records)
    name = policy.score or records.default_score
    doubt = 1 - records.scores(name, policy.temperatures)[taken, np.arange(records.n)].astype(np.float64)
    near = np.clip(doubt, 0, 1)
    doubt = np.where(np.abs(doubt - near) <= ROUNDING, near, doubt)
    cost = records.relative_cost
    # two bounds, so half of eta each
    bounds = (wsr_upper(shuffled(cost[taken]), eta / 2), wsr_upper(shuffled(doubt), eta / 2))
    return DriftRegime(tuple(cost.tolist()), bounds, name, level, records.n)
