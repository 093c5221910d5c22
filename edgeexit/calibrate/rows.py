"""Checks of rows before policies are chosen or guarantees certified on them."""

from __future__ import annotations

from collections import Counter

from edgeexit.errors import DataError
from edgeexit.records.base import Rows
from edgeexit.records.classification import Records

LEAST_ROWS = 20
"""In each part, below which nothing is chosen or measured: a share of 20 rows has an interval of 20 points and more."""
_SHARED, _DISTINCT = 0.1, 0.95
"""Share of rows found in both sets from which they count as the same data; asked of rows that hardly ever repeat."""


def need_exits(records: Rows) -> None:
    """Refuse to choose between exits where there is one.

    Raises:
        DataError: one exit.
    """
    if records.exits < 2:
        raise DataError(
            f"{records.name}: one exit, so there is nothing to choose (exits >= 2); --policy qute accepts or abstains"
        )


def need_rows(design: Rows, held_out: Rows | None) -> None:
    """Refuse rows too few to choose or to measure anything on.

    Raises:
        DataError: fewer than `LEAST_ROWS` in either part.
    """
    for rows, what in ((design, "choose on"), (held_out, "measure on")):
        if rows is not None and rows.n < LEAST_ROWS:
            raise DataError(
                f"{rows.name}: {rows.n} row{'s' * (rows.n != 1)} to {what}; at least {LEAST_ROWS} are needed for any "
                f"estimate, and {10 * LEAST_ROWS} or more for a useful one: record more rows"
            )


def check_pair(design: Rows, held_out: Rows) -> None:
    """Refuse held-out rows that cannot be compared with the design rows, or are the same.

    Raises:
        DataError: other exits, costs or measure, or the same array.
    """
    if held_out.exits != design.exits or not (held_out.relative_cost == design.relative_cost).all():
        raise DataError(
            f"{held_out.name} has costs {held_out.relative_cost.tolist()}, {design.name} has "
            f"{design.relative_cost.tolist()}; design and held-out rows must come from one artifact"
        )
    if held_out is design or shared_rows(design, held_out):
        raise DataError(
            f"{held_out.name}: held-out rows must not be the design rows, or some of them; split them: "
            "records.split(0.5, seed=0)"
        )
    if held_out.measure != design.measure:
        raise DataError(
            f"{design.name} measures {design.measure}, {held_out.name} {held_out.measure}; "
            "give labels to both or to neither"
        )


def need_classes(records: Rows) -> None:
    """Refuse rows of one class.

    Raises:
        DataError: all labels are equal.
    """
    labels = records.labels if isinstance(records, Records) else None
    if labels is not None and records.n > 1 and labels.min() == labels.max():
        raise DataError(
            f"{records.name}: all {records.n} rows are of class {labels.min()}; accuracy on one class says "
            "nothing: give rows of every class, in the shares of the field"
        )


def need_tellable(records: Rows, score: str | None = None) -> None:
    """Refuse rows that no threshold separates.

    Raises:
        DataError: every row has one and the same score at every early exit.
    """
    if records.n < 2 or records.exits < 2:
        return
    score = score or records.default_score
    scores = records.scores(score)[:-1]
    if (scores == scores[:, :1]).all():
        raise DataError(
            f"{records.name}: every row has the same {score} at every early exit "
            f"({', '.join(f'{s:g}' for s in scores[:, 0])}), so no threshold tells rows apart: are these outputs of a "
            "trained network? Another --score may tell more"
        )


def shared_rows(a: Rows, b: Rows) -> bool:
    """Whether a tenth of the smaller set or more is in the other one too, in whatever order.

    Rows that repeat themselves (ties, coarse outputs) say nothing about where they came from: then False.
    """
    if a.exits != b.exits:
        return False
    one, other = (Counter(r.prints()) for r in (a, b))
    least = min(a.n, b.n)
    if min(len(one) / a.n, len(other) / b.n) < _DISTINCT:
        return False
    return sum((one & other).values()) >= _SHARED * least
