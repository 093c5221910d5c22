"""Floors for prediction sets by split conformal prediction, and what the sets do on other rows.

The nonconformity of a class is ``1 - p`` (Sadinle, Lei and Wasserman, "Least Ambiguous Set-Valued Classifiers with
Bounded Error Levels", JASA 2019). "mondrian" sets have one quantile per exit taken (Vovk, "Conditional Validity of
Inductive Conformal Predictors", ACML 2012).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.rows import shared_rows
from edgeexit.errors import DataError, Infeasible, PolicyError
from edgeexit.policy.policies import Policy
from edgeexit.policy.sets import SET_MODES, ConformalSets, SetMode, class_probabilities
from edgeexit.records.classification import Records, replay


def conformal_sets(
    design: Records,
    calibration: Records,
    alpha: float = 0.1,
    mode: SetMode = "nested",
    policy: Policy | None = None,
    *,
    temperatures: tuple[float, ...] | None = None,
) -> ConformalSets:
    """Prediction sets that miss the true class with probability at most `alpha`.

    "nested": how unusual class y is at exit l is its rank r_l(y) among the true classes of the design rows; what is
    calibrated is the largest rank over all exits. Its quantile is one rank q for every exit, and ``r_l(y) <= q`` is
    a floor under the probability, so the table of ranks stays at home.

    With too few rows for `alpha` (n < 1 / alpha - 1) nothing can be ruled out: every floor is 0.

    Args:
        design: rows that the ranks come from and that the policy was chosen on.
        calibration: other rows, from where the sets will be used.
        alpha: in (0, 1).
        mode: see `ConformalSets`.
        policy: chosen without the calibration rows; needed by "policy" and "mondrian", ignored by "nested".
        temperatures: `(exits,)` divisors of the logits, fitted without the calibration rows; None = the artifact's.

    Raises:
        PolicyError: `alpha` or `mode` is unknown, or the policy is missing or does not fit.
        DataError: no labels, outputs that are not `(exits, n, classes)`, records of two networks, or the same rows.
        Infeasible: "mondrian", and rows leave at an exit, but too few; the message has the number needed.
    """
    if isinstance(alpha, bool) or not 0 < alpha < 1:
        raise PolicyError(f"alpha is the share of sets that may miss the true class, in (0, 1); found {alpha!r}")
    if mode not in SET_MODES:
        raise PolicyError(f"unknown prediction sets {mode!r}; known: {', '.join(SET_MODES)}")
    if mode != "nested" and policy is None:
        raise PolicyError(f"{mode} prediction sets belong to one policy; give it, or use mode 'nested'")
    _check_rows(design, calibration)
    t = temperatures or calibration.temperatures or (1.0,) * calibration.exits
    if len(t) != calibration.exits:
        raise PolicyError(f"{len(t)} temperatures for {calibration.exits} exits")
    own = _true_class(calibration, t)
    if mode == "nested" or policy is None:
        floors, policy = _nested_floors(_true_class(design, t), own, alpha), None
    else:
        taken = replay(policy, calibration)
        own = own[taken, np.arange(calibration.n)]
        floors = [_floor(own, alpha)] * len(t) if mode == "policy" else _mondrian_floors(own, taken, len(t), alpha)
    return ConformalSets(mode, tuple(floors), float(alpha), calibration.n, t, calibration.kind, policy)


def set_masks(sets: ConformalSets, records: Records) -> NDArray[np.bool_]:
    """`(exits, n, classes)`: the sets after every exit of a run through all of them.

    Raises:
        DataError: another number of exits, or of another kind.
    """
    if (records.exits, records.kind) != (sets.exits, sets.kind):
        raise DataError(
            f"{records.name} has {records.exits} exits of {records.kind}, "
            f"the prediction sets are for {sets.exits} of {sets.kind}"
        )
    masks: list[NDArray[np.bool_]] = []
    for k, output in enumerate(records.outputs):
        masks.append(sets.at(k, output, masks[-1] if masks else None))
    return np.stack(masks)


@dataclass(frozen=True)
class SetQuality:
    """What sets did where a policy stopped."""

    coverage: float
    """Share of sets that hold the true class."""
    size: float
    """Mean number of classes in a set."""
    empty: float
    """Share of sets without any class."""
    left: tuple[int, ...]
    """`(exits,)` inputs that left there."""
    coverage_at: tuple[float | None, ...]
    """`(exits,)` coverage among them; None = nobody left there. A promise over all inputs can hide a bad one here."""
    size_at: tuple[float | None, ...]
    """`(exits,)` mean size among them; None = nobody left there."""


def measure_sets(sets: ConformalSets, records: Records, policy: Policy | None = None) -> SetQuality:
    """Coverage and size on rows that took no part in calibration; `fixed_exit(k, exits)` measures one exit.

    Args:
        policy: where inputs stop; None = the sets' own.

    Raises:
        PolicyError: no policy is known, or it is not the one the sets belong to.
        DataError: no labels, or the records are of another network.
    """
    policy = policy or sets.policy
    if policy is None:
        raise PolicyError("nested prediction sets name no policy; say which one, fixed_exit(k, exits) for one exit")
    sets.fits(policy, records.exits)
    labels, rows = _labels(records), np.arange(records.n)
    taken = replay(policy, records)
    masks = set_masks(sets, records)[taken, rows]
    covered, size = masks[rows, labels], masks.sum(-1)
    at = [taken == k for k in range(records.exits)]
    return SetQuality(
        float(covered.mean()),
        float(size.mean()),
        float((size == 0).mean()),
        tuple(int(here.sum()) for here in at),
        tuple(float(covered[here].mean()) if here.any() else None for here in at),
        tuple(float(size[here].mean()) if here.any() else None for here in at),
    )


def conformal_rank(n: int, alpha: float) -> int:
    """``ceil((n + 1) (1 - alpha))``: which of n sorted values is the quantile; above n, none is."""
    # As fractions of the decimals that were written: in floats 100 * (1 - 0.42) is above 58, and its ceiling 59.
    return n + 1 - math.floor((n + 1) * Fraction(str(float(alpha))))


def _floor(own: NDArray[np.float32], alpha: float) -> float:
    """The rank-th largest of `own` `(n,)`; 0 where there are too few."""
    k = conformal_rank(len(own), alpha)
    return float(np.sort(own)[-k]) if k <= len(own) else 0.0


def _nested_floors(design: NDArray[np.float32], own: NDArray[np.float32], alpha: float) -> list[float]:
    """From the true classes' probabilities `(exits, n)` on either split."""
    surest = np.sort(design, -1)[:, ::-1]
    m, n = surest.shape[1], own.shape[1]
    k = conformal_rank(n, alpha)
    if k > n:
        return [0.0] * len(own)
    # A rank counts the design rows strictly surer, so a tie ranks as the best of its block and none is parted.
    ranks = np.stack([m - np.searchsorted(d[::-1], p, "right") for d, p in zip(surest, own, strict=True)])
    q = int(np.sort(ranks.max(0))[k - 1])
    # At most q design rows are surer <=> the probability is at least that of number q + 1.
    return [float(d[q]) if q < m else 0.0 for d in surest]


