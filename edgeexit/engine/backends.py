"""Engines that can run a model file. This module holds their names; an engine is imported when asked for.

A new engine is one module with a `Backend` and one row in `BACKENDS`, or an entry point in the group
``edgeexit.engine.backends`` of another distribution.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from numpy.typing import NDArray

from edgeexit.errors import BackendMissing

if TYPE_CHECKING:
    from edgeexit.bundle.manifest import Artifact


class Runnable(Protocol):
    """One loaded model."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Input names, in the order `run` takes them."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Output names, in the order `run` gives them."""

    def run(self, values: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Compute the outputs; values and results follow `inputs` and `outputs`."""


class Backend(Protocol):
    """An engine: asked first whether it can run here, then to load files."""

    def check(self) -> str | None:
        """Why this engine cannot run here, with the pip line that mends it; None = it can."""

    def version(self) -> str:
        """Name and version, for reports."""

    def load(self, path: Path, threads: int) -> Sequence[Runnable]:
        """Load one model file: what it holds, in order (a .tflite may have a signature for every stage).

        Raises:
            BundleError: the file is not one this engine can load.
        """


BACKENDS = {"onnx": "edgeexit_runtimes.onnx:OnnxBackend", "tflite": "edgeexit_runtimes.litert:LitertBackend"}
"""Artifact format -> "module:class"."""


def get(name: str) -> Backend:
    """The engine for an artifact format.

    Raises:
        BackendMissing: unknown, or its library is not installed; the message has the pip line.
    """
    target = BACKENDS.get(name)
    if target is None:
        # Scanning installed packages is slow on a small device, so only for names we do not know.
        from importlib.metadata import entry_points

        found = [e.value for e in entry_points(group="edgeexit.engine.backends") if e.name == name]
        if not found:
            raise BackendMissing(f"no engine for format {name!r}; this version runs: {', '.join(BACKENDS)}")
        target = found[0]
    module, _, cls = target.partition(":")
    backend = cast(Backend, getattr(importlib.import_module(module), cls)())
    if (reason := backend.check()) is not None:
        raise BackendMissing(reason)
    return backend


def first(artifacts: Iterable[Artifact]) -> tuple[Artifact, Backend]:
    """The first artifact whose engine is here, and the engine.

    Raises:
        BackendMissing: none is; the message has every pip line.
    """
    reasons = []
    for artifact in artifacts:
        try:
            return artifact, get(artifact.format)
        except BackendMissing as e:
            reasons.append(str(e))
    raise BackendMissing("; ".join(dict.fromkeys(reasons)))
