"""Policy threshold: stop at the first exit whose score reaches its threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from edgeexit.errors import PolicyError
from edgeexit.policy.base import (
    PolicyDefaults,
    StopReason,
    as_float32,
    check_temperatures,
    numbers,
    temperatures_of,
    to_json,
)
from edgeexit.policy.scores import score_named


@dataclass(frozen=True)
class Threshold(PolicyDefaults):
    """Stop at the first exit k whose score is at least ``thresholds[k]``.

    ``-inf`` forces an exit and ``inf`` forbids it, so fixed exits, smallest and largest exits are thresholds too.
    """

    kind: ClassVar[str] = "threshold"
    needs_labels: ClassVar[bool] = False

    thresholds: tuple[float, ...]
    """One for every exit but the last."""
    score: str = "maxprob"
    temperatures: tuple[float, ...] | None = None
    compared: tuple[np.float32, ...] = field(init=False, repr=False, compare=False)
    """The thresholds as float32, as the fused graph holds them."""

    def __post_init__(self) -> None:
        thresholds = tuple(float(t) for t in self.thresholds)
        if any(math.isnan(t) for t in thresholds):
            raise PolicyError(f"a threshold is NaN: {list(thresholds)}; use inf to forbid an exit, -inf to force it")
        score_named(self.score)
        object.__setattr__(self, "thresholds", thresholds)
        object.__setattr__(self, "compared", as_float32(thresholds))
        check_temperatures(self.temperatures, self.exits)

    @property
    def exits(self) -> int:
        return len(self.thresholds) + 1

    def stop(self, scores: Sequence[Any], labels: Sequence[Any] = ()) -> Any:
        return scores[-1] >= self.compared[len(scores) - 1]

    @property
    def fixed(self) -> int | None:
        if any(abs(t) != math.inf for t in self.thresholds):
            return None
        return next((k for k, t in enumerate(self.thresholds) if t < 0), self.exits - 1)

    @property
    def graph_thresholds(self) -> tuple[np.float32, ...]:
        return self.compared

    def forbids(self, k: int) -> bool:
        return self.thresholds[k] == math.inf

    def reason(self, k: int, score: Any) -> StopReason:
        return "forced" if self.thresholds[k] == -math.inf else "confident"

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "score": self.score,
            "thresholds": [to_json(t) for t in self.thresholds],
            "temperatures": None if self.temperatures is None else list(self.temperatures),
        }

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Threshold:
        return cls(numbers(table["thresholds"]), table["score"], temperatures_of(table))


def fixed_exit(k: int, exits: int, score: str = "maxprob") -> Threshold:
    """The policy that always answers at exit `k` of `exits`.

    Raises:
        PolicyError: there is no such exit.
    """
    if not 0 <= k < exits:
        raise PolicyError(f"there is no exit {k}; the model has exits 0 to {exits - 1}")
    return Threshold(tuple(-math.inf if j >= k else math.inf for j in range(exits - 1)), score)
