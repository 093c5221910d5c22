"""CIFAR-10 from an npz: loading, held-out split and augmentation of the recipes for it."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from edgeexit.errors import DataError
from edgeexit_models.training.augment import CropFlip

HELD_OUT = 5_000
AUGMENT = CropFlip(pad=4, fill=121.0)
WEIGHT_DECAY = 2e-4

Split = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
"""Pictures `(n, 3, 32, 32)` and classes `(n,)`."""


def load(path: Path) -> tuple[Split, Split]:
    """Training and test pictures, channels first.

    Args:
        path: npz with x_train, x_test `(n, 32, 32, 3)` uint8 and y_train, y_test `(n,)`.

    Raises:
        DataError: the file is not such an npz, or has too few training pictures.
    """
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as e:
        raise DataError(f"{path}: need an npz with x_train, y_train, x_test, y_test ({e})") from e
    for name in ("x_train", "x_test"):
        if arrays[name].dtype != np.uint8 or arrays[name].shape[1:] != (32, 32, 3):
            found = f"{arrays[name].dtype} {arrays[name].shape}"
            raise DataError(f"{path}: {name} is {found}, expected uint8 (n, 32, 32, 3)")
    if len(arrays["x_train"]) <= HELD_OUT:
        raise DataError(f"{path}: {len(arrays['x_train'])} training pictures, need more than the {HELD_OUT} held out")

    def split(part: str) -> Split:
        x = np.ascontiguousarray(arrays[f"x_{part}"].transpose(0, 3, 1, 2))
        return x, arrays[f"y_{part}"].reshape(-1).astype(np.int64)

    return split("train"), split("test")


def hold_out(data: Split, seed: int) -> tuple[Split, Split]:
    """Splits off 5,000 random pictures that training never sees, for design and calibration."""
    order = np.random.default_rng(seed).permutation(len(data[0]))
    train, held = np.sort(order[HELD_OUT:]), np.sort(order[:HELD_OUT])
    return (data[0][train], data[1][train]), (data[0][held], data[1][held])
