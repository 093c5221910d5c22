"""Engines by artifact format: each is imported when asked for.

A new engine is one module with a `Backend` and one row in `BACKENDS`, or an entry point in the group
``edgeexit.backends`` of another distribution.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from edgeexit.common.plugins import plugin, resolve
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


GROUP = "edgeexit.backends"
"""Entry points of other distributions, each a `Backend` class under the format's name."""


def get(name: str) -> Backend:
    """The engine for an artifact format.

    Raises:
        BackendMissing: unknown, or its library is not installed (the message has the pip line), or another distribution
            registers what is no engine.
    """
    target = BACKENDS.get(name)
    if target is not None:
        backend: Backend = resolve(target)()
    else:
        cls = plugin(GROUP, name, BackendMissing)
        if cls is None:
            raise BackendMissing(f"no engine for format {name!r}; this version runs: {', '.join(BACKENDS)}")
        backend = _made(cls, name)
    if (reason := backend.check()) is not None:
        raise BackendMissing(reason)
    return backend


def _made(cls: Any, name: str) -> Backend:
    try:
        backend: Backend = cls()
    except Exception as e:
        raise BackendMissing(f"the engine for format {name!r}, of {GROUP}, failed: {type(e).__name__}: {e}") from e
    if lacking := [m for m in ("check", "version", "load") if not callable(getattr(backend, m, None))]:
        raise BackendMissing(
            f"the engine for format {name!r}, of {GROUP}, is a {type(backend).__name__} without {lacking[0]}()"
        )
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
