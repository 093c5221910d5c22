"""From a bundle to an engine: which artifact, which backend, which policy."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from edgeexit import backends
from edgeexit.backends import Backend
from edgeexit.bundle import Bundle
from edgeexit.drift import DriftMonitor, DriftRegime
from edgeexit.engine import RUN_LAYOUTS, Engine, check_artifact
from edgeexit.errors import BundleError, PolicyError
from edgeexit.manifest import Artifact, Manifest
from edgeexit.policy import Policy, Threshold, fixed_exit


def load(
    path: Path | str | Bundle,
    *,
    artifact: str | None = None,
    policy: str | Policy | None = None,
    threads: int = 1,
    warmup: int = 3,
    clock: Callable[[], float] = time.perf_counter,
    drift: DriftMonitor | bool = False,
) -> Engine:
    """Open a bundle and load one artifact.

    Args:
        path: a bundle folder or ``.zip``.
        artifact: an artifact's name, or a layout's ("chain"); None = the operating point's own, else the first
            fused or chain artifact whose engine is installed here. `Engine.artifact` says which it is.
        policy: the name of a stored operating point, whose prediction sets come along, or a policy; None = of a
            chain that hears speech, the first exit that writes what the one before it wrote (it needs no calibration);
            of others, the last exit answers always.
        threads: for the engine library.
        warmup: runs per stage that are timed at load; 0 = none, and then no deadlines.
        clock: seconds, monotone; tests inject one.
        drift: is shown every answer; its regime must be the policy's. True = one of the regime that the operating
            point carries.

    Raises:
        BundleError, BackendMissing, PolicyError: the bundle, the engine or the policy cannot be used.
    """
    bundle = path if isinstance(path, Bundle) else Bundle.open(path)
    if threads < 1:
        raise PolicyError(f"threads must be at least 1, found {threads}")
    point = bundle.operating_point(policy) if isinstance(policy, str) else None
    chosen, backend = _choose(bundle, artifact or (point.artifact if point else None))
    if point is not None:
        check_artifact(point, chosen)
    used = point.policy if point is not None else policy
    if used is None or isinstance(used, str):
        used = default_policy(bundle.manifest, chosen)
    if drift is True:
        if point is None or point.drift is None:
            raise PolicyError("drift=True needs a named operating point that carries a regime, as calibrate makes them")
        drift = DriftMonitor(DriftRegime.from_dict(point.drift))
    engine = Engine(bundle, chosen, backend, used, threads=threads, warmup=warmup, clock=clock, drift=drift or None)
    if point is not None:
        engine.follow(point)
    return engine


def default_policy(manifest: Manifest, artifact: Artifact) -> Policy:
    """What decides where nothing was calibrated or asked for; see `load`."""
    count = len(manifest.exits)
    if manifest.speech is not None and artifact.layout == "chain":
        return Threshold((1.0,) * (count - 1), "agreement")
    return fixed_exit(count - 1, count, artifact.score or "maxprob")


def _choose(bundle: Bundle, wanted: str | None) -> tuple[Artifact, Backend]:
    m = bundle.manifest
    if wanted in {a.name for a in m.artifacts}:
        candidates: tuple[Artifact, ...] = (m.artifact(wanted or ""),)
    elif wanted is not None:
        candidates = tuple(a for a in m.artifacts if a.layout == wanted)
        if not candidates:
            m.artifact(wanted)  # raises, listing what there is
    else:
        candidates = tuple(a for a in m.artifacts if a.layout in RUN_LAYOUTS)
        if m.speech is not None:  # a chain can ask whether two exits agree, which needs no calibration
            candidates = tuple(sorted(candidates, key=lambda a: a.layout != "chain"))
        if not candidates:
            found = ", ".join(a.name for a in m.artifacts)
            raise BundleError(f"{bundle.path}: no fused or chain artifact; it holds {found}: name one to use it")
    return backends.first(candidates)
