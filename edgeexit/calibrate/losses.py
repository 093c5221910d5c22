"""What leaving early may cost: one loss per row, for guarantees to bound.

"Accuracy gap" and "disagreement" are 0 or 1 for every row of a classifier and shares for sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError, PolicyError
from edgeexit.records import Records


@dataclass(frozen=True)
class Loss:
    """A loss of answering at some exit instead of the last."""

    name: str
    text: str
    """In words, for promises."""
    needs_labels: bool
    signed: bool
    """Whether leaving early can also win, so that values reach from -bound to bound."""
    bound: float
    of: Callable[[Records], NDArray[np.float64]]
    """`(exits, n)`: what each exit loses against the last on each row; the last row is 0."""

    def binary(self, records: Records) -> bool:
        """Whether every loss is 0 or 1 by its nature. Asking the values instead would choose the test by the rows."""
        return not self.signed and records.outputs.ndim == 3

    def table(self, records: Records) -> NDArray[np.float64]:
        """`(exits, n)` losses.

        Raises:
            DataError: labels are needed and missing.
        """
        if self.needs_labels and records.labels is None:
            raise DataError(
                f"{records.name}: {self.name} needs true classes and these rows have none; disagreement needs no labels"
            )
        return self.of(records)


def _disagreement(records: Records) -> NDArray[np.float64]:
    differ = (records.predictions != records.predictions[-1]).astype(np.float64)
    return np.stack([records.per_input(k, d) for k, d in enumerate(differ)])


def _gap(records: Records) -> NDArray[np.float64]:
    right = records.correct.astype(np.float64)
    return np.asarray(np.maximum(right[-1] - right, 0))


def _brier(records: Records) -> NDArray[np.float64]:
    assert records.labels is not None
    scores = []
    for k in range(records.exits):
        p = records.probabilities(k).astype(np.float64)
        own = np.take_along_axis(p, records.labels[..., None], -1)[..., 0]
        scores.append(records.per_input(k, (p * p).sum(-1) - 2 * own + 1))
    return np.asarray(np.stack(scores) - scores[-1])


LOSSES = {
    loss.name: loss
    for loss in (
        Loss(
            "disagreement",
            "the share of inputs answered otherwise than by the last exit",
            False,
            False,
            1,
            _disagreement,
        ),
        Loss("accuracy_gap", "the share of inputs answered wrong where the last exit is right", True, False, 1, _gap),
        Loss("brier_gap", "the mean Brier score above the last exit's", True, True, 2, _brier),
    )
}


def loss_of(name: str) -> Loss:
    """A loss by name.

    Raises:
        PolicyError: unknown.
    """
    if name not in LOSSES:
        raise PolicyError(f"unknown loss {name!r}; known: {', '.join(LOSSES)}")
    return LOSSES[name]
