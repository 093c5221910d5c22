"""Verification of a bundle on this machine: its shipped test vectors are run again and compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.layouts import LAYOUTS
from edgeexit.bundle.manifest import Artifact
from edgeexit.bundle.tasks import Verified, task_of
from edgeexit.common.finite import named, sound
from edgeexit.engine import backends, layouts
from edgeexit.engine.engine import Engine
from edgeexit.engine.inputs import InputCheck, relative_error
from edgeexit.engine.layouts.base import AllExitOutputs
from edgeexit.errors import BackendMissing, BundleError, DataError, PolicyError
from edgeexit.policy.policies import Threshold, fixed_exit
from edgeexit.policy.scores import valid_positions

DEFAULT_TOLERANCE = 1e-4


def verify(bundle: Bundle, artifact: str | None = None, threads: int = 1) -> list[Verified]:
    """Re-run the shipped vectors of all artifacts, or of one.

    Raises:
        BundleError: no such artifact, or vectors that do not fit the manifest.
    """
    chosen = bundle.manifest.artifacts if artifact is None else (bundle.manifest.artifact(artifact),)
    return [_verify(bundle, a, threads) for a in chosen]


def _verify(bundle: Bundle, artifact: Artifact, threads: int) -> Verified:
    if artifact.vectors is None:
        return Verified(artifact.name, None, "ships no vectors")
    try:
        backend = backends.get(artifact.format)
    except BackendMissing as e:
        return Verified(artifact.name, None, str(e))
    of_task = task_of(bundle.manifest).verify
    if of_task is not None and LAYOUTS[artifact.layout].driver is None:
        return of_task(bundle, artifact, threads)
    arrays = _vectors(bundle, artifact)
    count = len(bundle.manifest.exits)
    inputs = InputCheck(bundle.manifest.feeds).many(
        {s.name: arrays[f"input_{i}"] for i, s in enumerate(bundle.manifest.feeds)}
    )
    engine = Engine(
        bundle, artifact, backend, fixed_exit(count - 1, count, artifact.score or "maxprob"), threads=threads, warmup=0
    )
    n = len(inputs[0])
    try:
        rows = [engine.driver.all_exits([a[i : i + 1] for a in inputs]) for i in range(n)]
        agree = _exits(engine, arrays, inputs) if engine.layout.stops_early else None
    except DataError as e:  # a fused graph whose NaN went past the exit that was asked for
        return Verified(artifact.name, False, str(e), inputs=n)
    errors = tuple(_error(rows, k, arrays) for k in range(count))
    wrong = _unsound(engine, rows)
    tolerance = artifact.check.tolerance if artifact.check is not None else DEFAULT_TOLERANCE
    reasons = [
        f"exit {bundle.manifest.exits[k].name!r} differs by {e:.2e}, tolerance {tolerance:.0e}"
        for k, e in enumerate(errors)
        if not e <= tolerance and k not in wrong
    ] + [f"exit {bundle.manifest.exits[k].name!r} answers with {what}" for k, what in wrong.items()]
    if agree is not None and agree < n:
        reasons.append(f"{n - agree} of {n} inputs left at another exit than expected")
    return Verified(artifact.name, not reasons, "; ".join(reasons), errors, tolerance, agree, n)


def _unsound(engine: Engine, rows: list[AllExitOutputs]) -> dict[int, str]:
    """Exits that answer with NaN or infinity to some input, with a description; also if the vectors hold the same."""
    wrong: dict[int, str] = {}
    for i, row in enumerate(rows):
        for k in range(engine.exits):
            if k not in wrong and not sound(answer := row.single(k), engine.driver.kinds[k]):
                wrong[k] = f"{named(answer)} to vector {i}"
    return wrong


def _exits(engine: Engine, arrays: dict[str, Any], inputs: list[Any]) -> int | None:
    """How many inputs leave where the vectors say, under the vectors' thresholds."""
    policy = Threshold(tuple(float(t) for t in arrays["thresholds"]), str(arrays["score"]))
    try:
        engine.driver.fits(policy)
    except PolicyError:
        return None  # calibrated since: other temperatures, other scores
    if policy.temperatures is None and any(t != 1 for t in engine.artifact.temperatures):
        return None
    taken = layouts.one_by_one(engine.driver, inputs, policy).exits
    return int((taken == arrays["exits"]).sum())


def _error(rows: list[AllExitOutputs], k: int, arrays: dict[str, NDArray[Any]]) -> float:
    """Largest error of exit `k`'s outputs; vectors of older bundles hold its answers only."""
    output, expected = np.concatenate([r.outputs[k] for r in rows]), arrays[f"output_{k}"]
    if (counts := [r.lengths[k] for r in rows if r.lengths is not None]) and f"lengths_{k}" in arrays:
        lengths = np.concatenate([c for c in counts if c is not None])
        if output.shape[::2] != expected.shape[::2] or not np.array_equal(lengths, arrays[f"lengths_{k}"]):
            return float("inf")
        output, expected = (a[valid_positions(lengths, a.shape[1])] for a in (output, expected))
    errors = [relative_error(output, expected)]
    extras = {"uncertainty": [r.uncertainties[k] for r in rows], "learned": [r.learned[k] for r in rows]}
    for what, values in extras.items():
        known = [v for v in values if v is not None]
        if known and f"{what}_{k}" in arrays:
            stored = arrays[f"{what}_{k}"]
            alike = stored.shape == (len(known),)
            errors.append(float(np.abs(np.concatenate(known) - stored).max()) if alike else float("inf"))
    return max(errors)


def _vectors(bundle: Bundle, artifact: Artifact) -> dict[str, NDArray[Any]]:
    assert artifact.vectors is not None
    arrays = bundle.arrays(artifact.vectors)
    count = len(bundle.manifest.exits)
    needed = [f"input_{i}" for i in range(len(bundle.manifest.feeds))] + [f"output_{k}" for k in range(count)]
    if lacking := [n for n in (*needed, "thresholds", "exits", "score") if n not in arrays]:
        raise BundleError(f"{bundle.path}: {artifact.vectors.path} lacks {lacking[0]!r}")
    n = len(np.atleast_1d(arrays["input_0"]))
    shapes = {"thresholds": (count - 1,), "exits": (n,), "score": ()}
    if wrong := [name for name, shape in shapes.items() if arrays[name].shape != shape]:
        raise BundleError(
            f"{bundle.path}: {artifact.vectors.path}: {wrong[0]!r} has shape {arrays[wrong[0]].shape}, "
            f"expected {shapes[wrong[0]]}"
        )
    return arrays
