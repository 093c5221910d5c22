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
from edgeexit.policy.scores import check_name


class Policy(Protocol):
    """What the engine and the replay need of a policy.

    A new policy is a frozen dataclass with these members, `from_dict` and a row in `POLICIES`.
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
        check_name(self.score)
        object.__setattr__(self, "thresholds", thresholds)
        object.__setattr__(self, "compared", _as_float32(thresholds))
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

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Threshold:
        return cls(_numbers(table["thresholds"]), table["score"], _temperatures_of(table))


@dataclass(frozen=True)
class Window:
    """Stop at exit k when its score lies outside ``[low[k], high[k])``: surely rejected, or surely accepted.

    For applications that accept an answer from a confidence `tau` on and otherwise reject it. Only scores near
    `tau` can still change sides, so only they are worth more layers (Xia and Bouganis, "Window-Based Early-Exit
    Cascades for Uncertainty Estimation", ICCV 2023). Not for answering every input: the hopeless ones stop early.

    ``low = -inf, high = inf`` forbids an exit; ``low = high`` forces it.
    """

    kind: ClassVar[str] = "window"
    needs_labels: ClassVar[bool] = False

    low: tuple[float, ...]
    """One for every exit but the last."""
    high: tuple[float, ...]
    """As `low`, and never less."""
    tau: float
    """The application accepts an answer whose score, at whichever exit it stopped, is at least this."""
    score: str = "maxprob"
    temperatures: tuple[float, ...] | None = None
    compared: tuple[tuple[np.float32, np.float32], ...] = field(init=False, repr=False, compare=False)
    """The windows as float32."""
    accepted_at: np.float32 = field(init=False, repr=False, compare=False)
    """`tau` as float32."""

    def __post_init__(self) -> None:
        low, high, tau = tuple(map(float, self.low)), tuple(map(float, self.high)), float(self.tau)
        if len(low) != len(high):
            raise PolicyError(f"a window needs as many low as high ends, found {len(low)} and {len(high)}")
        if any(math.isnan(t) for t in (*low, *high, tau)):
            raise PolicyError(
                f"a window's end or tau is NaN: low {list(low)}, high {list(high)}, tau {tau}; "
                "use low -inf and high inf to forbid an exit"
            )
        for k, (a, b) in enumerate(zip(low, high, strict=True)):
            if a > b:
                raise PolicyError(f"the window of exit {k} has low {a:g} above high {b:g}; low must not exceed high")
        check_name(self.score)
        for name, value in (("low", low), ("high", high), ("tau", tau)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "compared", tuple(zip(_as_float32(low), _as_float32(high), strict=True)))
        object.__setattr__(self, "accepted_at", _as_float32((tau,))[0])
        _check_temperatures(self.temperatures, self.exits)

    @property
    def exits(self) -> int:
        return len(self.low) + 1

    def stop(self, scores: Sequence[Any], labels: Sequence[Any] = ()) -> Any:
        low, high = self.compared[len(scores) - 1]
        return (scores[-1] < low) | (scores[-1] >= high)  # NaN is neither, so it goes on

    def accepts(self, score: Any) -> Any:
        """Whether the application accepts answers of this score (a number or an array); NaN never."""
        return score >= self.accepted_at

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "score": self.score,
            "low": [_to_json(t) for t in self.low],
            "high": [_to_json(t) for t in self.high],
            "tau": _to_json(self.tau),
            "temperatures": None if self.temperatures is None else list(self.temperatures),
        }

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Window:
        low, high, tau = _numbers(table["low"]), _numbers(table["high"]), _from_json(table["tau"])
        return cls(low, high, tau, table["score"], _temperatures_of(table))


@dataclass(frozen=True)
class QExit:
    """Stop at the first exit where the probability of having stopped, ``1 - prod(1 - score_j)``, is above `q`.

    PALBERT's Q-exit (Balagansky and Gavrilov, NeurIPS 2022): the score of exit j is taken as the probability of
    stopping there if not before, so ``q = 0.5`` stops at the median of the exit distribution. Meant for a halting
    score that was trained as such a probability; any score in [0, 1] is accepted, but then `q` is only a knob.
    """

    kind: ClassVar[str] = "qexit"
    needs_labels: ClassVar[bool] = False

    q: float = 0.5
    score: str = "maxprob"
    temperatures: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.q, bool) or not isinstance(self.q, int | float) or not 0 <= self.q < 1:
            raise PolicyError(f"q is a probability in [0, 1), found {self.q!r}; 0.5 is the median exit")
        check_name(self.score)
        if self.temperatures is not None:
            _check_temperatures(self.temperatures, len(self.temperatures))

    @property
    def exits(self) -> int | None:
        return None if self.temperatures is None else len(self.temperatures)

    def stop(self, scores: Sequence[Any], labels: Sequence[Any] = ()) -> Any:
        # float32 throughout and always in this order, so that one input decides as it does in a batch. A NaN
        # at any exit so far makes the product NaN: nothing is known of such an input, and it goes on to the end.
        survived: Any = np.float32(1)
        for s in scores:
            survived = survived * (np.float32(1) - s)
        return np.float32(1) - survived > np.float32(self.q)

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "score": self.score,
            "q": self.q,
            "temperatures": None if self.temperatures is None else list(self.temperatures),
        }

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> QExit:
        return cls(table["q"], table["score"], _temperatures_of(table))


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

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Patience:
        return cls(table["patience"])


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
        return POLICIES[kind].from_dict(table)
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise PolicyError(f"policy table of kind {kind!r} is damaged: {e}") from e


POLICIES: dict[str, type[Threshold] | type[Patience] | type[Window] | type[QExit]] = {
    "threshold": Threshold,
    "patience": Patience,
    "window": Window,
    "qexit": QExit,
}


def _as_float32(values: Sequence[float]) -> tuple[np.float32, ...]:
    with np.errstate(over="ignore"):  # beyond float32 is infinity
        return tuple(np.float32(v) for v in values)


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


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(_from_json(v) for v in values)


def _temperatures_of(table: Mapping[str, Any]) -> tuple[float, ...] | None:
    temperatures = table.get("temperatures")
    return None if temperatures is None else _numbers(temperatures)
