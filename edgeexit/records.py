"""Running a policy over recorded exit outputs instead of the model: vectorised, no engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError, PolicyError
from edgeexit.files import read_npz
from edgeexit.policy import Policy
from edgeexit.scores import (
    GIVEN,
    SCORES,
    Kind,
    mean_over_valid,
    probabilities,
    score,
    uncertainty_score,
    valid_positions,
)

T = TypeVar("T")
_ROUNDING = 1e-4
"""How far rounding may take a score out of [0, 1]."""


@dataclass(frozen=True, eq=False)
class Records:
    """What every exit answered to every input, and what each exit costs."""

    outputs: NDArray[Any]
    """`(exits, n, classes)`, or `(exits, n, ..., classes)` for sequences and maps."""
    cost: NDArray[np.float64]
    """`(exits,)` cumulative cost of answering at each exit of the adaptive network, heads on the way included."""
    labels: NDArray[Any] | None = None
    """`(n,)` or `(n, ...)` true classes; None = unknown, and agreement with the last exit takes their place."""
    kind: Kind = "logits"
    static_cost: NDArray[np.float64] | None = None
    """`(exits,)` cost of a network that has this one exit only; None = taken as `cost`."""
    given: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """Scores `(exits, n)` that the artifact or its exits computed themselves; they win over recomputed ones."""
    temperatures: tuple[float, ...] | None = None
    """Per-exit temperatures of the artifact; None = all 1."""
    name: str = "records"
    """Where the rows came from, for messages and reports."""
    lengths: NDArray[np.int64] | None = None
    """`(exits, n)` valid positions of outputs `(exits, n, positions, classes)`; what stands behind them, and labels
    there, count nowhere. None = all are valid."""
    _cache: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        o = self.outputs
        if o.ndim < 3 or o.shape[0] < 1 or o.shape[-1] < 2:
            raise DataError(f"{self.name}: recorded outputs must be (exits, n, classes >= 2), found shape {o.shape}")
        if o.shape[1] == 0:
            raise DataError(f"{self.name}: no rows (n = 0)")
        if self.lengths is not None:
            _check_lengths(self.lengths, o.shape, self.name)
            o = self.outputs[valid_positions(self.lengths, o.shape[2])]
        with np.errstate(over="ignore"):
            finite = o.dtype.kind in "fiu" and bool(np.isfinite(o.astype(np.float32, copy=False)).all())
        if not finite:
            raise DataError(
                f"{self.name}: outputs must be finite float32 numbers; found {o.dtype} with NaN, inf or beyond"
            )
        # In steps of 1/256, as int8 networks give them, a mean of several heads is rounded three times by half a step.
        near = 1e-2 + 3 * o.shape[-1] / 512
        if self.kind == "probs" and not (o.min() >= -1e-6 and np.allclose(o.sum(-1), 1, atol=near)):
            raise DataError(f"{self.name}: 'probs' must be >= 0 and sum to 1 over the last axis; are they logits?")
        if self.labels is not None:
            object.__setattr__(self, "labels", _check_labels(self.labels, self.outputs.shape, self.name, self.lengths))
        for name, given in self.given.items():
            if given.shape != (self.exits, self.n):
                raise DataError(
                    f"{self.name}: score {name!r} must be {(self.exits, self.n)}, found shape {given.shape}"
                )
            # Those that were computed show their NaN where they are ranked.
            if name in GIVEN and not (given.min() >= -_ROUNDING and given.max() <= 1 + _ROUNDING):
                raise DataError(
                    f"{self.name}: score {name!r} must lie in [0, 1], found "
                    + (f"{given.min():g} to {given.max():g}" if np.isfinite(given).all() else "NaN or infinity")
                )
        object.__setattr__(self, "cost", _check_cost(self.cost, self.exits, self.name))
        if self.static_cost is not None:
            static = _check_static_cost(self.static_cost, self.exits, self.name)
            object.__setattr__(self, "static_cost", static)

    @property
    def exits(self) -> int:
        return len(self.outputs)

    @property
    def n(self) -> int:
        return int(self.outputs.shape[1])

    @property
    def measure(self) -> str:
        """What `correct` holds: "accuracy" against labels, or "agreement" with the last exit."""
        return "agreement" if self.labels is None else "accuracy"

    @property
    def score_names(self) -> tuple[str, ...]:
        """The scores that `scores` knows here."""
        return (*SCORES, *(name for name in GIVEN if name in self.given))

    @property
    def relative_cost(self) -> NDArray[np.float64]:
        """`(exits,)` as fractions of the last exit's."""
        return np.asarray(self.cost / self.cost[-1])

    @property
    def relative_static_cost(self) -> NDArray[np.float64]:
        """`(exits,)` of the single-exit networks, as fractions of the adaptive network's last exit."""
        return np.asarray((self.cost if self.static_cost is None else self.static_cost) / self.cost[-1])

    @property
    def predictions(self) -> NDArray[np.int64]:
        """`(exits, n, ...)` most likely classes; -1 in padding."""

        def make() -> NDArray[np.int64]:
            found = np.asarray(np.argmax(self.outputs, -1), np.int64)
            valid = True if self.lengths is None else valid_positions(self.lengths, found.shape[2])
            return np.where(valid, found, -1)

        return self._once("predictions", make)

    @property
    def correct(self) -> NDArray[np.float32]:
        """`(exits, n)`: 1 where the exit is right (or agrees with the last); for sequences the mean over positions."""

        def make() -> NDArray[np.float32]:
            truth = self.predictions[-1] if self.labels is None else self.labels
            return np.stack(
                [self.per_input(k, (p == truth).astype(np.float32)) for k, p in enumerate(self.predictions)]
            )

        return self._once("correct", make)

    def per_input(self, k: int, values: NDArray[Any]) -> NDArray[Any]:
        """`(n,)` means of floating-point `values` `(n, ...)` over the valid positions of exit `k`."""
        if self.lengths is not None:
            return mean_over_valid(values, self.lengths[k])
        return values if values.ndim == 1 else values.reshape(self.n, -1).mean(-1)

    def valid(self, k: int, values: NDArray[Any]) -> NDArray[Any]:
        """`values` `(n, positions, ...)` at the valid positions of exit `k`, `(m, ...)`; as they are if all are."""
        return values if self.lengths is None else values[valid_positions(self.lengths[k], values.shape[1])]

    def scores(self, name: str, temperatures: tuple[float, ...] | None = None) -> NDArray[np.float32]:
        """`(exits, n)` scores; `temperatures` of None means the artifact's own.

        Raises:
            PolicyError: an unknown score, one that these rows do not hold, or not one temperature per exit.
        """
        own = self.temperatures or (1.0,) * self.exits
        wanted = own if temperatures is None else temperatures
        if len(wanted) != self.exits:
            raise PolicyError(f"{len(wanted)} temperatures for {self.exits} exits")
        if name in GIVEN and name not in self.given:
            known = ", ".join(self.score_names)
            raise PolicyError(f"{self.name}: not every exit gave a score {name!r}; known here: {known}")
        if name in self.given and (wanted == own or name in GIVEN):
            return self.given[name]
        return self._once(
            (name, wanted),
            lambda: np.stack(
                [
                    score(o, name, kind=self.kind, temperature=t, lengths=self._lengths(k))
                    for k, (o, t) in enumerate(zip(self.outputs, wanted, strict=True))
                ]
            ),
        )

    def _lengths(self, k: int) -> NDArray[np.int64] | None:
        return None if self.lengths is None else self.lengths[k]

    def probabilities(self, k: int) -> NDArray[np.float32]:
        """`(n, classes)` of exit `k`, at the artifact's temperature."""
        return probabilities(self.outputs[k], self.kind, (self.temperatures or (1.0,) * self.exits)[k])

    def take(self, rows: NDArray[Any]) -> Records:
        """The records of some rows."""
        return Records(
            self.outputs[:, rows],
            self.cost,
            None if self.labels is None else self.labels[rows],
            self.kind,
            self.static_cost,
            {name: s[:, rows] for name, s in self.given.items()},
            self.temperatures,
            self.name,
            None if self.lengths is None else self.lengths[:, rows],
        )

    def split(self, fraction: float, seed: int) -> tuple[Records, Records]:
        """Two disjoint parts, seeded: the first with `fraction` of the rows.

        Raises:
            DataError: a part would be empty.
        """
        cut = round(self.n * fraction) if 0 < fraction < 1 else 0
        if not 0 < cut < self.n:
            raise DataError(f"{self.name}: {self.n} rows cannot be split {fraction:g} : {1 - fraction:g}")
        order = np.random.default_rng(seed).permutation(self.n)
        return self.take(np.sort(order[:cut])), self.take(np.sort(order[cut:]))

    def _once(self, key: Any, make: Callable[[], T]) -> T:
        if key not in self._cache:
            self._cache[key] = make()
        found: T = self._cache[key]
        return found

    @classmethod
    def load(cls, path: Path | str) -> Records:
        """Read an ``.npz`` with `logits` (or `probs`) `(exits, n, classes)`, `cost (exits,)`, optional `labels (n,)`.

        Optional `static_cost (exits,)`: what networks with one exit only would cost; `learned (exits, n)`: learned
        scores; `uncertainty (exits, n)`: of heads that answered together, in [0, 1]; `lengths (exits, n)`: valid
        positions of sequences.

        Raises:
            DataError: not such a file; the message names what was found.
        """
        arrays = read_npz(path)
        kinds = [k for k in ("logits", "probs") if k in arrays]
        if len(kinds) != 1 or "cost" not in arrays:
            raise DataError(
                f"{path}: needs exactly one of 'logits' and 'probs' (exits, n, classes) and 'cost' (exits,), optional "
                f"'labels' (n,); found {', '.join(sorted(arrays)) or 'nothing'}"
            )
        kind: Kind = "logits" if kinds[0] == "logits" else "probs"
        labels = arrays.get("labels", arrays.get("y"))
        given = {"learned": arrays.get("learned")}
        if "uncertainty" in arrays:
            given["ensemble"] = uncertainty_score(_numbers(arrays["uncertainty"], "uncertainty", str(path)))
        scores = {n: _numbers(s, n, str(path)).astype(np.float32) for n, s in given.items() if s is not None}
        static = arrays.get("static_cost")
        return cls(
            arrays[kind], arrays["cost"], labels, kind, static, scores,
            name=Path(path).name, lengths=arrays.get("lengths"),
        )  # fmt: skip


