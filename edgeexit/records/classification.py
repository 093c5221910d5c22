"""Records: recorded exit outputs for classes, that policies are chosen and measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.common.files import read_npz
from edgeexit.common.finite import finite, named, unsound_rows
from edgeexit.errors import DataError, PolicyError
from edgeexit.policy.scores import (
    ANSWER_SCORES,
    HEAD_SCORES,
    SCORES,
    Kind,
    mean_over_valid,
    probabilities,
    score,
    valid_positions,
)
from edgeexit.records.base import Outcome, Rows, exits_taken, outcome, replay

__all__ = ["Outcome", "Records", "Rows", "exits_taken", "outcome", "replay"]

_RULED_OUT = np.float32(-1e30)
"""In place of -inf: its share of a softmax is 0 as well, at any temperature, and sums with it stay numbers."""
_ROUNDING = 1e-4
"""How far rounding may take a score out of [0, 1]."""


@dataclass(frozen=True, eq=False)
class Records(Rows):
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
    stored_scores: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
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
        if o.dtype.kind not in "fiu":
            raise DataError(f"{self.name}: outputs must be finite float32 numbers; found {o.dtype}")
        with np.errstate(over="ignore"):
            whole = finite(o.astype(np.float32, copy=False))
        if not whole:
            object.__setattr__(self, "outputs", self._masked())
            o = self.outputs
            if self.lengths is not None:
                o = o[valid_positions(self.lengths, o.shape[2])]
        # In steps of 1/256, as int8 networks give them, a mean of several heads is rounded three times by half a step.
        near = 1e-2 + 3 * o.shape[-1] / 512
        if self.kind == "probs" and not (o.min() >= -1e-6 and np.allclose(o.sum(-1), 1, atol=near)):
            raise DataError(f"{self.name}: 'probs' must be >= 0 and sum to 1 over the last axis; are they logits?")
        if self.labels is not None:
            object.__setattr__(self, "labels", check_labels(self.labels, self.outputs.shape, self.name, self.lengths))
        for name, scores in self.stored_scores.items():
            if scores.shape != (self.exits, self.n):
                raise DataError(
                    f"{self.name}: score {name!r} must be {(self.exits, self.n)}, found shape {scores.shape}"
                )
            # Those that were computed show their NaN where they are ranked.
            if name in HEAD_SCORES and not (scores.min() >= -_ROUNDING and scores.max() <= 1 + _ROUNDING):
                wrong = ~((scores >= -_ROUNDING) & (scores <= 1 + _ROUNDING))
                k, row = (int(i) for i in np.argwhere(wrong)[0])
                values = f"{scores.min():g} to {scores.max():g}" if np.isfinite(scores).all() else "NaN or infinity"
                raise DataError(
                    f"{self.name}: score {name!r} must lie in [0, 1], found {values}, first {scores[k, row]:g} at exit "
                    f"{k} of row {row}"
                )
        object.__setattr__(self, "cost", check_cost(self.cost, len(self.outputs), self.name))
        if self.static_cost is not None:
            static = check_static_cost(self.static_cost, len(self.outputs), self.name)
            object.__setattr__(self, "static_cost", static)

    def _masked(self) -> NDArray[Any]:
        """The outputs with a finite number for -inf, which rules a class out.

        Raises:
            DataError: no softmax is defined for some; with the exit and the row.
        """
        with np.errstate(over="ignore"):
            outputs = self.outputs.astype(np.float32, copy=False)
        for k, output in enumerate(outputs):
            valid = None if self.lengths is None else valid_positions(self.lengths[k], output.shape[1])
            if (wrong := unsound_rows(output, self.kind, valid)).any():
                row = int(np.argmax(wrong))
                first = output[row] if valid is None else output[row][valid[row]]
                raise DataError(
                    f"{self.name}: outputs must be finite float32 numbers (or -inf among logits, for classes that are "
                    f"ruled out); exit {k} of row {row} holds {named(first)}; {int(wrong.sum())} of {len(wrong)} rows "
                    "of that exit are such"
                )
        if self.kind == "probs":
            return self.outputs  # the numbers that are not finite stand in padding
        return np.where(outputs == -np.inf, _RULED_OUT, outputs)

    @property
    def n(self) -> int:
        return int(self.outputs.shape[1])

    @property
    def labelled(self) -> bool:
        return self.labels is not None

    @property
    def measure(self) -> str:
        """What `correct` holds: "accuracy" against labels, or "agreement" with the last exit."""
        return "accuracy" if self.labelled else "agreement"

    @property
    def score_names(self) -> tuple[str, ...]:
        return (*ANSWER_SCORES, *(name for name in HEAD_SCORES if name in self.stored_scores))

    @property
    def predictions(self) -> NDArray[np.int64]:
        """`(exits, n, ...)` most likely classes; -1 in padding."""

        def make() -> NDArray[np.int64]:
            classes = np.asarray(np.argmax(self.outputs, -1), np.int64)
            valid = True if self.lengths is None else valid_positions(self.lengths, classes.shape[2])
            return np.where(valid, classes, -1)

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

    @property
    def right(self) -> NDArray[np.float32]:
        return self.correct

    @property
    def whole(self) -> bool:
        return self.outputs.ndim == 3

    @property
    def agreement(self) -> NDArray[np.float64]:
        same = (self.predictions == self.predictions[-1]).astype(np.float64)
        return np.stack([self.per_input(k, s) for k, s in enumerate(same)])

    @property
    def default_score(self) -> str:
        return "maxprob"

    def digest(self) -> str:
        digest = hashlib.sha256(np.ascontiguousarray(self.outputs).tobytes())
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels, np.int64).tobytes())
        return digest.hexdigest()

    def prints(self) -> list[bytes]:
        return [row.tobytes() for row in np.moveaxis(self.outputs, 1, 0)]

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
        if name in HEAD_SCORES and name not in self.stored_scores:
            known = ", ".join(self.score_names)
            raise PolicyError(f"{self.name}: not every exit gave a score {name!r}; known here: {known}")
        if name in self.stored_scores and (wanted == own or name in HEAD_SCORES):
            return self.stored_scores[name]
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
            {name: s[:, rows] for name, s in self.stored_scores.items()},
            self.temperatures,
            self.name,
            None if self.lengths is None else self.lengths[:, rows],
        )

    @classmethod
    def load(cls, path: Path | str) -> Records:
        """Read an ``.npz`` with `logits` (or `probs`) `(exits, n, classes)`, `cost (exits,)`, optional `labels (n,)`.

        Optional `static_cost (exits,)`: what networks with one exit only would cost; `learned (exits, n)`: learned
        scores; `uncertainty (exits, n)`: of heads that answered together, in [0, 1]; `lengths (exits, n)`: valid
        positions of sequences.

        Raises:
            DataError: not such a file; the message names what was found.
        """
        return cls.of(read_npz(path), path)

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]], path: Path | str) -> Records:
        """As `load`, from a file's arrays."""
        kinds = [k for k in ("logits", "probs") if k in arrays]
        if len(kinds) != 1 or "cost" not in arrays:
            raise DataError(
                f"{path}: needs exactly one of 'logits' and 'probs' (exits, n, classes) and 'cost' (exits,), optional "
                f"'labels' (n,); found {', '.join(sorted(arrays)) or 'nothing'}"
            )
        kind: Kind = "logits" if kinds[0] == "logits" else "probs"
        labels = arrays.get("labels", arrays.get("y"))
        heads = {name: SCORES[name].needs for name in HEAD_SCORES}
        scores = {
            name: SCORES[name].compute(numbers_of(arrays[head], head, str(path))).astype(np.float32)
            for name, head in heads.items()
            if head in arrays
        }
        static = arrays.get("static_cost")
        return cls(
            arrays[kind], arrays["cost"], labels, kind, static, scores,
            name=Path(path).name, lengths=arrays.get("lengths"),
        )  # fmt: skip


