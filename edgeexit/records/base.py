"""Rows that policies are chosen and measured on, and replay: a policy runs over them instead of the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError, PolicyError
from edgeexit.policy.policies import Policy

T = TypeVar("T")
R = TypeVar("R", bound="Rows")


class Rows(ABC):
    """What every exit did with n inputs, and what each exit costs.

    `records.classification.Records` holds classes, `records.transcripts.SequenceRecords` transcripts. Both are frozen
    dataclasses with the fields below.
    """

    cost: NDArray[np.float64]
    """`(exits,)` cumulative cost of answering at each exit of the adaptive network, heads on the way included."""
    static_cost: NDArray[np.float64] | None
    """`(exits,)` cost of a network that has this one exit only; None = taken as `cost`."""
    stored_scores: Mapping[str, NDArray[np.float32]]
    """Scores `(exits, n)` that the artifact, its exits or its run computed; they win over recomputed ones."""
    temperatures: tuple[float, ...] | None
    """Per-exit temperatures of the artifact; None = all 1."""
    name: str
    """Where the rows came from, for messages and reports."""
    _cache: dict[Any, Any]

    @property
    def exits(self) -> int:
        return len(self.cost)

    @property
    @abstractmethod
    def n(self) -> int:
        """How many inputs."""

    @property
    @abstractmethod
    def labelled(self) -> bool:
        """Whether the true answers are known; if not, agreement with the last exit takes their place."""

    @property
    @abstractmethod
    def measure(self) -> str:
        """What the mean of `correct` is, of `edgeexit.common.measures.MEASURES`."""

    @property
    @abstractmethod
    def predictions(self) -> NDArray[np.int64]:
        """`(exits, n, ...)` numbers that are equal where answers are."""

    @property
    @abstractmethod
    def agreement(self) -> NDArray[np.float64]:
        """`(exits, n)`: 1 where the exit answers as the last one; for classes of many positions their mean."""

    @property
    @abstractmethod
    def correct(self) -> NDArray[Any]:
        """`(exits, n)`: what each answer is worth; the mean over rows is the accuracy, larger = better."""

    @property
    @abstractmethod
    def right(self) -> NDArray[Any]:
        """`(exits, n)` in [0, 1]: how right each answer is by itself; `correct` may weigh rows."""

    @property
    @abstractmethod
    def whole(self) -> bool:
        """Whether `right` is 0 or 1 by its nature, and nothing between."""

    @property
    @abstractmethod
    def score_names(self) -> tuple[str, ...]:
        """The scores that `scores` knows here."""

    @property
    @abstractmethod
    def default_score(self) -> str:
        """The score that thresholds compare where none is named."""

    @abstractmethod
    def scores(self, name: str, temperatures: tuple[float, ...] | None = None) -> NDArray[np.float32]:
        """`(exits, n)` scores; `temperatures` of None means the artifact's own.

        Raises:
            PolicyError: an unknown score, one that these rows do not hold, or not one temperature per exit.
        """

    @abstractmethod
    def take(self: R, rows: NDArray[Any]) -> R:
        """Some of the rows."""

    @abstractmethod
    def prints(self) -> list[bytes]:
        """`(n,)` what an input's answers look like: the same input on the same artifact gives the same."""

    @abstractmethod
    def digest(self) -> str:
        """sha256 of everything recorded: the same rows give the same."""

    @property
    def seconds(self) -> NDArray[np.float64] | None:
        """`(exits, n)` measured seconds to answer each input at each exit; None = not measured one by one."""
        return None

    def scoring_seconds(self, score: str | None) -> NDArray[np.float64] | None:
        """`(exits,)` mean seconds that a score took, at an exit and those before it; None = not measured.

        Args:
            score: None = what patience looks at, the answers.
        """
        return None

    @property
    def audio_seconds(self) -> float | None:
        """Mean length of the sound of a row; None = there is none, or it is unknown."""
        return None

    @property
    def relative_cost(self) -> NDArray[np.float64]:
        """`(exits,)` as fractions of the last exit's."""
        return np.asarray(self.cost / self.cost[-1])

    @property
    def relative_static_cost(self) -> NDArray[np.float64]:
        """`(exits,)` of the single-exit networks, as fractions of the adaptive network's last exit."""
        return np.asarray((self.cost if self.static_cost is None else self.static_cost) / self.cost[-1])

    def priced(self: R, cost: NDArray[np.float64]) -> R:
        """The same rows at other costs `(exits,)`; what single-exit networks cost is then unknown."""
        changed: R = replace(self, cost=cost, static_cost=None)  # type: ignore[type-var]
        return changed

    def split(self: R, fraction: float, seed: int) -> tuple[R, R]:
        """Two disjoint parts, seeded: the first with `fraction` of the rows.

        Raises:
            DataError: a part would be empty.
        """
        first, second = self.parts(fraction, seed)
        return self.take(first), self.take(second)

    def parts(self, fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows of each part of `split`, growing.

        Raises:
            DataError: as `split`.
        """
        cut = round(self.n * fraction) if 0 < fraction < 1 else 0
        if not 0 < cut < self.n:
            raise DataError(f"{self.name}: {self.n} rows cannot be split {fraction:g} : {1 - fraction:g}")
        order = np.random.default_rng(seed).permutation(self.n)
        return np.sort(order[:cut]), np.sort(order[cut:])

    def _once(self, key: Any, make: Callable[[], T]) -> T:
        if key not in self._cache:
            self._cache[key] = make()
        value: T = self._cache[key]
        return value


def replay(policy: Policy, rows: Rows) -> NDArray[np.int64]:
    """The exit the policy takes for every row, `(n,)`.

    Raises:
        PolicyError: the policy is made for another number of exits.
    """
    if policy.exits not in (None, rows.exits):
        raise PolicyError(f"the policy is made for {policy.exits} exits, {rows.name} has {rows.exits}")
    if policy.score is None:
        scores = np.zeros((rows.exits, rows.n), np.float32)
    else:
        scores = rows.scores(policy.score, policy.temperatures)
    labels = rows.predictions if policy.needs_labels else scores
    return exits_taken(policy, scores, labels)


def exits_taken(policy: Policy, scores: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.int64]:
    """As `replay`, on arrays `(exits, n)`."""
    taken = np.zeros(scores.shape[1], np.int64)
    going = np.ones(scores.shape[1], bool)
    for k in range(len(scores) - 1):
        going &= ~policy.stop(scores[: k + 1], labels[: k + 1])  # type: ignore[arg-type]
        taken += going
    return taken


@dataclass(frozen=True)
class Outcome:
    """What a policy did on rows."""

    exit_rates: tuple[float, ...]
    """Share of inputs answered by each exit."""
    cost: float
    """Mean cost as a fraction of the last exit's."""
    accuracy: float
    """Share answered right, or in agreement with the last exit where there are no labels; of an error rate, 1 less
    it."""
    n: int
    variance: float
    """Of the rows' worth around `accuracy`; of rights and wrongs it is ``accuracy * (1 - accuracy)``."""
    seconds: float | None = None
    """Mean; None = the rows were not timed one by one."""


def outcome(taken: NDArray[np.int64], rows: Rows) -> Outcome:
    """Rates, mean relative cost and accuracy of the exits `taken` `(n,)`."""
    rates = np.bincount(taken, minlength=rows.exits) / rows.n
    at = taken, np.arange(rows.n)
    worth = rows.correct[at]
    return Outcome(
        tuple(float(r) for r in rates),
        float(rates @ rows.relative_cost),
        float(worth.mean(dtype=np.float64)),
        rows.n,
        float(worth.var(dtype=np.float64)),
        None if rows.seconds is None else float(rows.seconds[at].mean()),
    )