def replay(policy: Policy, records: Records) -> NDArray[np.int64]:
    """The exit the policy takes for every row, `(n,)`.

    Raises:
        PolicyError: the policy is made for another number of exits.
    """
    if policy.exits not in (None, records.exits):
        raise PolicyError(f"the policy is made for {policy.exits} exits, {records.name} has {records.exits}")
    if policy.score is None:
        scores = np.zeros((records.exits, records.n), np.float32)
    else:
        scores = records.scores(policy.score, policy.temperatures)
    labels = records.predictions if policy.needs_labels else scores
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
    """What a policy did on records."""

    exit_rates: tuple[float, ...]
    """Share of inputs answered by each exit."""
    cost: float
    """Mean cost as a fraction of the last exit's."""
    accuracy: float
    """Share answered right, or in agreement with the last exit where there are no labels."""
    n: int


def outcome(taken: NDArray[np.int64], records: Records) -> Outcome:
    """Rates, mean relative cost and accuracy of the exits `taken` `(n,)`."""
    rates = np.bincount(taken, minlength=records.exits) / records.n
    return Outcome(
        tuple(float(r) for r in rates),
        float(rates @ records.relative_cost),
        float(records.correct[taken, np.arange(records.n)].mean(dtype=np.float64)),
        records.n,
    )


