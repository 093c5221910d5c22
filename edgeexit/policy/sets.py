"""Prediction sets: the classes that cannot be ruled out yet, with a promised share that holds the true one.

On the device a set is one floor per exit under a class's probability: K compares, and an AND with the exit before.
`edgeexit.calibrate.guarantees.conformal.conformal_sets` makes the floors by split conformal prediction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError, PolicyError
from edgeexit.policy.policies import Policy, policy_from_dict
from edgeexit.policy.scores import Kind, probabilities

SetMode = Literal["nested", "mondrian", "policy"]

SET_MODES: tuple[SetMode, ...] = get_args(SetMode)


@dataclass(frozen=True)
class ConformalSets:
    """Floors under class probabilities, and what they promise.

    Independent conformal sets at every exit let ruled-out classes come back, and their intersection covers too
    little. "nested" floors are made for all exits at once, so whoever stops the network, for whatever reason, holds
    a set that keeps the promise. "policy" and "mondrian" sets are smaller and belong to one policy.

    Example::

        members = None
        for k, output in enumerate(outputs):  # (1, classes) each, as the exits are visited
            members = sets.at(k, output, members)
        classes = np.flatnonzero(members[0])
    """

    mode: SetMode
    floors: tuple[float, ...]
    """`(exits,)` in [0, 1]: a class stays while its probability is at least this. 0 = every class stays."""
    alpha: float
    """Promised share, in (0, 1), of sets that may miss the true class."""
    n: int
    """Calibration rows."""
    temperatures: tuple[float, ...]
    """`(exits,)` divisors of the logits that the floors were chosen under."""
    kind: Kind = "logits"
    """What the exits' outputs hold."""
    policy: Policy | None = None
    """Whose exits the promise is about; None = any way of stopping ("nested")."""

    def __post_init__(self) -> None:
        exits = len(self.floors)
        if self.mode not in SET_MODES or self.kind not in get_args(Kind):
            raise PolicyError(
                f"unknown prediction sets {self.mode!r:.60} of {self.kind!r:.60}; "
                f"known: {', '.join(SET_MODES)} of {', '.join(get_args(Kind))}"
            )
        if exits < 1 or not all(0 <= f <= 1 for f in self.floors):  # NaN fails too
            raise PolicyError(f"prediction sets need a floor in [0, 1] for each exit; found {self.floors!r:.80}")
        if not 0 < self.alpha < 1 or self.n < 1:
            raise PolicyError(f"prediction sets need alpha in (0, 1) and n >= 1; found {self.alpha} and {self.n}")
        if len(self.temperatures) != exits or not all(0 < t < math.inf for t in self.temperatures):
            raise PolicyError(f"temperatures must be {exits} positive numbers, found {self.temperatures!r:.80}")
        if (self.policy is None) != (self.mode == "nested"):
            raise PolicyError(
                "nested prediction sets hold under any policy and name none"
                if self.policy is not None
                else f"{self.mode} prediction sets belong to one policy, and it is missing"
            )
        if self.policy is not None and self.policy.exits not in (None, exits):
            raise PolicyError(f"floors for {exits} exits, but the policy is made for {self.policy.exits}")

    @property
    def exits(self) -> int:
        return len(self.floors)

    @property
    def promise(self) -> str:
        """The guarantee in one sentence, its condition included."""
        where = {
            "nested": "in the sets of all exits, however the network is stopped",
            "mondrian": "in the set, among the inputs that leave at an exit, for each exit",
            "policy": "in the set of the exit taken, over all inputs (hard ones alone may get less)",
        }[self.mode]
        return (
            f"with probability at least {1 - self.alpha:g} the true class is {where}; "
            f"inputs must be exchangeable with the {self.n} calibration rows"
        )

    def at(self, exit: int, output: NDArray[Any], before: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
        """The set at one exit.

        Args:
            exit: its index, 0 = shallowest.
            output: `(..., classes)` of that exit, as the model gives it.
            before: what `at` said at the exit visited before; "nested" sets only shrink from it, the others ignore
                it. None = the first visited. Where only the last exit's output is seen (a fused graph), leave it
                out: the set then is somewhat larger than it could be and keeps the promise.

        Returns:
            `(..., classes)`: True where the class cannot be ruled out. NaN rules nothing out. A set can be empty:
            no class looks as a true one would; and it need not hold the most likely class.

        Raises:
            DataError: no such exit, or `output` and `before` differ in shape.
        """
        if not 0 <= exit < self.exits:
            raise DataError(f"there is no exit {exit}; these prediction sets have exits 0 to {self.exits - 1}")
        # Not `>=`: that would drop a class of unknown probability. The probability and not 1 - p, which loses the
        # small ones to rounding.
        members: NDArray[np.bool_] = ~(
            class_probabilities(output, self.kind, self.temperatures[exit]) < self.floors[exit]
        )
        if self.mode != "nested" or before is None:
            return members
        if before.shape != members.shape:
            raise DataError(f"the set before has shape {before.shape}, exit {exit} gave {members.shape}")
        return members & before

    def fits(self, policy: Policy, exits: int) -> None:
        """Check that the promise is about a policy.

        Raises:
            PolicyError: another number of exits, or made for another policy.
        """
        if self.exits != exits:
            raise PolicyError(f"the prediction sets are of {self.exits} exits, the model has {exits}: calibrate anew")
        if self.policy is not None and self.policy != policy:
            raise PolicyError(
                f"{self.mode} prediction sets hold only under the policy they were calibrated for: calibrate them for "
                "this one, or use nested sets"
            )

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "mode": self.mode,
            "floors": list(self.floors),
            "alpha": self.alpha,
            "n": self.n,
            "temperatures": list(self.temperatures),
            "kind": self.kind,
            "policy": None if self.policy is None else self.policy.to_dict(),
        }

    @classmethod
    def from_dict(cls, table: Any) -> ConformalSets:
        """Read what `to_dict` wrote.

        Raises:
            PolicyError: damaged, or of a schema this version does not know.
        """
        if not isinstance(table, Mapping) or table.get("schema") != 1:
            schema = table.get("schema") if isinstance(table, Mapping) else type(table).__name__
            raise PolicyError(f"prediction sets are a JSON object of schema 1, found {schema!r:.60}")
        mode, floors, alpha, n, temperatures, kind, policy = (
            table.get(key) for key in ("mode", "floors", "alpha", "n", "temperatures", "kind", "policy")
        )
        if not isinstance(mode, str) or not isinstance(kind, str):
            raise PolicyError("damaged prediction sets: mode and kind must be text")
        if not isinstance(floors, list) or not isinstance(temperatures, list):
            raise PolicyError("damaged prediction sets: floors and temperatures must be lists")
        if any(isinstance(v, bool) or not isinstance(v, int | float) for v in (*floors, *temperatures, alpha, n)):
            raise PolicyError("damaged prediction sets: floors, temperatures, alpha and n must be numbers")
        if not isinstance(n, int):
            raise PolicyError(f"damaged prediction sets: n must be a whole number, found {n!r:.60}")
        try:
            f, t, a = tuple(map(float, floors)), tuple(map(float, temperatures)), float(alpha)  # type: ignore[arg-type]
        except OverflowError as e:
            raise PolicyError(f"damaged prediction sets: {e}") from e
        known = None if policy is None else policy_from_dict(policy)
        return cls(mode, f, a, n, t, kind, known)  # type: ignore[arg-type]  # the names are checked there


def class_probabilities(output: NDArray[Any], kind: Kind, temperature: float) -> NDArray[np.float32]:
    """What floors are compared with; probabilities of a quantised artifact may leave [0, 1] by a step."""
    with np.errstate(invalid="ignore", over="ignore"):  # an infinite output gives NaN, which rules nothing out
        return np.clip(probabilities(output, kind, temperature), 0, 1)
