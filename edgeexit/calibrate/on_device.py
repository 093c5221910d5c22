"""Thresholds for a new budget on the device, solved from the scores that the bundle carries."""

from __future__ import annotations

import numpy as np

from edgeexit.calibrate.budget import Budget
from edgeexit.calibrate.search.eero import Mode, eero
from edgeexit.calibrate.search.exit_rates import Prior, Spend
from edgeexit.engine.engine import Engine
from edgeexit.errors import BundleError, PolicyError
from edgeexit.policy.policies import Threshold


def solve_budget(
    engine: Engine,
    budget: Budget | str | float,
    *,
    mode: Mode = "paper",
    beta: float | None = None,
    prior: Prior = "cost",
    spend: Spend = "needed",
) -> Threshold:
    """EERO's thresholds for a budget, in milliseconds, without labels, data or libraries beyond numpy.

    ``engine.policy = solve_budget(engine, "2ms")`` changes the running engine.

    Args:
        engine: its artifact must have been calibrated, so that the bundle carries its scores.
        budget: mean cost allowed: a fraction of the last exit's, "4MMACs", or "2.5ms" of this device as the
            engine measured it.
        mode, beta, prior, spend: see `eero`.

    Raises:
        Infeasible: below the first exit's cost.
        PolicyError: the bundle carries no scores for this artifact.
        DataError: as `Budget.relative`.
        BundleError: the stored scores are damaged.
    """
    if engine.exits < 2:
        raise PolicyError(f"{engine.bundle.path}: one exit, so a budget has nothing to choose")
    spec = engine.artifact.calibration
    if spec is None:
        raise PolicyError(
            f"{engine.bundle.path}: {engine.artifact.name} carries no calibration scores; "
            "run `edgeexit calibrate` on it first"
        )
    arrays = engine.bundle.arrays(spec)
    correct = arrays.get("correct", arrays.get("agreement"))
    if correct is None or "scores" not in arrays or arrays["scores"].ndim != 2 or correct.ndim != 2:
        raise BundleError(f"{engine.bundle.path}: {spec.path} does not hold scores and agreement (n, exits)")
    asked = budget if isinstance(budget, Budget) else Budget.parse(str(budget))
    cost, fraction = asked.relative(engine.costs()[0], exit_seconds(engine))
    thresholds, _ = eero(arrays["scores"].T, correct.T, cost, fraction, mode=mode, beta=beta, prior=prior, spend=spend)
    return Threshold(thresholds, engine.default_score)


def exit_seconds(engine: Engine) -> tuple[float, ...] | None:
    """`(exits,)` measured seconds to answer at each exit; None = not measured."""
    if engine.seconds is None or not engine.layout.stepwise:
        return engine.seconds
    return tuple(np.cumsum(engine.seconds).tolist())
