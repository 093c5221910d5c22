"""What ships, calibrated and measured: on the rows that certify, on this machine's clock, and once on a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeexit.bench import interleaved
from edgeexit.bundle import Bundle
from edgeexit.calibrate.choose import calibrate
from edgeexit.calibrate.on_bundle import store_calibration
from edgeexit.calibrate.risk import Guarantee
from edgeexit.calibrate.search import pareto
from edgeexit.checks import data_inputs
from edgeexit.engine import Engine
from edgeexit.errors import DataError
from edgeexit.loading import load
from edgeexit.operating_point import OperatingPoint
from edgeexit.policy import fixed_exit
from edgeexit_exporters import measure
from edgeexit_exporters.augment.result import Augmented, Tested
from edgeexit_exporters.augment.verdict import Verdict, judge
from edgeexit_exporters.source import Source

HINDSIGHT = (0.0, 0.005, 0.01, 0.02, 0.05)
"""Losses at which `Tested` says where the limit is."""
MOST_RECORDED = 5_000
"""Rows of a part that go through the finished artifact one by one."""
ROUNDS = 200
"""Of timed calls, interleaved, one thread each."""


def evenly(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most so many of the rows, spread over all: files are often sorted by class."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(int)]


def rows_of(inputs: Mapping[str, NDArray[Any]], rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    return {name: array[rows] for name, array in inputs.items()}


def calibrated(
    bundle: Bundle, source: Source, inputs: Mapping[str, NDArray[Any]], labels: NDArray[np.int64] | None,
    parts: Mapping[str, NDArray[np.int64]], drop: float, margin: float, score: str, guarantee: Guarantee | None,
    total: int,
) -> tuple[OperatingPoint, Verdict, Bundle]:  # fmt: skip
    """An operating point on the artifact that a device would take first, and the verdict on the third part."""
    engine = load(bundle, warmup=0)
    design, held_out = (
        engine.record(rows_of(inputs, part), None if labels is None else labels[part])
        for part in (evenly(parts[name], MOST_RECORDED) for name in ("choose", "certify"))
    )
    wish: dict[str, Any] = {"accuracy_drop": max(drop - margin, 0.0)} if guarantee is None else {"guarantee": guarantee}
    point = calibrate(
        design, score=score, held_out=held_out, name="augmented", artifact=engine.artifact.name,
        temperatures=engine.artifact.temperatures, **wish,
    )  # fmt: skip
    asked = point.asked if guarantee is not None else {"accuracy_drop": drop}
    point = replace(point, asked=asked, data={**point.data, "rows": design.n + held_out.n, "margin": margin})
    bundle = store_calibration(engine, held_out).with_operating_point(point)
    return point, judge(point.policy, held_out, total, _allowed(point), time_ratios=_times(engine, source)), bundle


def _allowed(point: OperatingPoint) -> float:
    """The loss that was asked for: as a drop, or as the bound of a guarantee."""
    return float(point.asked.get("accuracy_drop", point.asked.get("alpha", 0.0)))


def on_test(found: Augmented, inputs: Mapping[str, NDArray[Any]], labels: NDArray[np.int64] | None) -> Tested:
    """Measure an augmented bundle once, on rows of their own.

    Args:
        found: of `augment`, with a bundle.
        inputs: `(n, ...)` by the bundle's input names, or "x".
        labels: `(n,)`; None = agreement with the untouched network.

    Raises:
        DataError: the rows do not fit, or there is no bundle to measure.
    """
    if found.bundle is None or found.point is None:
        raise DataError("no bundle was written, so there is nothing to test")
    engine = load(found.bundle, policy=found.point.name, warmup=0)
    specs = engine.bundle.manifest.inputs
    arrays = data_inputs(inputs, specs, "the test rows")
    records = engine.record({s.name: arrays[s.name].astype(s.dtype, copy=False) for s in specs}, labels)
    path = pareto(records, found.point.policy.score or "maxprob")
    scale, full = float(records.cost[-1]) / found.total_macs, float(records.correct[-1].mean(dtype=np.float64))
    limit: dict[float, float | None] = {}
    for lost in HINDSIGHT:
        cost = min((p.cost * scale for p in path.points if p.accuracy >= full - lost - 1e-9), default=1.0)
        limit[lost] = cost if cost < 1 else None
    return Tested(judge(found.point.policy, records, found.total_macs, _allowed(found.point)), limit)


def _times(engine: Engine, source: Source) -> list[float]:
    """Median time to answer at each exit over the untouched model's, one thread, interleaved."""
    session = measure.session(ir.to_proto(source.model).SerializeToString())
    x = engine.example()
    named = dict(zip([i.name for i in engine.bundle.manifest.inputs], x, strict=True))
    policies = [fixed_exit(k, engine.exits, engine.artifact.score or "maxprob") for k in range(engine.exits)]
    calls: list[Callable[[], object]] = [lambda: session.run(None, named)]
    calls += [lambda p=p: engine.driver.run(x, p, None) for p in policies]  # type: ignore[misc]
    seconds = interleaved(calls, ROUNDS, lambda i, n: None)
    return [float(np.median(spent / seconds[0])) for spent in seconds[1:]]
