"""Engine for TFLite files: `ai_edge_litert`, or its predecessor `tflite_runtime` 2.14 where there is none (32-bit ARM).

The predecessor does not verify files: a damaged one ends the process. A bundle's checksums detect damage but not
manipulation, so load bundles from trusted sources only.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import BundleError, DataError, first_line

_PACKAGES = (("ai_edge_litert", "ai-edge-litert"), ("tflite_runtime", "tflite-runtime"))
"""Tried in this order: module, distribution."""
_MAGIC = b"TFL3"
_FUSED = "fused"
"""Signature of a file whose graph decides with `IF`."""
_PLANS_ONCE = (2, 3)
"""First ai-edge-litert measured to keep XNNPACK on when all tensors are preserved; older ones turn it off."""


class LitertBackend:
    """Runs ``.tflite`` files on the CPU: XNNPACK where the engine has it, one runnable per signature."""

    def check(self) -> str | None:
        reasons = []
        for module, name in _PACKAGES:
            try:
                importlib.import_module(f"{module}.interpreter")
            except ImportError as e:
                reasons.append(f"{name}: {e}")
                continue
            if module == "tflite_runtime" and int(np.__version__.split(".")[0]) >= 2:
                return f"tflite-runtime 2.14 needs numpy below 2, found {np.__version__}: pip install 'numpy<2'"
            return None
        return f"'tflite' artifacts need LiteRT ({'; '.join(reasons)}): pip install 'edgeexit[tflite]'"

    def version(self) -> str:
        _, name = _installed()
        return f"{name} {metadata.version(name)}"

    def load(self, path: Path, threads: int) -> Sequence[LitertRunnable]:
        with path.open("rb") as stream:
            head = stream.read(8)
        if head[4:] != _MAGIC:
            raise BundleError(f"{path}: not a .tflite file: expected {_MAGIC!r} at byte 4, found {head[4:]!r}")
        try:
            interpreter, options = _interpreter(path, threads)
            # tflite-runtime applies XNNPACK only if this comes before the signatures
            interpreter.allocate_tensors()
            names = sorted(interpreter.get_signature_list(), key=_number)
            runnables = [LitertRunnable(interpreter.get_signature_runner(n), interpreter, options) for n in names]
        except Exception as e:  # the engine raises ValueError and RuntimeError for what it cannot load
            raise BundleError(f"{path}: LiteRT cannot load it: {first_line(e)}") from e
        if not runnables:
            raise BundleError(f"{path}: no signatures, so its inputs and outputs have no names")
        return runnables


class LitertRunnable:
    """One signature of a loaded file."""

    def __init__(self, runner: Any, interpreter: Any, options: Mapping[str, Any]) -> None:
        self.runner, self._keep = runner, interpreter  # a runner without its interpreter is a dangling pointer
        self.options = dict(options)
        """What the interpreter was opened with, for reports."""
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        self.inputs, self.outputs = tuple(sorted(inputs)), tuple(sorted(outputs))
        self._shapes = [tuple(int(s) for s in inputs[n]["shape"]) for n in self.inputs]
        self._dtypes = [np.dtype(inputs[n]["dtype"]) for n in self.inputs]

    def run(self, values: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        # The runner accepts arrays of other shapes without an error and computes something else.
        for name, value, shape, dtype in zip(self.inputs, values, self._shapes, self._dtypes, strict=True):
            if value.shape != shape or value.dtype != dtype:
                raise DataError(
                    f"LiteRT takes {name!r} as {dtype.name}{list(shape)}, found {value.dtype.name}{list(value.shape)}"
                )
        try:
            outputs = self.runner(**dict(zip(self.inputs, values, strict=True)))
        except Exception as e:
            raise DataError(f"LiteRT refused the input: {first_line(e)}") from e
        return [outputs[n] for n in self.outputs]


def _interpreter(path: Path, threads: int) -> tuple[Any, dict[str, Any]]:
    """An interpreter with the options that the file's graph needs, and those options."""
    module, name = _installed()
    options: dict[str, Any] = {"num_threads": threads}
    interpreter = module.Interpreter(model_path=str(path), **options)
    if _FUSED not in interpreter.get_signature_list() or not _plans_once(name, metadata.version(name)):
        return interpreter, options
    # IF frees the branch it ran and plans it again at the next call (2 to 5 us a stage) unless all tensors are
    # preserved.
    options["experimental_preserve_all_tensors"] = True
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*experimental_preserve_all_tensors", UserWarning)
        return module.Interpreter(model_path=str(path), **options), options


def _plans_once(name: str, version: str) -> bool:
    """Whether XNNPACK stays on when this distribution of LiteRT preserves all tensors."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return name == "ai-edge-litert" and numbers is not None and tuple(map(int, numbers.groups())) >= _PLANS_ONCE


def _installed() -> tuple[Any, str]:
    """The interpreter's module, and the distribution it comes from."""
    for module, name in _PACKAGES:
        try:
            return importlib.import_module(f"{module}.interpreter"), name
        except ImportError:
            continue
    raise BundleError("LiteRT is not installed")


def _number(name: str) -> tuple[str, int]:
    """stage_2 before stage_10."""
    digits = re.search(r"\d+$", name)
    return (name[: digits.start()], int(digits.group())) if digits else (name, -1)
