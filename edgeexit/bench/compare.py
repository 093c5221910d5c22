"""Comparison of networks by accuracy, calibration, uncertainty and latency, such as ensembles and single networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bench.bench import interleaved
from edgeexit.calibrate.metrics.reliability import reliability
from edgeexit.calibrate.metrics.uncertainty import NothingDropped, accuracy_drop, auroc
from edgeexit.engine.engine import Engine
from edgeexit.engine.inputs import Inputs
from edgeexit.errors import DataError
from edgeexit.policy.policies import fixed_exit
from edgeexit.policy.scores import probabilities

CHUNK = 500
"""Rows per call, so that memory does not grow with the data."""

Labelled = tuple[Inputs, NDArray[Any]]
"""Inputs `(n, ...)` and true classes `(n,)`."""


@dataclass(frozen=True)
class Figures:
    """Figures of one network's last exit; None = unknown from these rows."""

    name: str
    heads: int
    """Heads that answer together at the last exit."""
    parameters: int
    weight_bytes: int
    n: int
    accuracy: float
    nll: float
    """Nats."""
    brier: float
    """Summed over the classes: 0 to 2."""
    ece: float
    """15 bins."""
    auroc: float | None
    """AUROC of right against wrong answers by confidence (the largest probability); None = all right or all wrong."""
    auroc_uncertainty: float | None
    """The same by the heads' agreement; None also for one head."""
    auroc_outside: Mapping[str, float | None] = field(default_factory=dict)
    """AUROC by name of the out-of-distribution inputs: right answers against those inputs by confidence."""
    auprc_drop: float | None = None
    """AUPRC of detecting falling accuracy by falling confidence, see `accuracy_drop`; None = no corrupted streams, or
    accuracy fell in none."""
    corrupted_accuracy: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    """Median of one call; None = not timed."""
    ratio: float | None = None
    """Median of the per-round ratios to the first network, with the 10th and 90th percentile."""
    ratio_low: float | None = None
    ratio_high: float | None = None


def compare(
    engines: Mapping[str, Engine],
    data: Labelled,
    *,
    outside: Mapping[str, Inputs] | None = None,
    corrupted: Mapping[str, Labelled] | None = None,
    rounds: int = 200,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> tuple[Figures, ...]:
    """Measure every network's last exit on the same rows, and time them interleaved.

    Args:
        engines: networks by name; latencies are relative to the first.
        data: labelled test inputs.
        outside: out-of-distribution inputs, by name.
        corrupted: labelled corrupted inputs, by name, in the order of a stream.
        rounds: timed calls per network; 0 = no timing.
        progress: called as ``progress(done, total, name)`` before each network, and once at the end.

    Raises:
        DataError: no networks, rows that do not fit them, or labels that are not classes.
    """
    if not engines:
        raise DataError("nothing to compare: give at least one network")
    figures = []
    for done, (name, engine) in enumerate(engines.items()):
        progress(done, len(engines), name)
        figures.append(_figures(name, engine, data, outside or {}, corrupted or {}))
    progress(len(engines), len(engines), "")
    if rounds:
        calls = [_call(e) for e in engines.values()]
        seconds = interleaved(calls, rounds, lambda i, n: None)
        figures = [_timed(f, spent, seconds[0]) for f, spent in zip(figures, seconds, strict=True)]
    return tuple(figures)


def _figures(
    name: str, engine: Engine, data: Labelled, outside: Mapping[str, Inputs], corrupted: Mapping[str, Labelled]
) -> Figures:
    p, uncertainty = _answers(engine, data[0])
    labels = np.asarray(data[1])
    table = reliability(p, labels)
    confidence, right = p.max(1), p.argmax(1) == labels
    mixed = bool(0 < right.mean() < 1)
    unknown = {key: _answers(engine, x)[0].max(1) for key, x in outside.items()}
    degraded = {key: (_answers(engine, x)[0], np.asarray(y)) for key, (x, y) in corrupted.items()}
    shares = {key: reliability(q, y).accuracy for key, (q, y) in degraded.items()}  # raises for labels that do not fit
    streams = [(q.max(1), q.argmax(1) == y) for q, y in degraded.values()]
    exit = engine.bundle.manifest.exits[-1]
    return Figures(
        name,
        exit.members,
        sum(s.parameters for s in engine.bundle.manifest.stages),
        sum(s.weight_bytes for s in engine.bundle.manifest.stages),
        len(labels),
        table.accuracy,
        table.nll,
        table.brier,
        table.ece,
        auroc(confidence, right) if mixed else None,
        auroc(-uncertainty, right) if mixed and uncertainty is not None else None,
        {key: _apart(confidence[right], s) for key, s in unknown.items()},
        _drop((confidence, right), streams),
        shares,
    )


def _answers(engine: Engine, x: Inputs) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Probabilities `(n, classes)` and uncertainty `(n,)` of the last exit."""
    last = engine.exits - 1
    inputs = [i.name for i in engine.bundle.manifest.inputs]
    arrays = dict(x) if isinstance(x, Mapping) else {inputs[0]: x}
    if len(arrays) == len(inputs) == 1:  # networks may name a single input differently
        arrays = {inputs[0]: next(iter(arrays.values()))}
    n = len(next(iter(arrays.values())))
    before = engine.policy
    engine.policy = fixed_exit(last, engine.exits, engine.artifact.score or "maxprob")
    try:
        parts = [engine.run_batch({k: a[at : at + CHUNK] for k, a in arrays.items()}) for at in range(0, n, CHUNK)]
    finally:
        engine.policy = before
    if not parts or parts[0].outputs.ndim != 2:
        raise DataError(f"{engine.bundle.manifest.name}: networks are compared on rows (n, ...) with one class each")
    p = np.concatenate([probabilities(b.outputs, engine.kind, engine.artifact.temperatures[last]) for b in parts])
    uncertainties = [b.uncertainties for b in parts if b.uncertainties is not None]
    return p, np.concatenate(uncertainties) if uncertainties else None


def _apart(inside: NDArray[Any], outside: NDArray[Any]) -> float | None:
    if not len(inside):
        return None
    both = np.concatenate([inside, outside])
    return auroc(both, np.arange(len(both)) < len(inside))


def _drop(clean: Any, streams: list[Any]) -> float | None:
    if not streams:
        return None
    try:
        return accuracy_drop(clean, streams).auprc
    except NothingDropped:
        return None


def _call(engine: Engine) -> Callable[[], object]:
    x, policy = engine.example(), fixed_exit(engine.exits - 1, engine.exits, engine.artifact.score or "maxprob")
    return lambda: engine.driver.run(x, policy, None)


def _timed(figures: Figures, spent: NDArray[np.float64], first: NDArray[np.float64]) -> Figures:
    low, mid, high = (float(np.quantile(spent / first, q)) for q in (0.1, 0.5, 0.9))
    return replace(figures, seconds=float(np.median(spent)), ratio=mid, ratio_low=low, ratio_high=high)