def _check_lengths(lengths: NDArray[Any], shape: tuple[int, ...], name: str) -> None:
    if len(shape) != 4 or lengths.shape != shape[:2] or lengths.dtype.kind not in "iu":
        raise DataError(
            f"{name}: lengths must be whole numbers (exits, n) for outputs (exits, n, positions, classes), found "
            f"{lengths.dtype} {lengths.shape} for {shape}"
        )
    if lengths.min() < 0 or lengths.max() > shape[2]:
        raise DataError(
            f"{name}: lengths reach from {lengths.min()} to {lengths.max()}, there are {shape[2]} positions"
        )
    if not lengths.any():
        raise DataError(f"{name}: no row has a valid position (all lengths are 0)")


def _check_labels(
    labels: NDArray[Any], shape: tuple[int, ...], name: str, lengths: NDArray[Any] | None = None
) -> NDArray[Any]:
    """The labels; those in the last exit's padding become -1."""
    if labels.shape != shape[1:-1] or labels.dtype.kind not in "iu":
        raise DataError(
            f"{name}: labels must be whole numbers of shape {shape[1:-1]}, found {labels.dtype} {labels.shape}"
        )
    valid = True if lengths is None else valid_positions(lengths[-1], shape[2])
    low, high = np.min(labels, where=valid, initial=0), np.max(labels, where=valid, initial=0)
    if low < 0 or high >= shape[-1]:
        raise DataError(f"{name}: labels reach from {labels.min()} to {labels.max()}, classes are 0 to {shape[-1] - 1}")
    return labels if lengths is None else np.where(valid, labels, -1)


def _numbers(values: Any, what: str, name: str) -> NDArray[np.float64]:
    values = np.asarray(values)
    if values.dtype.kind not in "fiu":
        raise DataError(f"{name}: {what!r} must be numbers, found {values.dtype}")
    return np.asarray(values, np.float64)


def _check_static_cost(cost: Any, exits: int, name: str) -> NDArray[np.float64]:
    cost = _numbers(cost, "static_cost", name)
    if cost.shape != (exits,) or not np.isfinite(cost).all() or (cost <= 0).any():
        raise DataError(f"{name}: 'static_cost' must be {exits} positive numbers, found {cost.tolist()}")
    return np.asarray(cost)


def _check_cost(cost: Any, exits: int, name: str) -> NDArray[np.float64]:
    cost = _numbers(cost, "cost", name)
    if cost.shape != (exits,) or not np.isfinite(cost).all() or cost[0] <= 0 or (np.diff(cost) <= 0).any():
        raise DataError(f"{name}: 'cost' must be {exits} growing positive numbers (cumulative), found {cost.tolist()}")
    return np.asarray(cost)
