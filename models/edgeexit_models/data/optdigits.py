"""UCI optical digits: handwritten digits that ship with the package (CC BY 4.0, see SOURCES.md)."""

from __future__ import annotations

import io
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

DESIGN_ROWS = 1000


@dataclass(frozen=True)
class OptDigits:
    """Three disjoint splits; `test` is the official one, train and design are the official train, divided."""

    x_train: NDArray[np.float32]
    """`(3823 - design rows, 1, 8, 8)`, ink 0..16"""
    y_train: NDArray[np.int64]
    x_design: NDArray[np.float32]
    """`(design rows, 1, 8, 8)`, of the writers of the training rows: for choosing thresholds and measuring them"""
    y_design: NDArray[np.int64]
    x_test: NDArray[np.float32]
    """`(1797, 1, 8, 8)` of other writers: what a field other than the calibration rows' may look like"""
    y_test: NDArray[np.int64]


def load_optdigits(seed: int = 0, design_rows: int = DESIGN_ROWS) -> OptDigits:
    """The digits; `design_rows` of the official training rows, drawn with `seed`, become the design split."""
    raw = (files("edgeexit_models") / "data" / "optdigits.npz").read_bytes()
    with np.load(io.BytesIO(raw), allow_pickle=False) as file:
        x, y = _pictures(file["x_train"]), file["y_train"].astype(np.int64)
        x_test, y_test = _pictures(file["x_test"]), file["y_test"].astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(x))
    design, train = np.sort(order[:design_rows]), np.sort(order[design_rows:])
    return OptDigits(x[train], y[train], x[design], y[design], x_test, y_test)


def _pictures(x: NDArray[Any]) -> NDArray[np.float32]:
    return x[:, None].astype(np.float32)
