"""How the artifact layouts are driven: one interface over fused, chain, prefix and all."""

from __future__ import annotations

from collections.abc import Callable

from edgeexit.backends import Backend
from edgeexit.bundle import Bundle
from edgeexit.layouts.base import Driver, one_by_one
from edgeexit.layouts.chain import Chain
from edgeexit.layouts.fused import Fused
from edgeexit.layouts.single import AllExits, Prefix
from edgeexit.manifest import Artifact

__all__ = ["Driver", "make", "one_by_one"]

_DRIVERS: dict[str, type[Chain] | type[Fused] | type[Prefix] | type[AllExits]] = {
    "chain": Chain,
    "fused": Fused,
    "prefix": Prefix,
    "all": AllExits,
}


def make(bundle: Bundle, artifact: Artifact, backend: Backend, threads: int, clock: Callable[[], float]) -> Driver:
    """Load an artifact's files."""
    models = [backend.load(bundle.file(f), threads) for f in artifact.models]
    return _DRIVERS[artifact.layout](bundle.manifest, artifact, models, clock)
