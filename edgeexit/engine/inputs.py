"""Input arrays, checked against what a model declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.length_inputs import length_inputs
from edgeexit.bundle.manifest import TensorSpec
from edgeexit.common.finite import check_input
from edgeexit.errors import DataError
from edgeexit.pictures.convert import PictureInput, PictureRows, could_be, plain
from edgeexit.pictures.preprocess import Preprocess

Inputs = Any
"""One array for a model with one input, or a mapping with one per input under its name. Where the manifest declares
preprocessing, an input may be a picture, see `edgeexit.pictures.convert.PictureInput`. Tensors are taken as arrays."""
LEAST_SCALE = 1e-6
"""Outputs smaller than this are compared as if they were this large."""


class InputCheck:
    """Checks and orders the inputs of a model; one per engine, called for every run."""

    def __init__(
        self,
        specs: Sequence[TensorSpec],
        states: Sequence[TensorSpec] = (),
        min_sizes: Mapping[str, int] | None = None,
        preprocess: Mapping[str, Preprocess] | None = None,
    ) -> None:
        """States may be left out: they are zeros then. Inputs in `preprocess` may be pictures."""
        self.preprocess = declared = dict(preprocess or {})
        self._pictures = {
            s.name: PictureInput(s.name, declared[s.name], s.shape, s.dtype) for s in specs if s.name in declared
        }
        self._least = [
            [
                (k, a, least)
                for k, a in enumerate(s.shape)
                if k and isinstance(a, str) and (least := known.get(a, 0)) > 0
            ]
            for known in [min_sizes or {}]
            for s in (*specs, *states)
        ]
        self.specs = (*specs, *states)
        names = [s.name for s in self.specs]
        self._lengths = [(names.index(n), names.index(of), k) for n, (of, k) in length_inputs(specs).items()]
        self._zeros = {s.name: np.zeros([int(a) for a in s.shape], s.dtype) for s in states}
        self._compiled = [
            (
                s.name,
                np.dtype(s.dtype),
                len(s.shape),
                [(k, a) for k, a in enumerate(s.shape) if k and isinstance(a, int)],
            )
            for s in self.specs
        ]

    def one(self, x: Inputs) -> list[NDArray[Any]]:
        """One input, with or without its batch axis of 1, as arrays with it.

        Raises:
            DataError: a name, dtype or shape that does not fit, NaN, or infinity.
        """
        arrays = self._arrays(x, add_axis=True)
        for array, (name, *_rest) in zip(arrays, self._compiled, strict=True):
            if len(array) != 1:
                raise DataError(
                    f"input {name!r} holds {len(array)} inputs (shape {array.shape}); run() takes one, run_batch() many"
                )
        return arrays

    def many(self, x: Inputs) -> list[NDArray[Any]]:
        """Many inputs `(n, ...)`.

        Raises:
            DataError: as `one`; or no rows, or inputs of different n.
        """
        return [a if isinstance(a, np.ndarray) else a[:] for a in self.rows(x)]

    def rows(self, x: Inputs) -> list[Any]:
        """As `many`, with `PictureRows` for pictures, which become numbers when a part of them is asked for."""
        arrays = self._arrays(x, add_axis=False)
        counts = {len(a) for a in arrays}
        if len(counts) != 1 or 0 in counts:
            raise DataError(f"the inputs hold {sorted(counts)} rows; expected one count of at least 1 for all")
        return arrays

    def _arrays(self, x: Inputs, *, add_axis: bool) -> list[Any]:
        if not isinstance(x, Mapping):
            needed = [s.name for s in self.specs if s.name not in self._zeros]
            if len(needed) != 1:
                raise DataError(
                    f"the model has {len(needed)} inputs ({', '.join(needed)}); pass a dict of arrays by name"
                )
            x = {self._compiled[0][0]: x}
        elif unknown := set(x) - {s.name for s in self.specs}:
            raise DataError(
                f"{sorted(unknown)[0]!r} is no input of the model; it takes {', '.join(s.name for s in self.specs)}"
            )
        arrays: list[Any] = []
        for k, (name, dtype, axes, fixed) in enumerate(self._compiled):
            if name in self._zeros and name not in x:
                zeros = self._zeros[name]
                arrays.append(zeros if len(arrays[0]) == 1 else np.repeat(zeros, len(arrays[0]), 0))
                continue
            if name not in x:
                raise DataError(f"input {name!r} is missing; the model takes {', '.join(s.name for s in self.specs)}")
            array = x[name]
            if not isinstance(array, np.ndarray) or array.dtype != dtype or (self._pictures and dtype == np.uint8):
                array = self._adapted(name, array, dtype, add_axis)
                if isinstance(array, PictureRows):
                    arrays.append(array)
                    continue
            if add_axis and array.ndim == axes - 1:
                array = array[None]
            if array.ndim != axes or any(array.shape[a] != size for a, size in fixed):
                raise DataError(f"input {name!r} has shape {array.shape}; the model takes {self.specs[k].shape}")
            for axis, free, least in self._least[k]:
                if array.shape[axis] < least:
                    raise DataError(
                        f"input {name!r} has {array.shape[axis]} along axis {free!r} (shape {array.shape}); "
                        f"the network takes at least {least}: fill it up with padding"
                    )
            check_input(name, array)
            arrays.append(array)
        for counting, counted, axis in self._lengths:
            self._check_lengths(counting, arrays[counting], counted, arrays[counted], axis)
        return arrays

    def _check_lengths(self, i: int, lengths: NDArray[Any], j: int, array: Any, axis: int) -> None:
        """Check that lengths count positions that there are.

        Raises:
            DataError: one is negative, or larger than the input that it counts in.
        """
        if not lengths.size or isinstance(array, PictureRows):
            return
        size = array.shape[axis]
        if lengths.max() > size or lengths.min() < 0:
            row = int(np.argmax((lengths > size) | (lengths < 0)))
            raise DataError(
                f"input {self.specs[i].name!r} is {lengths[row]} for row {row}, and input {self.specs[j].name!r} has "
                f"{size} along axis {axis} (shape {array.shape}); a length is from 0 to {size}"
            )

    def _adapted(self, name: str, x: Any, dtype: np.dtype[Any], one: bool) -> Any:
        """An array of the input's dtype for a picture or a tensor; several pictures become `PictureRows`.

        Raises:
            DataError: nothing that the input takes.
        """
        picture = self._pictures.get(name)
        if picture is not None and (converted := picture.one(x) if one else picture.many(x)) is not None:
            return converted
        array, _ = plain(x)
        if not isinstance(array, np.ndarray):
            if could_be(x) and picture is None:
                raise DataError(
                    f"input {name!r} is a picture, and the bundle does not declare how one becomes {dtype} numbers: "
                    "export it with --preprocess, or set engine.preprocess"
                )
            raise DataError(f"input {name!r} is a {type(x).__name__}; expected a numpy array of {dtype}")
        if array.dtype != dtype:
            raise DataError(
                f"input {name!r} is {array.dtype}; the model takes {dtype}: convert with .astype(np.{dtype})"
                + (", or declare with --preprocess how pictures are read" if could_be(x) and picture is None else "")
            )
        return array


def data_inputs(data: Mapping[str, NDArray[Any]], specs: Sequence[TensorSpec], path: str) -> dict[str, NDArray[Any]]:
    """The model inputs of a data file: one array per input under its name, or `x` for a model with one input.

    Raises:
        DataError: an input is missing; the message lists what the file holds.
    """
    arrays = {}
    for spec in specs:
        array = data.get(spec.name, data.get("x") if len(specs) == 1 else None)
        if array is None:
            wanted = "'x'" if len(specs) == 1 else ", ".join(repr(s.name) for s in specs)
            raise DataError(
                f"{path}: needs {wanted} for the model's inputs; it holds {', '.join(sorted(data)) or 'nothing'}"
            )
        arrays[spec.name] = array
    return arrays


def relative_error(values: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest difference as a fraction of the largest expected value; inf where shapes or NaNs differ."""
    difference, scale = largest_difference(values, expected)
    return difference / max(scale, LEAST_SCALE)


def largest_difference(values: NDArray[Any], expected: NDArray[Any]) -> tuple[float, float]:
    """Largest absolute difference (inf where shapes or NaNs differ), and the largest finite expected absolute value."""
    b = expected.astype(np.float64)
    scale = float(np.max(np.abs(b[np.isfinite(b)]), initial=0.0))
    if values.shape != expected.shape:
        return float("inf"), scale
    a = values.astype(np.float64)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return float("inf"), scale
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        return float(np.max(np.where(same, 0.0, np.abs(a - b)), initial=0.0)), scale
