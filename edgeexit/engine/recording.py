"""Recording: every exit's outputs for many inputs, one by one, joined into the arrays of `Records`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.manifest import StateSpec
from edgeexit.common.finite import sound
from edgeexit.engine.answers import Answers
from edgeexit.engine.layouts.base import AllExitOutputs, Driver
from edgeexit.errors import DataError
from edgeexit.policy.scores import HEAD_SCORES, SCORES
from edgeexit.records.classification import check_labels


def record_rows(
    driver: Driver,
    answers: Answers,
    inputs: Sequence[Any],
    carried: Sequence[StateSpec],
    labels: NDArray[Any] | None,
    progress: Callable[[int, int], None],
) -> list[AllExitOutputs]:
    """What every exit gives to each input; see `edgeexit.engine.engine.Engine.record`.

    Args:
        driver: of the artifact.
        answers: of the artifact.
        inputs: `(n, ...)` arrays; states last.
        carried: states that each row takes from the one before it; empty = every row brings its own.
        labels: true classes; checked after the first row, not after all of the work.
        progress: called with rows done and rows in all.

    Raises:
        DataError: an answer that is none, with the exit and the row; or labels that are none.
    """
    n = len(inputs[0])
    rows: list[AllExitOutputs] = []
    for i in range(n):
        row = [a[i : i + 1] for a in inputs]
        if carried and rows:
            row[-len(carried) :] = [rows[-1].states[s.output] for s in carried]
        try:
            rows.append(driver.all_exits(row))
        except DataError as e:
            raise DataError(f"row {i}: {e}") from e
        for k, kind in enumerate(answers.kinds):
            if not sound(answer := rows[-1].single(k), kind):
                raise answers.refusal(k, answer, math.nan, f"row {i}: ")
        if not i and labels is not None and rows[0].lengths is None:
            check_labels(labels, (len(answers.kinds), n, *rows[0].outputs[0].shape[1:]), answers.name)
        progress(i + 1, n)
    return rows


def joined(rows: Sequence[AllExitOutputs]) -> list[NDArray[Any]]:
    """Every exit's answers to all inputs, `(n, ...)` each.

    Raises:
        DataError: answers of another shape to some inputs, or from some exits.
    """
    if len({o.shape[1:] for r in rows for o in r.outputs}) != 1:
        raise DataError("the exits' outputs differ in shape over these inputs; they cannot be recorded together")
    return [np.concatenate([r.outputs[k] for r in rows]) for k in range(len(rows[0].outputs))]


def stored_scores(rows: Sequence[AllExitOutputs], own: str | None) -> dict[str, NDArray[np.float32]]:
    """`(exits, n)` of every score that the artifact or its exits give themselves.

    Args:
        rows: what every exit gave to each input.
        own: the artifact's score.
    """
    count = len(rows[0].outputs)

    def stacked(pick: Callable[[AllExitOutputs], Sequence[NDArray[Any] | None] | None]) -> NDArray[np.float32] | None:
        columns = [[(pick(r) or [None] * count)[k] for r in rows] for k in range(count)]
        there = [[v for v in column if v is not None] for column in columns]
        return np.stack([np.concatenate(c) for c in there]).astype(np.float32) if all(there) else None

    heads = {"learned": stacked(lambda r: r.learned), "uncertainty": stacked(lambda r: r.uncertainties)}
    scores = {
        name: SCORES[name].compute(heads[SCORES[name].needs])
        for name in HEAD_SCORES
        if heads[SCORES[name].needs] is not None
    }
    graph = None if own is None else stacked(lambda r: r.scores)
    return scores if own is None or graph is None else {**scores, own: graph}


def valid_lengths(rows: Sequence[AllExitOutputs]) -> NDArray[np.int64] | None:
    """`(exits, n)` valid positions of the answers; None = all are valid."""
    columns = [r.lengths for r in rows if r.lengths is not None]
    if len(columns) < len(rows):
        return None
    return np.stack([np.concatenate([c[k] for c in columns if c[k] is not None]) for k in range(len(columns[0]))])
