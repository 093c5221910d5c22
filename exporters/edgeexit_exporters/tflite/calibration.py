"""Calibration runs of the float chain on real inputs, with the values of every tensor.

The chain as a whole, so that a cut tensor has the same values, and so the same scale, on both its sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError, ModelError
from edgeexit_exporters.spec import LEAST_ROWS
from edgeexit_exporters.tflite import tools
from edgeexit_exporters.tflite.file.signatures import Signature
from edgeexit_exporters.tflite.file.tflite_file import TfliteFile

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Linked(Signature):
    """A signature of one of the files of a chain."""

    file: int = 0


def linked(files: Sequence[TfliteFile]) -> list[Linked]:
    """The signatures of files in the order of the chain: by file, then by the number at the end of their names.

    Raises:
        ModelError: a file has none.
    """
    chain: list[Linked] = []
    for i, file in enumerate(files):
        own = [Linked(s.name, s.subgraph, s.inputs, s.outputs, i) for s in file.signatures.values()]
        if not own:
            raise ModelError("the .tflite file has no signature: export it with named stages")
        chain += sorted(own, key=lambda s: (int((re.findall(r"(\d+)$", s.name) or ["0"])[0]), s.name))
    return chain


class FloatChain:
    """Float files that follow each other, run with every tensor kept.

    Args:
        files: one file with a signature per stage, a file per stage, or a single prefix.
    """

    def __init__(self, files: Sequence[TfliteFile]) -> None:
        lib = tools.interpreter()
        self.models = [f.model for f in files]
        self.signatures = linked(files)
        self._interpreters: list[Any] = []
        with tools.quiet():
            for file in files:
                # without XNNPACK: a delegate does not promise to keep what is inside it
                interpreter = lib.Interpreter(
                    model_content=file.data,
                    num_threads=1,
                    experimental_op_resolver_type=lib.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                    experimental_preserve_all_tensors=True,
                )
                interpreter.allocate_tensors()
                self._interpreters.append(interpreter)
        self._runners = [self._interpreters[s.file].get_signature_runner(s.name) for s in self.signatures]
        self._watched = [self._floats(s) for s in self.signatures]
        made_here: set[str] = set()
        self.inputs: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        """What the chain takes from outside: shape and type."""
        for signature, runner in zip(self.signatures, self._runners, strict=True):
            for name, detail in runner.get_input_details().items():
                if name not in made_here:
                    self.inputs[name] = (tuple(int(n) for n in detail["shape"]), np.dtype(detail["dtype"]))
            made_here |= set(signature.outputs)

    def values(self, rows: Arrays) -> Iterator[tuple[int, str, NDArray[Any]]]:
        """(file, tensor name, values) of every float tensor that is no weight, for one row after the other."""
        count = len(next(iter(rows.values())))
        for i in range(count):
            known = {n: np.ascontiguousarray(a[i : i + 1]) for n, a in rows.items()}
            for signature, runner, watched in zip(self.signatures, self._runners, self._watched, strict=True):
                known.update(runner(**{n: known[n] for n in signature.inputs}))
                interpreter = self._interpreters[signature.file]
                for index, name in watched:
                    yield signature.file, name, interpreter.get_tensor(index, signature.subgraph)

    def outputs(self, rows: Arrays) -> dict[str, NDArray[Any]]:
        """All rows' outputs of all stages, by name."""
        count = len(next(iter(rows.values())))
        collected: dict[str, list[NDArray[Any]]] = {}
        for i in range(count):
            known = {n: np.ascontiguousarray(a[i : i + 1]) for n, a in rows.items()}
            for signature, runner in zip(self.signatures, self._runners, strict=True):
                given = runner(**{n: known[n] for n in signature.inputs})
                known.update(given)
                for n, a in given.items():
                    collected.setdefault(n, []).append(a.copy())
        return {n: np.concatenate(parts) for n, parts in collected.items()}

    def _floats(self, signature: Linked) -> list[tuple[int, str]]:
        model, float32 = self.models[signature.file], tools.schema().TensorType.FLOAT32
        tensors = model.subgraphs[signature.subgraph].tensors
        constant = {i for i, t in enumerate(tensors) if _holds_data(model, t)}
        return [(i, t.name.decode()) for i, t in enumerate(tensors) if t.type == float32 and i not in constant]


def _holds_data(model: Any, tensor: Any) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def check_rows(
    rows: Arrays, inputs: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], least: int = LEAST_ROWS
) -> dict[str, NDArray[Any]]:
    """Calibration data as the chain takes it.

    Args:
        rows: by input name, `(n, ...)`, pictures channels last.
        inputs: shape with batch 1, and type, of what the chain takes.
        least: how many rows are wanted.

    Raises:
        DataError: what is wrong with the data, and what was expected.
    """
    checked: dict[str, NDArray[Any]] = {}
    for name, (shape, dtype) in inputs.items():
        if name not in rows:
            raise DataError(
                f"the calibration data has no array for input {name!r}; it holds {', '.join(rows) or 'none'}"
            )
        array = np.asarray(rows[name])
        wanted = f"(n, {', '.join(map(str, shape[1:]))}) {dtype}"
        if array.shape[1:] != shape[1:] or array.ndim != len(shape):
            hint = ""
            if len(shape) == 4 and array.ndim == 4 and array.shape[1:] == (shape[3], shape[1], shape[2]):
                hint = ": channels come last here, e.g. x.transpose(0, 2, 3, 1)"
            raise DataError(f"calibration data for {name!r} has shape {array.shape}, expected {wanted}{hint}")
        if array.dtype.kind not in "fiub" or not np.can_cast(array.dtype, dtype, "same_kind"):
            raise DataError(f"calibration data for {name!r} is {array.dtype}, expected {wanted}")
        array = array.astype(dtype)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = int(np.count_nonzero(~np.isfinite(array.reshape(len(array), -1)).all(1)))
            raise DataError(f"calibration data for {name!r}: {bad} of {len(array)} rows hold NaN or infinity")
        checked[name] = array
    sizes = {n: len(a) for n, a in checked.items()}
    if len(set(sizes.values())) > 1:
        raise DataError(f"calibration data of unlike lengths: {', '.join(f'{n} {s}' for n, s in sizes.items())}")
    count = next(iter(sizes.values()), 0)
    if count < least:
        raise DataError(f"calibration needs at least {least} rows, found {count}: more rows give truer ranges")
    for name, array in checked.items():
        if array.dtype.kind == "f" and (array == array[:1]).all():
            same = "every value is the same" if array.min() == array.max() else "every row is the same"
            raise DataError(f"calibration data for {name!r}: {same}; ranges want inputs as the model will see them")
    return checked
