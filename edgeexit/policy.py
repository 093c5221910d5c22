"""Policies: scores so far -> stop or go on. A policy is a small table of numbers, never code.

Every policy has one method, `stop`, that works on numbers (one input) and on arrays (a batch, a replay)
alike, so running and replaying cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from edgeexit.errors import PolicyError
from edgeexit.scores import SCORES


class Policy(Protocol):
    """What the engine and the replay need of a policy.

    A new policy is a frozen dataclass with these members and a row in `POLICIES`.
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

    def stop(self, scores: Sequence[Any], labels: Sequence[Any]) -> Any:
        """Stop at exit ``len(scores) - 1``, given all exits so far? Scalars give a bool, arrays an array."""

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON; `policy_from_dict` reads it back."""


@dataclass(frozen=True)
class Threshold:
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
        if self.score not in SCORES:
            raise PolicyError(f"unknown score {self.score!r}; known: {', '.join(SCORES)}")
        object.__setattr__(self, "thresholds", thresholds)
        with np.errstate(over="ignore"):  # beyond float32 is infinity
            object.__setattr__(self, "compared", tuple(np.float32(t) for t in thresholds))
        _check_temperatures(self.temperatures, self.exits)

    @property
    def exits(self) -> int:
        return len(self.thresholds) + 1

    def stop(self, scores: Sequence[Any], labels: Sequence[Any] = ()) -> Any:
        return scores[-1] >= self.compared[len(scores) - 1]

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "score": self.score,
            "thresholds": [_to_json(t) for t in self.thresholds],
            "temperatures": None if self.temperatures is None else list(self.temperatures),
        }


@dataclass(frozen=True)
class Patience:
    """Stop once `patience` exits in a row agreed with the exit before them (PABEE, Zhou et al., NeurIPS 2020).

    ``patience=1`` stops at the second exit if it repeats the first one's prediction.
    """

    kind: ClassVar[str] = "patience"
    needs_labels: ClassVar[bool] = True
    score: ClassVar[None] = None
    exits: ClassVar[None] = None
    temperatures: ClassVar[None] = None

    patience: int

    def __post_init__(self) -> None:
        if isinstance(self.patience, bool) or not isinstance(self.patience, int) or self.patience < 1:
            raise PolicyError(f"patience must be a whole number of at least 1, found {self.patience!r}")

    def stop(self, scores: Sequence[Any], labels: Sequence[Any]) -> Any:
        if len(labels) <= self.patience:
            return np.zeros(np.shape(labels[-1])[:1], bool) if np.ndim(labels[-1]) else False
        agreed: Any = True
        for earlier in labels[-1 - self.patience : -1]:
            same = earlier == labels[-1]
            # Sequences agree when all their positions do.
            agreed = agreed & (same if np.ndim(same) < 2 else same.reshape(len(same), -1).all(1))
        return agreed

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "patience": self.patience}


def fixed_exit(k: int, exits: int, score: str = "maxprob") -> Threshold:
    """The policy that always answers at exit `k` of `exits`.

    Raises:
        PolicyError: there is no such exit.
    """
    if not 0 <= k < exits:
        raise PolicyError(f"there is no exit {k}; the model has exits 0 to {exits - 1}")
    return Threshold(tuple(-math.inf if j >= k else math.inf for j in range(exits - 1)), score)


def policy_from_dict(table: Any) -> Policy:
    """Read what `Policy.to_dict` wrote.

    Raises:
        PolicyError: not such a table.
    """
    kind = table.get("kind") if isinstance(table, Mapping) else table
    if not isinstance(kind, str) or kind not in POLICIES or not isinstance(table, Mapping):
        raise PolicyError(f"unknown policy kind {kind!r:.60}; known: {', '.join(POLICIES)}")
    try:
        if kind == "patience":
            return Patience(table["patience"])
        temperatures = table.get("temperatures")
        return Threshold(
            tuple(_from_json(t) for t in table["thresholds"]),
            table["score"],
            None if temperatures is None else tuple(_from_json(t) for t in temperatures),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise PolicyError(f"policy table of kind {kind!r} is damaged: {e}") from e


POLICIES: dict[str, type] = {"threshold": Threshold, "patience": Patience}


@dataclass(frozen=True)
class OperatingPoint:
    """One policy with the numbers it was chosen for."""

    name: str
    policy: Policy
    artifact: str | None = None
    """The artifact whose scores it was calibrated on; it may run on no other. None = recorded outputs."""
    expected: Mapping[str, Any] = field(default_factory=dict)
    """What to expect: `exit_rates` (exits,), `cost` as a fraction of the last exit's, `accuracy` or
    `agreement`, `n` rows it was measured on, `measured_on` in words."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """The target: `budget`, `accuracy` or `accuracy_drop`."""
    promise: Mapping[str, Any] | None = None
    """A proven bound (what, alpha, delta, n); None = the numbers are estimates, nothing is promised."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Where the calibration rows came from: file name, sha256, seed, rows."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "name": self.name,
            "artifact": self.artifact,
            "policy": self.policy.to_dict(),
            "asked": dict(self.asked),
            "expected": dict(self.expected),
            "promise": None if self.promise is None else dict(self.promise),
            "data": dict(self.data),
        }

    @classmethod
    def from_dict(cls, table: Any) -> OperatingPoint:
        """Read what `to_dict` wrote.

        Raises:
            PolicyError: damaged, or of a schema this version does not know.
        """
        if not isinstance(table, Mapping):
            raise PolicyError(f"an operating point is a JSON object, found {type(table).__name__}")
        if table.get("schema") != 1:
            raise PolicyError(f"operating point of schema {table.get('schema')!r}; this version knows 1")
        name, artifact, promise = table.get("name"), table.get("artifact"), table.get("promise")
        sections = {key: table.get(key, {}) for key in ("asked", "expected", "data")}
        if not isinstance(name, str) or not isinstance(artifact, str | None):
            raise PolicyError("operating point without a name, or with an artifact that is not text")
        if not all(isinstance(s, Mapping) for s in (*sections.values(), promise or {})):
            raise PolicyError(f"operating point {name!r}: asked, expected, data and promise must be objects")
        expected = sections["expected"]
        rates = expected.get("exit_rates", [])
        numbers = [*sections["asked"].values(), *(expected.get(key, 0) for key in _MEASURED)]
        if not isinstance(rates, list) or not all(_is_number(n) for n in (*numbers, *rates)):
            raise PolicyError(f"operating point {name!r:.60}: what was asked and is expected must be numbers")
        return cls(name, policy_from_dict(table.get("policy")), artifact, promise=promise, **sections)


_MEASURED = ("cost", "accuracy", "agreement", "n")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_temperatures(temperatures: tuple[float, ...] | None, exits: int) -> None:
    if temperatures is None:
        return
    if len(temperatures) != exits or not all(0 < t < math.inf for t in temperatures):
        raise PolicyError(f"temperatures must be {exits} positive numbers, found {list(temperatures)}")


def _to_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)  # JSON has no infinity: "inf", "-inf"


def _from_json(value: Any) -> float:
    if isinstance(value, bool) or (isinstance(value, str) and value not in ("inf", "-inf")):
        raise ValueError(f"{value!r} is not a number")
    return float(value)
