"""Result of a sweep: verdict, policies under budgets, single exits, calibration, promises and rejections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeexit.calibrate.guarantees.promises import Promise
from edgeexit.calibrate.metrics.reliability import Reliability
from edgeexit.calibrate.rejection.comparison import Rejection
from edgeexit.calibrate.search.family import SweepCurve
from edgeexit.calibrate.verdict import Verdict


@dataclass(frozen=True)
class Row:
    """One policy under one budget. All numbers are None where the policy cannot meet the budget."""

    policy: str
    score: str | None
    """What is compared; None for patience and the baselines."""
    budget: float
    """Mean cost allowed on the design rows, as a fraction of the last exit's."""
    n: int
    """Held-out rows."""
    design_cost: float | None = None
    design_accuracy: float | None = None
    cost: float | None = None
    """On the held-out rows, as everything below."""
    accuracy: float | None = None
    accuracy_low: float | None = None
    """95 % Wilson interval, as `accuracy_high`."""
    accuracy_high: float | None = None
    exit_rates: tuple[float, ...] | None = None
    thresholds: tuple[float, ...] | None = None
    """For every exit but the last; None for Q-exit, patience and random exits."""
    patience: int | None = None
    q: float | None = None
    """Of Q-exit: the probability of having stopped that stops."""
    seconds: float | None = None
    """Mean per row, its scores included: exit rates times the sweep's seconds per exit, or of every row's own time
    where each was timed. None where those are unknown."""

    @property
    def feasible(self) -> bool:
        return self.cost is not None


@dataclass(frozen=True)
class Static:
    """One exit taken for every input."""

    exit: int
    cost: float
    """Of a network with this exit alone, as a fraction of the adaptive network's last exit."""
    cost_inside: float
    """Of this exit within the adaptive network: the heads before it are paid too."""
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    design_accuracy: float
    seconds: float | None = None
    """Within the adaptive network; None = not measured."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Whether an exit's probabilities mean what they say, on the held-out rows."""

    exit: int
    before: Reliability
    """At temperature 1."""
    temperature: float
    """Fitted on the design rows; 1 where it was skipped."""
    skipped: str | None
    """Why no temperature is worth it; None = it is."""
    after: Reliability
    """At `temperature`."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep found, ready for `edgeexit.report`."""

    verdict: Verdict
    rows: tuple[Row, ...]
    """Policy by policy, budgets growing: every budget asked for, and the points that the verdict quotes."""
    statics: tuple[Static, ...]
    measure: str
    """What `accuracy` holds everywhere: "accuracy", "agreement" with the last exit, or 1 less an error rate ("WER",
    "CER"), so that larger is always better; what people read shows the error rate."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """`design`, `design_rows`, `held_out`, `held_out_rows`; `static_cost_known` is False where single-exit
    networks were taken to cost as much as the exit inside the adaptive network."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Device, versions, threads: whatever the caller knows."""
    seconds: tuple[float, ...] | None = None
    """`(exits,)` median seconds to answer at each exit, measured by the caller, or the mean over the held-out rows
    where each was timed; None = not measured."""
    audio_seconds: float | None = None
    """Mean length of the held-out utterances: seconds over it are the real-time factor; None = no sound."""
    calibration: tuple[Calibration, ...] = field(default=(), compare=False)
    """One per exit; empty without labels."""
    promises: tuple[Promise, ...] = ()
    """Guarantee by guarantee, alphas growing; empty where none were asked for."""
    rejections: tuple[Rejection, ...] = ()
    """Risk by risk; empty without labels or where none were asked for."""
    curves: tuple[SweepCurve, ...] = field(default=(), compare=False)
    """How each policy's line is drawn."""

    @property
    def policies(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.policy for row in self.rows))
