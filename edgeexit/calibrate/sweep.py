"""Sweep of policies x budgets over recorded exit outputs: chosen on design rows, reported on held-out rows.

Nothing runs a model: each family's front is computed once on the design rows, every budget looks its point up
there, and the point is replayed over the held-out rows.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.families import ADAPTIVE, BASELINES, swept
from edgeexit.calibrate.guarantees.promises import ALPHAS, DELTA, Promise, promises
from edgeexit.calibrate.metrics.intervals import wilson
from edgeexit.calibrate.metrics.reliability import reliability_per_exit
from edgeexit.calibrate.rejection.comparison import RISKS, Rejection, rejections
from edgeexit.calibrate.rows import check_pair, need_classes, need_exits, need_tellable
from edgeexit.calibrate.search.family import Choice
from edgeexit.calibrate.search.line import Line
from edgeexit.calibrate.sweep_result import Calibration, Row, Static, Sweep
from edgeexit.calibrate.temperature import fit_useful_temperatures
from edgeexit.calibrate.verdict import Verdict, judge
from edgeexit.errors import DataError, Infeasible, PolicyError
from edgeexit.records.base import Rows
from edgeexit.records.classification import Records

__all__ = [
    "ADAPTIVE",
    "ALPHAS",
    "BASELINES",
    "Calibration",
    "DELTA",
    "Promise",
    "Rejection",
    "Row",
    "Static",
    "Sweep",
    "Verdict",
    "default_budgets",
    "sweep",
]


def default_budgets(records: Rows, count: int = 25) -> tuple[float, ...]:
    """From the cheapest exit's cost to the last one's, evenly spaced in ratio."""
    return tuple(float(b) for b in np.geomspace(records.relative_cost[0], 1.0, count))


def sweep(
    design: Rows,
    held_out: Rows,
    policies: Sequence[str] | None = None,
    budgets: Sequence[float] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    *,
    seconds: Sequence[float] | None = None,
    environment: Mapping[str, Any] | None = None,
    alphas: Sequence[float] = ALPHAS,
    delta: float = DELTA,
    risks: Sequence[float] = RISKS,
    seed: int = 0,
) -> Sweep:
    """Compare policies at budgets, guarantees at losses promised, and rules to reject at risks.

    Args:
        design: rows that policies are chosen on.
        held_out: other rows of the same artifact, that everything is reported on.
        policies: lines of `families.swept`; None = all.
        budgets: fractions of the last exit's cost in (0, 1]; None = `default_budgets`.
        progress: called as ``progress(done, total, policy)`` before each policy, and once at the end.
        seconds: `(exits,)` median seconds to answer at each exit; None = not measured.
        environment: device, versions, threads; carried into the reports.
        alphas: losses to promise, each in (0, 1): the design rows are split in two for it, see
            `edgeexit.calibrate.guarantees.promises`; empty = no promises.
        delta: probability that a promise is broken, in (0, 1).
        risks: target risks for applications that reject, each in (0, 1), see `calibrate.rejection.comparison`; left out
            where there are no labels.
        seed: of the random exits and of the promises' split.

    Raises:
        PolicyError: unknown policy, a budget outside (0, 1], or an alpha, delta or risk outside (0, 1).
        DataError: the two sets of rows cannot be compared, seconds do not fit the exits, or promises are asked for
            and there is only one design row.
    """
    check_pair(design, held_out)
    need_exits(design)
    need_classes(design)
    need_tellable(design)
    budgets = _checked_budgets(default_budgets(design) if budgets is None else budgets)
    known = swept(design)
    names = tuple(known) if policies is None else tuple(dict.fromkeys(policies))
    if unknown := [p for p in names if p not in known]:
        raise PolicyError(f"unknown policy {', '.join(map(repr, unknown))}; a sweep knows: {', '.join(known)}")
    own = None if held_out.seconds is None else held_out.seconds.mean(1)
    times = _checked_seconds(own if seconds is None and own is not None else seconds, design.exits)
    tell = progress or (lambda done, total, policy: None)
    lines: dict[str, Line] = {}
    rows: list[Row] = []
    for done, name in enumerate(names):
        tell(done, len(names), name)
        lines[name] = Line(*known[name], design, held_out, seed)
        for budget in budgets:
            row = Row(name, lines[name].curve.score, budget, held_out.n)
            with contextlib.suppress(Infeasible):
                row = _filled(row, lines[name].choose(budget), times, lines[name].scoring)
            rows.append(row)
    promised = promises(design, held_out, alphas, delta, seed=seed) if len(alphas) else ()
    by_class = isinstance(held_out, Records) and held_out.labelled
    rejected = rejections(design, held_out, risks) if by_class else ()
    tell(len(names), len(names), "")
    fronts = {name: front for name, line in lines.items() if (front := line.front) is not None}
    verdict = judge(design, held_out, fronts)
    for compared in (verdict.equal, verdict.at_drop):  # the first line quotes rows of the table
        if compared is not None:
            line = lines[compared.policy]
            row = Row(compared.policy, line.curve.score, compared.budget, held_out.n)
            row = _filled(row, line.choose_again(compared.budget), times, line.scoring)
            if not any(r.policy == row.policy and r.design_cost == row.design_cost for r in rows):
                rows.append(row)
    rows.sort(key=lambda row: (names.index(row.policy), row.budget))
    return Sweep(
        verdict=verdict,
        rows=tuple(rows),
        statics=_statics(design, held_out, times),
        measure=held_out.measure,
        data={
            "design": design.name,
            "design_rows": design.n,
            "held_out": held_out.name,
            "held_out_rows": held_out.n,
            "static_cost_known": design.static_cost is not None,
        },
        environment=dict(environment or {}),
        seconds=times,
        audio_seconds=held_out.audio_seconds,
        calibration=_calibration(design, held_out),
        promises=promised,
        rejections=rejected,
        curves=tuple(line.curve for line in lines.values()),
    )


def _calibration(design: Rows, held_out: Rows) -> tuple[Calibration, ...]:
    if not isinstance(design, Records) or not isinstance(held_out, Records):
        return ()
    if not design.labelled or not held_out.labelled or design.n < 2:
        return ()
    fitted = fit_useful_temperatures(design)
    before = reliability_per_exit(held_out, (1.0,) * held_out.exits)
    after = reliability_per_exit(held_out, tuple(t.value for t in fitted))
    return tuple(
        Calibration(k, b, t.value, t.skipped, a) for k, (b, t, a) in enumerate(zip(before, fitted, after, strict=True))
    )


def _filled(row: Row, choice: Choice, seconds: tuple[float, ...] | None, scoring: NDArray[np.float64] | None) -> Row:
    there, policy = choice.measured, choice.policy
    low, high = wilson(there.accuracy, there.n, there.variance)
    time = there.seconds
    if time is None and seconds is not None:
        time = float(np.dot(there.exit_rates, seconds))
    if time is not None and scoring is not None:
        time += float(np.dot(there.exit_rates, scoring))
    return replace(
        row,
        design_cost=choice.design_cost,
        design_accuracy=choice.design_accuracy,
        cost=there.cost,
        accuracy=there.accuracy,
        accuracy_low=low,
        accuracy_high=high,
        exit_rates=there.exit_rates,
        thresholds=getattr(policy, "thresholds", None),
        patience=getattr(policy, "patience", None),
        q=getattr(policy, "q", None),
        seconds=time,
    )


def _statics(design: Rows, held_out: Rows, seconds: tuple[float, ...] | None) -> tuple[Static, ...]:
    right, right_design = (r.correct.mean(1, dtype=np.float64) for r in (held_out, design))
    return tuple(
        Static(
            k,
            float(design.relative_static_cost[k]),
            float(design.relative_cost[k]),
            float(right[k]),
            *wilson(float(right[k]), held_out.n, float(held_out.correct[k].var(dtype=np.float64))),
            design_accuracy=float(right_design[k]),
            seconds=None if seconds is None else seconds[k],
        )
        for k in range(design.exits)
    )


def _checked_budgets(budgets: Sequence[float]) -> tuple[float, ...]:
    if not budgets or not all(0 < b <= 1 for b in budgets):
        raise PolicyError(f"budgets are fractions of the last exit's cost in (0, 1], found {list(budgets)}")
    return tuple(sorted({float(b) for b in budgets}))


def _checked_seconds(seconds: Sequence[float] | None, exits: int) -> tuple[float, ...] | None:
    if seconds is None:
        return None
    if len(seconds) != exits or not all(0 < s < math.inf for s in seconds):
        raise DataError(f"seconds must be {exits} positive numbers, one per exit, found {list(seconds)}")
    return tuple(float(s) for s in seconds)
