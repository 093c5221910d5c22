"""Losses of leaving early, one per row, that guarantees bound.

"Accuracy gap" and "disagreement" are 0 or 1 for every row of a classifier and for every utterance as a whole, and
shares for classes of many positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeexit.common.measures import ERROR_RATES
from edgeexit.errors import DataError, PolicyError
from edgeexit.records.base import Rows
from edgeexit.records.classification import Records
from edgeexit.records.transcripts import SequenceRecords


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
    of: Callable[[Rows], NDArray[np.float64]]
    """`(exits, n)`: what each exit loses against the last on each row; the last row is 0."""
    kind: type = object
    """The rows that it can be told of."""
    measure: str | None = None
    """What these rows must measure; None = anything."""
    graded: bool = False
    """Whether it takes values between 0 and 1 on rows that are right or wrong as a whole."""

    def binary(self, records: Rows) -> bool:
        """Whether every loss is 0 or 1 by its nature. Asking the values instead would choose the test by the rows."""
        return not self.signed and not self.graded and records.whole

    def fits(self, records: Rows) -> bool:
        """Whether `table` can be made of these rows."""
        labelled = records.labelled or not self.needs_labels
        return labelled and isinstance(records, self.kind) and self.measure in (None, records.measure)

    def table(self, records: Rows) -> NDArray[np.float64]:
        """`(exits, n)` losses.

        Raises:
            DataError: labels are needed and missing, or the loss is of another kind of rows.
        """
        if self.needs_labels and not records.labelled:
            raise DataError(
                f"{records.name}: {self.name} needs true classes or transcripts and these rows have none; "
                "disagreement needs none"
            )
        if not self.fits(records):
            known = ", ".join(loss.name for loss in LOSSES.values() if loss.fits(records))
            raise DataError(
                f"{records.name}: these rows measure {records.measure}, which {self.name} is not of: {known}"
            )
        return self.of(records)


def _disagreement(records: Rows) -> NDArray[np.float64]:
    return np.asarray(1 - records.agreement)


def _gap(records: Rows) -> NDArray[np.float64]:
    right = records.right.astype(np.float64)
    return np.asarray(np.maximum(right[-1] - right, 0))


def _brier(records: Rows) -> NDArray[np.float64]:
    assert isinstance(records, Records) and records.labels is not None
    scores = []
    for k in range(records.exits):
        p = records.probabilities(k).astype(np.float64)
        own = np.take_along_axis(p, records.labels[..., None], -1)[..., 0]
        scores.append(records.per_input(k, (p * p).sum(-1) - 2 * own + 1))
    return np.asarray(np.stack(scores) - scores[-1])


def _edits_gap(records: Rows) -> NDArray[np.float64]:
    assert isinstance(records, SequenceRecords) and records.edits is not None and records.units is not None
    beyond = (records.edits - records.edits[-1]) / np.maximum(records.units, 1)
    return np.asarray(np.clip(beyond, 0, 1))


def _edits_loss(error: str, unit: str) -> Loss:
    text = (
        f"the mean over utterances of the edits beyond the last exit's per {unit} of the reference, where fewer edits "
        "count as 0 and no utterance as more than 1,"
    )
    return Loss(f"{error.lower()}_gap", text, True, False, 1, _edits_gap, SequenceRecords, error, graded=True)


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
        Loss("brier_gap", "the mean Brier score above the last exit's", True, True, 2, _brier, Records),
        *(_edits_loss(error, unit) for error, unit in ERROR_RATES.items()),
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