def _mondrian_floors(own: NDArray[np.float32], taken: NDArray[np.int64], exits: int, alpha: float) -> list[float]:
    needed = math.ceil(1 / Fraction(str(float(alpha)))) - 1
    floors = []
    for k in range(exits):
        here = own[taken == k]
        if 0 < len(here) < needed:
            raise Infeasible(
                f"{len(here)} of {len(own)} calibration rows leave at exit {k}; sets that miss {alpha:g} there need "
                f"{needed}: calibrate on more rows, close that exit, or use mode 'nested'"
            )
        floors.append(_floor(here, alpha))  # where nobody leaves nothing is known, and every class stays
    return floors


def _true_class(records: Records, temperatures: tuple[float, ...]) -> NDArray[np.float32]:
    """`(exits, n)` probability of the true class."""
    rows, labels = np.arange(records.n), _labels(records)
    return np.stack(
        [
            class_probabilities(o, records.kind, t)[rows, labels]
            for o, t in zip(records.outputs, temperatures, strict=True)
        ]
    )


def _labels(records: Records) -> NDArray[np.int64]:
    if records.labels is None:
        raise DataError(f"{records.name}: prediction sets are about true classes; these records have no labels")
    if records.outputs.ndim != 3:
        raise DataError(
            f"{records.name}: prediction sets need outputs (exits, n, classes), found {records.outputs.shape}; "
            "positions of one sequence are not exchangeable rows"
        )
    return np.asarray(records.labels, np.int64)


def _check_rows(design: Records, calibration: Records) -> None:
    for records in (design, calibration):
        _labels(records)
    d, c = ((r.exits, r.outputs.shape[-1], r.kind, r.temperatures) for r in (design, calibration))
    if d != c:
        raise DataError(
            "design and calibration rows are of two networks (exits, classes, kind, temperatures): "
            f"{design.name} has {d}, {calibration.name} {c}"
        )
    if shared_rows(design, calibration):
        raise DataError(
            f"{calibration.name}: the calibration rows are the design rows, or some of them; nothing can be promised "
            "on rows that chose the policy or the ranks. Split them first (Records.split)"
        )
