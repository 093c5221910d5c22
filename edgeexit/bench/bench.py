"""Latency per exit of every layout beside the single-exit network, interleaved in one run."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.layouts import LAYOUTS
from edgeexit.engine.engine import Engine
from edgeexit.engine.loading import load
from edgeexit.errors import BackendMissing, BundleError
from edgeexit.policy.policies import fixed_exit


@dataclass(frozen=True)
class Timing:
    """Latency of one layout forced to one exit."""

    artifact: str
    layout: str
    exit: int
    p50: float
    """Seconds."""
    p90: float
    """Seconds."""
    ratio: float | None
    """Median of the per-round ratios to the single-exit network of the same format and precision; None = no layout
    prefix of it."""
    ratio_low: float | None
    """10th percentile of those ratios."""
    ratio_high: float | None
    """90th percentile of those ratios."""
    n: int


def bench(
    bundle: Bundle, *, n: int = 300, threads: int = 1, progress: Callable[[int, int], None] = lambda i, n: None
) -> list[Timing]:
    """Time every layout at every exit, one call each per round, on the shipped vectors' first input.

    The single-exit network is the prefix of the last exit: the same backbone without the earlier heads. Artifacts whose
    engine is not installed are left out.

    Raises:
        BundleError: nothing in the bundle can be timed.
        BackendMissing: no engine for any of it.
    """
    if n < 1:
        raise BundleError(f"n must be at least 1, found {n}")
    count = len(bundle.manifest.exits)
    cases: list[tuple[Engine, int, Callable[[], object]]] = []
    missing: BackendMissing | None = None
    for artifact in bundle.manifest.artifacts:
        if not LAYOUTS[artifact.layout].answers:
            continue
        try:
            engine = load(bundle, artifact=artifact.name, exit=-1, threads=threads, warmup=0)
        except BackendMissing as e:
            missing = e
            continue
        x = engine.example()
        for k in range(count):
            policy = fixed_exit(k, count, artifact.score or "maxprob")
            cases.append((engine, k, lambda d=engine.driver, x=x, p=policy: d.run(x, p, None)))  # type: ignore[misc]
    if not cases and missing is not None:
        raise missing
    if not cases:
        raise BundleError(f"{bundle.path}: no fused, chain or prefix artifact to time")
    seconds = interleaved([call for _, _, call in cases], n, progress)
    singles = {
        (e.artifact.format, e.artifact.precision): i
        for i, (e, k, _) in enumerate(cases)
        if e.layout.self_contained and k == count - 1
    }
    timings = []
    for (engine, k, _), spent in zip(cases, seconds, strict=True):
        single = singles.get((engine.artifact.format, engine.artifact.precision))
        ratios = None if single is None else spent / seconds[single]
        low, mid, high = (
            (None, None, None) if ratios is None else (float(np.quantile(ratios, q)) for q in (0.1, 0.5, 0.9))
        )
        p50, p90 = (float(np.quantile(spent, q)) for q in (0.5, 0.9))
        timings.append(Timing(engine.artifact.name, engine.artifact.layout, k, p50, p90, mid, low, high, n))
    return timings


def interleaved(
    calls: list[Callable[[], object]], n: int, progress: Callable[[int, int], None]
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Time calls in rounds: each call in a seeded random order, once untimed and once timed.

    Garbage collection is off meanwhile.

    Returns:
        Seconds `(calls, n)`.
    """
    seconds = np.zeros((len(calls), n))
    rng = np.random.default_rng(0)
    for call in calls:
        for _ in range(10):
            call()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for i in range(n):
            for j in rng.permutation(len(calls)):
                calls[j]()  # warms the caches with this case's weights, as in steady use
                start = time.perf_counter()
                calls[j]()
                seconds[j, i] = time.perf_counter() - start
            progress(i + 1, n)
    finally:
        if collecting:
            gc.enable()
    return seconds