def class_outputs(rows: Rows, what: str) -> Records:
    """The rows, if they hold every exit's outputs.

    Args:
        rows: of any kind.
        what: what needs them, for the message.

    Raises:
        DataError: they hold transcripts.
    """
    if not isinstance(rows, Records):
        raise DataError(f"{rows.name}: {what} need the outputs of every exit for classes; these rows are transcripts")
    return rows


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


def check_labels(
    labels: NDArray[Any], shape: tuple[int, ...], name: str, lengths: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Labels `(n, ...)` for outputs of `shape` `(exits, n, ..., classes)`; those in the last exit's padding become -1.

    Raises:
        DataError: they are none.
    """
    if labels.shape != shape[1:-1] or labels.dtype.kind not in "iu":
        raise DataError(
            f"{name}: labels must be whole numbers of shape {shape[1:-1]}, found {labels.dtype} {labels.shape}"
        )
    valid = True if lengths is None else valid_positions(lengths[-1], shape[2])
    low, high = np.min(labels, where=valid, initial=0), np.max(labels, where=valid, initial=0)
    if low < 0 or high >= shape[-1]:
        wrong = ((labels < 0) | (labels >= shape[-1])) & valid
        row = int(np.argwhere(wrong)[0][0])
        raise DataError(
            f"{name}: labels reach from {labels.min()} to {labels.max()}, classes are 0 to {shape[-1] - 1}; row {row} "
            f"is the first of {int(np.count_nonzero(wrong.reshape(len(labels), -1).any(1)))} with another label"
        )
    return labels if lengths is None else np.where(valid, labels, -1)


def numbers_of(values: Any, what: str, name: str) -> NDArray[np.float64]:
    """An array of numbers.

    Raises:
        DataError: of something else.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "fiu":
        raise DataError(f"{name}: {what!r} must be numbers, found {values.dtype}")
    return np.asarray(values, np.float64)


def check_static_cost(cost: Any, exits: int, name: str) -> NDArray[np.float64]:
    """Costs `(exits,)` of networks with one exit each.

    Raises:
        DataError: they are none.
    """
    cost = numbers_of(cost, "static_cost", name)
    if cost.shape != (exits,) or not np.isfinite(cost).all() or (cost <= 0).any():
        raise DataError(f"{name}: 'static_cost' must be {exits} positive numbers, found {cost.tolist()}")
    return np.asarray(cost)


def check_cost(cost: Any, exits: int, name: str) -> NDArray[np.float64]:
    """Cumulative costs `(exits,)`.

    Raises:
        DataError: they are none.
    """
    cost = numbers_of(cost, "cost", name)
    if cost.shape != (exits,) or not np.isfinite(cost).all() or cost[0] <= 0 or (np.diff(cost) <= 0).any():
        raise DataError(f"{name}: 'cost' must be {exits} growing positive numbers (cumulative), found {cost.tolist()}")
    return np.asarray(cost)
