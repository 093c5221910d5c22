"""Loading: choice of artifact, backend and policy for a bundle."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable
from pathlib import Path

from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.layouts import LAYOUTS
from edgeexit.bundle.manifest import Artifact
from edgeexit.bundle.merging import same_network
from edgeexit.bundle.tasks import task_of
from edgeexit.engine import backends
from edgeexit.engine.backends import Backend
from edgeexit.engine.decider import check_artifact
from edgeexit.engine.engine import Engine
from edgeexit.errors import BackendMissing, BundleError, EdgeExitError, PolicyError
from edgeexit.policy.drift import DriftMonitor, DriftRegime
from edgeexit.policy.operating_point import OperatingPoint
from edgeexit.policy.policies import Policy, fixed_exit

_ATTEMPTS = 10
"""To load a bundle that other processes replace meanwhile."""


def load(
    path: Path | str | Bundle,
    *,
    artifact: str | None = None,
    policy: str | Policy | None = None,
    exit: int | None = None,
    threads: int = 1,
    warmup: int = 3,
    clock: Callable[[], float] = time.perf_counter,
    drift: DriftMonitor | bool = False,
) -> Engine:
    """Open a bundle and load one artifact.

    Where neither `policy` nor `exit` is passed, the bundle's operating points decide, as in every command: the default
    one (`edgeexit calibrate --default`), else the first that was stored for the artifact. `Engine.point` is the one
    that is followed, `Engine.policy_source` says why. Without any, the last exit answers always; of a chain that
    transcribes, the first exit that writes what the one before it wrote.

    Args:
        path: a bundle folder or ``.zip``, or the name of a bundle inside the package ("digits").
        artifact: an artifact's name, or a layout's ("chain"); None = the operating point's own if its engine is
            installed here, else the first fused or chain artifact whose engine is. `Engine.artifact` says which it is.
        policy: the name of a stored operating point, whose prediction sets come along, or a policy.
        exit: answer always at this exit; -1 = the last.
        threads: for the engine library.
        warmup: runs per stage that are timed at load; 0 = none, and then no deadlines.
        clock: seconds, monotone; tests inject one.
        drift: is shown every answer; its regime must be the policy's. True = one of the regime that the operating
            point carries.

    Raises:
        BundleError, BackendMissing, PolicyError: the bundle, the engine or the policy cannot be used.
    """
    if threads < 1:
        raise PolicyError(f"threads must be at least 1, found {threads}")
    if policy is not None and exit is not None:
        raise PolicyError("policy and exit exclude each other: exit=2 answers always at exit 2")

    def engine_of(bundle: Bundle) -> Engine:
        engine = _engine(bundle, artifact, policy, exit, threads, warmup, clock)
        if drift is True:
            if engine.point is None or engine.point.drift is None:
                raise PolicyError(
                    "drift=True needs an operating point that carries a regime, as calibrate makes them; "
                    f"what decides is {engine.policy_source}"
                )
            engine.drift = DriftMonitor(DriftRegime.from_dict(engine.point.drift))
        elif drift is not False:
            engine.drift = drift
        return engine

    if isinstance(path, Bundle):
        return engine_of(path)
    for left in reversed(range(_ATTEMPTS)):
        bundle = Bundle.open(path)
        try:
            engine = engine_of(bundle)
        except EdgeExitError:
            if left and not bundle.is_current():  # replaced while its files were read
                continue
            raise
        if not left or bundle.is_current() or _holds(path, engine.artifact):
            return engine
    raise AssertionError


def _engine(
    bundle: Bundle, artifact: str | None, policy: str | Policy | None, exit: int | None, threads: int, warmup: int,
    clock: Callable[[], float],
) -> Engine:  # fmt: skip
    point = bundle.operating_point(policy) if isinstance(policy, str) else None
    asked = artifact or (point.artifact if point else None)
    chosen, backend = _choose(bundle, asked, by_default=policy is None and exit is None)
    if point is not None:
        check_artifact(point, chosen)
    uncalibrated = task_of(bundle.manifest).default_policy(bundle.manifest, chosen)
    used, source = uncalibrated.policy, None
    if exit is not None:
        used, source = _fixed(exit, len(bundle.manifest.exits), chosen), f"exit {exit} as asked"
    elif point is not None:
        used = point.policy
    elif policy is not None and not isinstance(policy, str):
        used, source = policy, f"a policy {policy.kind!r} of the caller"
    engine = Engine(bundle, chosen, backend, used, threads=threads, warmup=warmup, clock=clock)
    if point is not None:
        engine.follow(point)
    elif source is not None:
        engine.policy_source = source
    else:
        _follow_default(engine, uncalibrated.reason, anywhere=artifact is None)
    return engine


def _fixed(exit: int, count: int, artifact: Artifact) -> Policy:
    try:
        k = operator.index(exit)
    except TypeError as e:
        raise PolicyError(f"exit is a whole number, found {exit!r:.40}") from e
    return fixed_exit(k + count if -count <= k < 0 else k, count, artifact.score or "maxprob")


def _follow_default(engine: Engine, uncalibrated: str, anywhere: bool) -> None:
    """Follow the operating point that is taken where none is named, and say why it is that one."""
    bundle, artifact = engine.bundle, engine.artifact
    for point in bundle.points_for(artifact.name) if engine.layout.answers else ():
        try:
            engine.follow(point)
        except PolicyError as e:
            if point.artifact is None:  # of recorded outputs: not every artifact can follow it
                continue
            raise PolicyError(
                f"{bundle.path}: operating point {point.name!r}, which is followed where none is named, cannot be "
                f"followed: {e}; name another one or an exit"
            ) from e
        engine.policy_source = f"operating point {point.name}, {_rank(bundle, point, artifact)}"
        break
    else:
        engine.policy_source = f"no operating point for this artifact, so {uncalibrated}"
    named = bundle.manifest.default_policy is not None
    first = bundle.default_point() if named or engine.point is None else None
    if first is not None and first.artifact not in (None, artifact.name):
        why = ", whose engine is not installed here" if anywhere else ""
        which = f"the bundle's default, {first.name}," if named else f"operating point {first.name}"
        engine.policy_source += f"; {which} is of {first.artifact}{why}"


def _rank(bundle: Bundle, point: OperatingPoint, artifact: Artifact) -> str:
    """Why this one of the operating points, in words."""
    if point.name == bundle.manifest.default_policy:
        return "the bundle's default"
    fitting = []
    for name in bundle.manifest.policies:
        try:
            if bundle.operating_point(name).artifact in (None, artifact.name):
                fitting.append(name)
        except PolicyError:  # a damaged one is in nobody's way until it is asked for
            continue
    if len(fitting) == 1:
        return f"the only one stored for {artifact.name}"
    return f"the first of {len(fitting)} stored for {artifact.name}, none of which is the bundle's default"


def _choose(bundle: Bundle, wanted: str | None, by_default: bool) -> tuple[Artifact, Backend]:
    """The artifact to load, and its engine.

    Args:
        bundle: where it is.
        wanted: name of an artifact or a layout; None = any.
        by_default: the operating points decide: the first one whose artifact is among those wanted and can run here.
    """
    m = bundle.manifest
    if wanted in {a.name for a in m.artifacts}:
        return backends.first((m.artifact(wanted or ""),))
    if wanted is not None:
        candidates = tuple(a for a in m.artifacts if a.layout == wanted)
        if not candidates:
            m.artifact(wanted)  # raises, listing what there is
    else:
        candidates = tuple(a for a in m.artifacts if LAYOUTS[a.layout].stops_early)
        preferred = task_of(m).preferred_layout
        candidates = tuple(sorted(candidates, key=lambda a: preferred is not None and a.layout != preferred))
        if not candidates:
            names = ", ".join(a.name for a in m.artifacts)
            raise BundleError(f"{bundle.path}: no fused or chain artifact; it holds {names}: name one to use it")
    for point in bundle.points_for() if by_default and any(LAYOUTS[a.layout].answers for a in candidates) else ():
        if point.artifact is None:  # of recorded outputs: whichever comes first
            break
        artifact = m.artifact(point.artifact)
        if artifact in candidates or (wanted is None and LAYOUTS[artifact.layout].self_contained):
            try:
                return artifact, backends.get(artifact.format)
            except BackendMissing:
                continue
    return backends.first(candidates)


def _holds(path: Path | str, artifact: Artifact) -> bool:
    """Whether a bundle still has this artifact as it is."""
    return any(same_network(a, artifact) for a in Bundle.open(path).manifest.artifacts)
