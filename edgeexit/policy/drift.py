"""Drift monitor: says when a policy's exits or scores have left what they were calibrated on.

Needs no labels, no window and no horizon: 48 bytes of state, three microseconds per input.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeexit.errors import DataError, PolicyError
from edgeexit.policy.policies import Policy

KAPPA = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Shares staked per input. Small ones find small shifts late, large ones find large shifts at once; all are played
side by side, because a stake learnt from the stream reacts slowly after a long quiet time."""
CEILING = 1e30
"""Where evidence stops growing: twelve of these still add up in float32."""
ROUNDING = 1e-6
"""Float32 scores may miss [0, 1] by their last bits."""


@dataclass(frozen=True)
class DriftRegime:
    """What inputs do to a policy while nothing has drifted; `calibrate.guarantees.regime` measures it."""

    costs: tuple[float, ...]
    """`(exits,)` cumulative cost as fractions of the last exit's. They are the calibration's, also where those were
    seconds: a device that heats up is slower, but its inputs are the same."""
    bounds: tuple[float, float]
    """Largest mean, in (0, 1], of the cost of the exit taken and of 1 - score there that still counts as no drift."""
    score: str = "maxprob"
    """The score that was measured."""
    level: float = 1e4
    """Evidence at which the alarm goes off: without drift, at least so many inputs pass on average until it does."""
    n: int | None = None
    """Rows the bounds were measured on; None = they were set by hand."""

    def __post_init__(self) -> None:
        if not self.costs or not all(0 < c <= 1 for c in self.costs) or self.costs[-1] != 1:
            raise PolicyError(
                f"a drift regime's costs are fractions in (0, 1] of the last exit's, which is 1; found {self.costs}"
            )
        if len(self.bounds) != 2 or not all(0 < m <= 1 for m in self.bounds):
            raise PolicyError(
                f"a drift regime bounds two means, of cost and of 1 - score, in (0, 1]; found {self.bounds}"
            )
        if not 1 < self.level < CEILING:
            raise PolicyError(f"a drift monitor's alarm level is a number above 1 (10000, say), found {self.level}")
        if self.n is not None and self.n < 1:
            raise PolicyError(f"a drift regime is measured on at least 1 row, found n = {self.n}")

    def fits(self, policy: Policy, exits: int) -> None:
        """Check that these bounds say something about a policy.

        Raises:
            PolicyError: another number of exits, or another score.
        """
        if len(self.costs) != exits:
            raise PolicyError(f"the drift regime is of {len(self.costs)} exits, the model has {exits}: calibrate anew")
        if self.score != (policy.score or "maxprob"):
            raise PolicyError(
                f"the drift regime was measured on {self.score}, the policy scores by {policy.score or 'maxprob'}: "
                "calibrate a regime for this policy, or detach the monitor (drift=None)"
            )

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "costs": list(self.costs),
            "bounds": {"cost": self.bounds[0], "doubt": self.bounds[1]},
            "score": self.score,
            "level": self.level,
            "n": self.n,
        }

    @classmethod
    def from_dict(cls, table: Any) -> DriftRegime:
        """Read what `to_dict` wrote.

        Raises:
            PolicyError: damaged, or of a schema this version does not know.
        """
        if not isinstance(table, Mapping) or table.get("schema") != 1:
            schema = table.get("schema") if isinstance(table, Mapping) else type(table).__name__
            raise PolicyError(f"a drift regime is a JSON object of schema 1, found {schema!r:.60}")
        costs, bounds, score, level, n = (table.get(key) for key in ("costs", "bounds", "score", "level", "n"))
        if not isinstance(costs, list) or not isinstance(bounds, Mapping) or not isinstance(score, str):
            raise PolicyError("damaged drift regime: costs must be a list, bounds an object and score text")
        numbers = [*costs, bounds.get("cost"), bounds.get("doubt"), level, 1 if n is None else n]
        if any(isinstance(v, bool) or not isinstance(v, int | float) for v in numbers):
            raise PolicyError("damaged drift regime: costs, bounds.cost, bounds.doubt and level must be numbers")
        if not isinstance(n, int | None):
            raise PolicyError(f"damaged drift regime: n must be a whole number or null, found {n!r:.60}")
        try:
            *costs, cost, doubt, level = (float(v) for v in numbers[:-1])
        except OverflowError as e:
            raise PolicyError(f"damaged drift regime: {e}") from e
        return cls(tuple(costs), (cost, doubt), score, level, n)


class DriftMonitor:
    """Watches the cost of the exits taken and the doubt, 1 - score, of their answers.

    A gambler starts with 1 and bets on every input that a mean has risen above its bound m: a stake kappa turns
    wealth d into ``max(d, 1) * (1 - kappa + kappa * z / m)``. While the means keep within their bounds she cannot
    expect to win, and the mean wealth of all stakes takes at least `level` inputs on average to reach `level`: an
    e-detector (Shin, Ramdas & Rinaldo, "E-detectors: a nonparametric framework for sequential change detection",
    2022), with a grid of stakes.

    The promise needs inputs whose means keep within the bounds *given the past*. Neighbouring frames of a video are
    one event, not many: feed one of them. Only a rise is noticed, and an alarm says that the operating point left
    its regime, not that answers became wrong.

    Example::

        monitor = DriftMonitor(regime)
        engine = edgeexit.load("digits.edgeexit", policy="half", drift=monitor)
        if engine.run(x).drifted:
            ...  # calibrate again, then engine.drift = DriftMonitor(new_regime)
    """

    def __init__(self, regime: DriftRegime) -> None:
        self.regime = regime
        self._inverse = tuple(1 / m for m in regime.bounds)
        self.reset()

    def reset(self) -> None:
        """Begin anew: after recalibration, or once an alarm has been dealt with."""
        # Plain numbers beat numpy on twelve values (a third of the time); float32, as on a microcontroller.
        self.state = array("f", [1.0] * (len(KAPPA) * len(self._inverse)))
        self.seen = 0
        """Inputs since the last reset."""
        self.alarm: int | None = None
        """Which of them, counted from 1, set off the alarm; None = none did."""

    @property
    def evidence(self) -> float:
        """Mean wealth; the alarm goes off when it reaches the regime's level."""
        return sum(self.state) / len(self.state)

    def see(self, exit: int, score: float) -> bool:
        """Take in one answer: the exit that gave it, and its score there. As `update`."""
        return self.update((self.regime.costs[exit], 1 - score))

    def update(self, z: tuple[float, float]) -> bool:
        """Take in one input's relative cost and doubt, both in [0, 1].

        Returns:
            Whether there is drift; from the alarm on True, until `reset`.

        Raises:
            DataError: NaN, or outside [0, 1]; the state is then as before.
        """
        for value in z:
            if not -ROUNDING <= value <= 1 + ROUNDING:  # NaN fails too
                raise DataError(f"the drift monitor takes a relative cost and 1 - score, both in [0, 1]; found {z}")
        state, total, i = self.state, 0.0, 0
        for value, inverse in zip(z, self._inverse, strict=True):
            gain = value * inverse - 1
            for kappa in KAPPA:
                wealth = state[i]
                if wealth < 1:
                    wealth = 1.0
                wealth *= 1 + kappa * gain
                if wealth > CEILING:
                    wealth = CEILING
                state[i] = wealth
                total += wealth
                i += 1
        self.seen += 1
        if self.alarm is None and total >= self.regime.level * i:
            self.alarm = self.seen
        return self.alarm is not None
