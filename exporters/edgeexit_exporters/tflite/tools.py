"""Converter, quantizer and interpreter, imported when needed, in the versions that the tests cover."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from edgeexit.errors import BackendMissing

PIP = "pip install 'edgeexit[tflite-export]'"
_WANTED = {"litert-torch": "0.10", "ai-edge-quantizer": "0.10", "ai-edge-litert": "2.3"}
"""Distribution -> the release series whose behaviour the tests hold; they break between series."""
_SETTINGS = {
    "LITERT_TORCH_SHOW_PROGRESS": "n",
    # the default partitioner leaves one transpose before a head when a stage also returns its features
    "LAYOUT_OPTIMIZE_PARTITIONER": "GREEDY",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def converter() -> Any:
    """The module `litert_torch`.

    Raises:
        BackendMissing: not installed, or of another version.
    """
    return _get("litert-torch", "litert_torch", "converting to TFLite")


def quantizer() -> Any:
    """The module `ai_edge_quantizer.quantizer`.

    Raises:
        BackendMissing: not installed, or of another version.
    """
    return _get("ai-edge-quantizer", "ai_edge_quantizer.quantizer", "quantizing TFLite files")


def recipes() -> Any:
    """The module `ai_edge_quantizer.recipe`.

    Raises:
        BackendMissing: not installed, or of another version.
    """
    return _get("ai-edge-quantizer", "ai_edge_quantizer.recipe", "quantizing TFLite files")


def interpreter() -> Any:
    """The module `ai_edge_litert.interpreter`.

    Raises:
        BackendMissing: not installed, or of another version.
    """
    return _get("ai-edge-litert", "ai_edge_litert.interpreter", "calibrating TFLite files")


def schema() -> Any:
    """The flatbuffer classes of a .tflite file.

    Raises:
        BackendMissing: not installed, or of another version.
    """
    return _get("ai-edge-litert", "ai_edge_litert.schema_py_generated", "quantizing TFLite files")


def _get(distribution: str, module: str, what: str) -> Any:
    wanted = _WANTED[distribution]
    try:
        installed = version(distribution)
    except PackageNotFoundError as e:
        raise BackendMissing(f"{what} needs {distribution} {wanted}.*, which is not installed: {PIP}") from e
    if installed != wanted and not installed.startswith(f"{wanted}."):
        raise BackendMissing(f"{what} needs {distribution} {wanted}.*, found {installed}: {PIP}")
    if module in sys.modules:
        return sys.modules[module]
    try:
        with quiet():
            return importlib.import_module(module)
    except (ImportError, OSError) as e:
        raise BackendMissing(f"{what}: {distribution} {installed} does not import ({e}): {PIP}") from e


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Keeps what the tools print, from Python or from C++, off the terminal; `.getvalue()` afterwards has it."""
    kept = {name: os.environ.get(name) for name in _SETTINGS}
    os.environ.update(_SETTINGS)
    printed = io.StringIO()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    saved = [(n, os.dup(n)) for n in (1, 2)]
    try:
        with tempfile.TemporaryFile() as file:
            for n, _ in saved:
                os.dup2(file.fileno(), n)
            try:
                with (
                    warnings.catch_warnings(),
                    contextlib.redirect_stdout(printed),
                    contextlib.redirect_stderr(printed),
                ):
                    warnings.simplefilter("ignore")
                    yield printed
            finally:
                for n, copy in saved:
                    os.dup2(copy, n)
                file.seek(0)
                printed.write(file.read().decode(errors="replace"))
    finally:
        for _, copy in saved:
            os.close(copy)
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
