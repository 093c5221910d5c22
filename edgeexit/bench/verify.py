"""Re-running the vectors that a bundle ships: does it still give, on this machine, what it gave when it was made?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.layouts import LAYOUTS
from edgeexit.bundle.manifest import Artifact
from edgeexit.common.finite import named, sound
from edgeexit.engine import backends, layouts
from edgeexit.engine.engine import Engine
from edgeexit.engine.inputs import InputCheck, relative_error
from edgeexit.engine.layouts.base import AllExitOutputs
from edgeexit.errors import BackendMissing, BundleError, DataError, PolicyError
from edgeexit.lm.loading import load_lm
from edgeexit.lm.proof import prove
from edgeexit.policy.policies import Threshold, fixed_exit
from edgeexit.policy.scores import valid_positions

DEFAULT_TOLERANCE = 1e-4
MAX_PROOF_TOKENS = 1 << 16


@dataclass(frozen=True)
class Verified:
    """How one artifact did on the shipped vectors."""

    artifact: str
    passed: bool | None
    """None = not run: its engine is missing or it ships no vectors."""
    reason: str
    """What failed or why it was not run; empty when it passed."""
    max_error: tuple[float, ...] = ()
    """`(exits,)` largest difference as a fraction of the exit's largest output."""
    tolerance: float | None = None
    exits_agree: int | None = None
    """Inputs that left where they should; None = this layout does not decide."""
    inputs: int = 0


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
    if LAYOUTS[artifact.layout].language_model:
        return _decoder(bundle, artifact, threads)
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
        reasons.append(f"{n - agree} of {n} inputs left at another exit than they should")
    return Verified(artifact.name, not reasons, "; ".join(reasons), errors, tolerance, agree, n)


def _unsound(engine: Engine, rows: list[AllExitOutputs]) -> dict[int, str]:
    """Exits that answer with NaN or infinity to some input, and with what; vectors that say so, too, excuse nothing."""
    wrong: dict[int, str] = {}
    for i, row in enumerate(rows):
        for k in range(engine.exits):
            if k not in wrong and not sound(answer := row.single(k), engine.driver.kinds[k]):
                wrong[k] = f"{named(answer)} to vector {i}"
    return wrong


def _decoder(bundle: Bundle, artifact: Artifact, threads: int) -> Verified:
    """Whether what was proved of a language model holds on this machine, too."""
    assert artifact.vectors is not None
    said, ids = artifact.proof, bundle.arrays(artifact.vectors).get("ids")
    if said is None:
        return Verified(artifact.name, None, "nothing was proved of it that could be checked")
    if ids is None or ids.ndim != 2 or ids.dtype != np.int64 or ids.shape[1] < 2 or ids.size > MAX_PROOF_TOKENS:
        raise BundleError(f"{bundle.path}: {artifact.vectors.path} needs 'ids', int64 (sequences, positions)")
    lm = load_lm(bundle, artifact=artifact.name, threads=threads)
    lm.check_ids(ids.reshape(-1).tolist())
    found = prove(lm, ids, said.block, tolerance=said.tolerance).proof
    kept = found.verified or not said.verified
    reason = "" if kept else (
        f"not lossless on this machine: {found.flips} of {found.tokens} tokens change when they go through together, "
        f"logits by up to {found.max_difference:.2g}; use greedy decoding here"
    )  # fmt: skip
    return Verified(artifact.name, kept, reason, (found.max_difference,), said.tolerance, None, len(ids))


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


def _error(rows: list[AllExitOutputs], k: int, arrays: dict[str, Any]) -> float:
    """The largest error of what exit `k` gave; vectors of older bundles hold its answers only."""
    output, wanted = np.concatenate([r.outputs[k] for r in rows]), arrays[f"output_{k}"]
    if (counts := [r.lengths[k] for r in rows if r.lengths is not None]) and f"lengths_{k}" in arrays:
        lengths = np.concatenate([c for c in counts if c is not None])
        if output.shape[::2] != wanted.shape[::2] or not np.array_equal(lengths, arrays[f"lengths_{k}"]):
            return float("inf")
        output, wanted = (a[valid_positions(lengths, a.shape[1])] for a in (output, wanted))
    errors = [relative_error(output, wanted)]
    given = {"uncertainty": [r.uncertainties[k] for r in rows], "learned": [r.learned[k] for r in rows]}
    for what, found in given.items():
        there = [f for f in found if f is not None]
        if there and f"{what}_{k}" in arrays:
            expected = arrays[f"{what}_{k}"]
            alike = expected.shape == (len(there),)
            errors.append(float(np.abs(np.concatenate(there) - expected).max()) if alike else float("inf"))
    return max(errors)


def _vectors(bundle: Bundle, artifact: Artifact) -> dict[str, Any]:
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
