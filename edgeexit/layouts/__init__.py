"""How the artifact layouts are driven: one interface over fused, chain, prefix and all."""

from __future__ import annotations

from collections.abc import Callable

from edgeexit.backends import Backend, Runnable
from edgeexit.bundle import Bundle
from edgeexit.errors import BundleError
from edgeexit.layouts.base import Driver, one_by_one
from edgeexit.layouts.chain import Chain
from edgeexit.layouts.fused import Fused
from edgeexit.layouts.ports import Ported
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
    """Load an artifact's files.

    Raises:
        BundleError: the engine cannot load them, or they are not what the manifest says.
    """
    models: list[Runnable] = [m for f in artifact.models for m in backend.load(bundle.file(f), threads)]
    if artifact.layout == "chain" and len(models) != (stages := len(bundle.manifest.exits)):
        raise BundleError(f"artifact {artifact.name}: its files hold {len(models)} stages, the manifest {stages}")
    if artifact.ports:
        models = [Ported(m, artifact.ports, bundle.manifest) for m in models]
    return _DRIVERS[artifact.layout](bundle.manifest, artifact, models, clock)
