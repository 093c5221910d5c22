"""Calibration rows: example inputs from which the ranges of int8 activations are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.engine.inputs import InputCheck, data_inputs
from edgeexit.errors import DataError
from edgeexit_exporters.source.inputs import InputSpec, batch_kind
from edgeexit_exporters.spec import LEAST_ROWS

Arrays = Mapping[str, NDArray[Any]]
ENOUGH_ROWS = 200
"""From about here on, more rows changed no exit of T-RECX's networks by more than its noise."""
_BATCH = 32


def calibration_rows(inputs: Sequence[InputSpec], data: Arrays) -> dict[str, NDArray[Any]]:
    """The rows to calibrate with, checked.

    Args:
        inputs: of the network.
        data: one array `(rows, ...)` per input under its name, or ``x`` for a network with one input; other arrays
            (labels) are left alone.

    Raises:
        DataError: an input is missing, of a wrong dtype or shape, NaN or infinite, of fewer than `LEAST_ROWS` rows,
            or the same in every row.
    """
    specs = [i.tensor for i in inputs]
    rows = data_inputs(data, specs, "calibration data")
    try:
        InputCheck(specs).many(rows)
    except DataError as e:
        raise DataError(f"calibration data: {e}") from e
    count = len(next(iter(rows.values())))
    if count < LEAST_ROWS:
        raise DataError(
            f"calibration data: {count} rows; at least {LEAST_ROWS} are needed, about {ENOUGH_ROWS} are good: rows as "
            "the device will see them, and none of those it will be judged on"
        )
    for name, array in rows.items():
        if array.dtype.kind != "f":
            continue
        if not np.isfinite(array).all():
            raise DataError(f"calibration data: input {name!r} holds infinite numbers; no range can be read from them")
        if array.min() == array.max():
            raise DataError(
                f"calibration data: input {name!r} is {array.flat[0] + 0:g} everywhere; no range can be read from it"
            )
    if all((a == a[:1]).all() for a in rows.values()):
        raise DataError(f"calibration data: all {count} rows are the same; give rows that differ")
    return rows


class CalibrationRows:
    """What onnxruntime's calibrators read rows through: in batches, where the network takes batches."""

    def __init__(self, inputs: Sequence[InputSpec], rows: Arrays) -> None:
        size = _BATCH if batch_kind(inputs) == "dynamic" else 1
        count = len(next(iter(rows.values())))
        starts = range(0, count, size)
        self.batches = [{n: np.ascontiguousarray(a[i : i + size]) for n, a in rows.items()} for i in starts]
        self.set_range(0, len(self.batches))

    def __len__(self) -> int:
        return len(self.batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._left = iter(self.batches[start_index:end_index])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._left, None)
