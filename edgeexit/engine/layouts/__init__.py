"""Drivers of the artifact layouts: one interface over fused, chain, prefix and all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.layouts import LAYOUTS
from edgeexit.bundle.manifest import Artifact, Manifest, Port
from edgeexit.common.plugins import resolve
from edgeexit.engine.backends import Backend, Runnable
from edgeexit.engine.layouts.base import Driver, one_by_one
from edgeexit.engine.layouts.buckets import Buckets
from edgeexit.engine.layouts.ports import Ported
from edgeexit.errors import BundleError

__all__ = ["Driver", "drive", "make", "one_by_one"]


def make(bundle: Bundle, artifact: Artifact, backend: Backend, threads: int, clock: Callable[[], float]) -> Driver:
    """Load an artifact's files.

    Raises:
        BundleError: the engine cannot load them, or they are not what the manifest says.
    """
    if LAYOUTS[artifact.layout].language_model:
        raise BundleError(f"{artifact.name} is a language model's: run it with `edgeexit generate` or edgeexit.lm")
    paths = [bundle.file(f) for f in artifact.models]
    return drive(bundle.manifest, artifact, paths, backend, threads, clock)


def drive(
    manifest: Manifest,
    artifact: Artifact,
    paths: Sequence[Path],
    backend: Backend,
    threads: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Driver:
    """As `make`, for files that are in no bundle yet."""
    models: list[Runnable] = [m for path in paths for m in backend.load(path, threads)]
    layout = LAYOUTS[artifact.layout]
    expected = layout.count_networks(len(manifest.exits))
    expected *= max(1, *map(len, artifact.sizes.values())) if artifact.sizes else 1
    if len(models) != expected:
        raise BundleError(f"artifact {artifact.name}: its files hold {len(models)} networks, expected {expected}")
    if artifact.ports:
        models = [Ported(m, _ports(manifest, artifact, k), manifest) for k, m in enumerate(models)]
    driver = resolve(layout.driver or "")
    for axis, sizes in artifact.sizes.items():
        count = len(manifest.exits)
        parts = {n: models[i * count : (i + 1) * count] for i, n in enumerate(sizes)}
        return Buckets(manifest, axis, {n: driver(manifest, artifact, p, clock) for n, p in parts.items()})
    return cast(Driver, driver(manifest, artifact, models, clock))


def _ports(manifest: Manifest, artifact: Artifact, k: int) -> list[Port]:
    """Those of file `k`: files that each hold one exit may call their own exits' tensors alike."""
    if not LAYOUTS[artifact.layout].self_contained:
        return list(artifact.ports)
    others = {t.name for i, e in enumerate(manifest.exits) if i != k for t in e.outputs}
    return [p for p in artifact.ports if p.name not in others]
