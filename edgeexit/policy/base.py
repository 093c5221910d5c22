"""The interface of a policy, and what policies share: defaults, and numbers as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from edgeexit.errors import PolicyError

StopReason = Literal["confident", "rejected", "forced"]


class Policy(Protocol):
    """Scores so far -> stop or go on.

    A new policy is a frozen dataclass that inherits `PolicyDefaults`, has the other members and `from_dict`, and has a
    row in `edgeexit.policy.policies.POLICIES`, or an entry point in the group ``edgeexit.policies``.
    """

    kind: ClassVar[str]
    needs_labels: ClassVar[bool]
    """Whether `stop` reads the predictions; the engine skips the argmax where not."""

    @property
    def exits(self) -> int | None:
        """Number of exits the policy is made for; None = any."""

    @property
    def score(self) -> str | None:
        """The score `stop` compares; None = the policy reads predictions only."""

    @property
    def temperatures(self) -> tuple[float, ...] | None:
        """Per-exit temperatures the numbers were chosen under; None = the artifact's own."""

    @property
    def fixed(self) -> int | None:
        """The exit that always answers, whatever the scores; None = scores decide."""

    @property
    def graph_thresholds(self) -> tuple[np.float32, ...] | None:
        """`(exits - 1,)` thresholds with which a fused graph decides alike; None = a graph cannot."""

    def stop(self, scores: Sequence[Any], labels: Sequence[Any]) -> Any:
        """Stop at exit ``len(scores) - 1``, given all exits so far? Scalars give a bool, arrays an array."""

    def forbids(self, k: int) -> bool:
        """Whether no score stops at exit `k`, so that none need be computed there."""

    def reason(self, k: int, score: Any) -> StopReason:
        """Why an input with this score stopped at exit `k`, before the last one."""

    def accepts(self, score: Any) -> Any:
        """Whether the application accepts answers of this score (a number or an array); None = all of them."""

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON; `policy_from_dict` reads it back."""


class PolicyDefaults:
    """Members of `Policy` for a policy that needs scores to stop, at any exit, and rejects nothing."""

    @property
    def fixed(self) -> int | None:
        return None

    @property
    def graph_thresholds(self) -> tuple[np.float32, ...] | None:
        return None

    def forbids(self, k: int) -> bool:
        return False

    def reason(self, k: int, score: Any) -> StopReason:
        return "confident"

    def accepts(self, score: Any) -> Any:
        return None


def as_float32(values: Sequence[float]) -> tuple[np.float32, ...]:
    """Numbers in float32; beyond it is infinity."""
    with np.errstate(over="ignore"):
        return tuple(np.float32(v) for v in values)


def check_temperatures(temperatures: tuple[float, ...] | None, exits: int) -> None:
    """Check that there is one positive temperature per exit.

    Raises:
        PolicyError: there is not.
    """
    if temperatures is None:
        return
    if len(temperatures) != exits or not all(0 < t < math.inf for t in temperatures):
        raise PolicyError(f"temperatures must be {exits} positive numbers, found {list(temperatures)}")


def to_json(value: float) -> float | str:
    """A number for JSON, which has no infinity: "inf", "-inf"."""
    return value if math.isfinite(value) else str(value)


def from_json(value: Any) -> float:
    """Read what `to_json` gave.

    Raises:
        ValueError: no number.
    """
    if isinstance(value, bool) or (isinstance(value, str) and value not in ("inf", "-inf")):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def numbers(values: Any) -> tuple[float, ...]:
    """A list of such numbers."""
    return tuple(from_json(v) for v in values)


def temperatures_of(table: Mapping[str, Any]) -> tuple[float, ...] | None:
    """The `temperatures` of a policy's table."""
    temperatures = table.get("temperatures")
    return None if temperatures is None else numbers(temperatures)
