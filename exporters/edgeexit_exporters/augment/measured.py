"""Calibration and measurement of augmented bundles: certifying rows, time on this machine, and one test."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeexit.bench.bench import interleaved
from edgeexit.bundle.bundle import Bundle, write_bundle
from edgeexit.calibrate.choose import calibrate
from edgeexit.calibrate.on_bundle import store_calibration
from edgeexit.calibrate.search.pareto import pareto
from edgeexit.engine.engine import Engine
from edgeexit.engine.inputs import data_inputs
from edgeexit.engine.loading import load
from edgeexit.errors import DataError
from edgeexit.pictures.preprocess import Preprocess
from edgeexit.policy.operating_point import OperatingPoint
from edgeexit.policy.policies import fixed_exit
from edgeexit.records.classification import Records
from edgeexit_exporters.augment.result import Augmented, Shipped, Tested
from edgeexit_exporters.augment.spec import AugmentSpec
from edgeexit_exporters.augment.verdict import AugmentVerdict, Ratio, judge
from edgeexit_exporters.augment.written import export_exits
from edgeexit_exporters.onnx import measure
from edgeexit_exporters.source.source import Source
from edgeexit_exporters.spec import ExportSpec

HINDSIGHT = (0.0, 0.005, 0.01, 0.02, 0.05)
"""Losses at which `Tested` says where the limit is."""
MOST_RECORDED = 5_000
"""Rows of a part that go through the finished artifact one by one."""
BOUND_ACCURACY = ("accuracy_gap", "disagreement")
"""Losses that no loss of accuracy is above."""
ROUNDS = 200
"""Of timed calls, interleaved, one thread each."""


def evenly(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most so many of the rows, spread over all: files are often sorted by class."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(int)]


def rows_of(inputs: Mapping[str, NDArray[Any]], rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    return {name: array[rows] for name, array in inputs.items()}


@dataclass(frozen=True)
class SplitRows:
    """The rows of a run, divided, with what the untouched network answered."""

    inputs: Mapping[str, NDArray[Any]]
    labels: NDArray[np.int64] | None
    parts: Mapping[str, NDArray[np.int64]]
    """fit, choose, certify: indices of rows."""
    answers: NDArray[np.int64]
    """`(n,)` classes the untouched network named."""

    @property
    def truth(self) -> NDArray[np.int64]:
        """What counts as right: the labels, or else the untouched network's own answers."""
        return self.answers if self.labels is None else self.labels

    @property
    def measure(self) -> str:
        return "agreement" if self.labels is None else "accuracy"

    def some(self, part: str) -> NDArray[np.int64]:
        """Rows of a part that go through the finished artifact."""
        return evenly(self.parts[part], MOST_RECORDED)


def shipped(
    grafted: Source, untouched: Source, rows: SplitRows, out: Path, spec: AugmentSpec, *, total: int,
    preprocess: Mapping[str, Preprocess], changed: bool = False, tell: Callable[[str], None] = lambda text: None,
) -> Shipped:  # fmt: skip
    """A network with exits as a bundle: exported, calibrated on what ships, judged on the third part; then written,
    unless it is not worth it.

    Args:
        grafted: the network with exits.
        untouched: as it was, for its time.
        rows: to calibrate and to judge on.
        out: the bundle's folder.
        spec: of the run.
        total: multiply-accumulates of the untouched network.
        preprocess: by the inputs' names.
        changed: the network was trained on, so its last exit is not the untouched one: the drop counts from that.
        tell: called with each step's name.

    Raises:
        ModelError, BundleError: see `written.export_exits`; Infeasible: nothing keeps what was asked.
    """
    export = ExportSpec(
        layouts=spec.layouts, score=spec.score, labels=spec.class_names, name=out.name.removesuffix(".edgeexit"),
        tolerance=spec.tolerance,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="edgeexit-") as folder:  # a guarantee may yet be refused
        tell("writing and checking the bundle")
        bundle = export_exits(
            grafted, Path(folder, "a.edgeexit"), out, export, preprocess=preprocess,
            data=rows_of(rows.inputs, evenly(rows.parts["certify"], 32)), progress=_warnings(tell),
        )  # fmt: skip
        left_out = bundle.manifest.provenance.get("left_out", {})
        tell("calibrating what ships")
        point, verdict, bundle = _calibrated(bundle, untouched, rows, spec, total, changed)
        if verdict.worth is False and not spec.anyway:
            return Shipped(point, verdict, None, left_out)
        contents = {f.path: bundle.file(f).read_bytes() for f in bundle.manifest.files}
        written = write_bundle(out, contents, bundle.manifest, overwrite=spec.overwrite)
        return Shipped(point, verdict, written, left_out)


def _warnings(tell: Callable[[str], None]) -> Callable[[str], None]:
    """Pass on what went wrong; what every step is called would be too much here."""
    return lambda text: tell(text) if text.startswith("warning:") else None


def _calibrated(
    bundle: Bundle, untouched: Source, rows: SplitRows, spec: AugmentSpec, total: int, changed: bool
) -> tuple[OperatingPoint, AugmentVerdict, Bundle]:  # fmt: skip
    """An operating point on the artifact that a device would take first, and the verdict on the third part."""
    engine = load(bundle, exit=-1, warmup=0)
    labels = rows.truth if changed else rows.labels
    design, held_out = (
        engine.record(rows_of(rows.inputs, part), None if labels is None else labels[part])
        for part in (rows.some("choose"), rows.some("certify"))
    )
    before = {part: (rows.answers == rows.truth)[rows.some(part)] for part in ("choose", "certify")} if changed else {}
    bounded = spec.guarantee is not None
    point = calibrate(
        design, score=spec.score, held_out=held_out, name="augmented", artifact=engine.artifact.name,
        temperatures=engine.artifact.temperatures, guarantee=spec.guarantee,
        accuracy=float(before["choose"].mean()) - spec.drop if changed and not bounded else None,
        accuracy_drop=spec.drop if not (changed or bounded) else None,  # cross-fitted, with a margin of its own
    )  # fmt: skip
    asked = point.asked if bounded else {"accuracy_drop": spec.drop}
    point = replace(point, asked=asked, data={**point.data, "rows": design.n + held_out.n})
    bundle = store_calibration(engine, held_out, engine.input_ranges(rows.inputs)).with_operating_point(point)
    verdict = judge(
        point.policy, held_out, total, _allowed(point), certified=bounded and not changed,
        time_ratios=_times(engine, untouched), untouched=before.get("certify"), measure=rows.measure,
    )  # fmt: skip
    return point, verdict, bundle


def _allowed(point: OperatingPoint) -> float | None:
    """The loss of accuracy that was asked for, as a drop or a guarantee's bound; None = that bounds something else."""
    if point.promise is None:
        return float(point.asked.get("accuracy_drop", 0.0))
    what = str(point.promise["what"]).removeprefix("accumulated_")
    return float(point.asked["alpha"]) if what in BOUND_ACCURACY else None


def on_test(augmented: Augmented, inputs: Mapping[str, NDArray[Any]], labels: NDArray[np.int64] | None) -> Tested:
    """Measure an augmented bundle once, on rows of their own; the fine-tuned one beside it, if there is one.

    Args:
        augmented: of `augment`, with a bundle.
        inputs: `(n, ...)` by the bundle's input names, or "x".
        labels: `(n,)`; None = agreement with the untouched network.

    Raises:
        DataError: the rows do not fit, or there is no bundle to measure.
    """
    if augmented.bundle is None or augmented.point is None:
        raise DataError("no bundle was written, so there is nothing to test")
    records = _recorded(augmented.bundle, augmented.point, inputs, labels)
    before = records.correct[-1]
    tested = _tested(augmented, augmented.point, records, before)
    if augmented.tuned is None or augmented.tuned.bundle is None or augmented.tuned.point is None:
        return tested
    truth = records.outputs[-1].argmax(-1) if labels is None else labels
    mine = _recorded(augmented.tuned.bundle, augmented.tuned.point, inputs, truth)
    return replace(tested, tuned=_tested(augmented, augmented.tuned.point, mine, before))


def _recorded(
    bundle: Bundle, point: OperatingPoint, inputs: Mapping[str, NDArray[Any]], labels: NDArray[np.int64] | None
) -> Records:
    engine = load(bundle, policy=point.name, warmup=0)
    specs = engine.bundle.manifest.inputs
    arrays = data_inputs(inputs, specs, "the test rows")
    pictures = {n for n in engine.preprocess if arrays[n].dtype == np.uint8}
    for s in specs:
        if s.name not in pictures:
            arrays[s.name] = arrays[s.name].astype(s.dtype, copy=False)
    return engine.record(arrays, labels)


def _tested(augmented: Augmented, point: OperatingPoint, records: Records, untouched: NDArray[np.bool_]) -> Tested:
    verdict = judge(
        point.policy, records, augmented.total_macs, _allowed(point), untouched=untouched, measure=augmented.measure
    )
    scale, full = float(records.cost[-1]) / augmented.total_macs, float(untouched.mean(dtype=np.float64))
    curve = tuple((p.cost * scale, p.accuracy) for p in pareto(records, point.policy.score or "maxprob").points)
    limit: dict[float, float | None] = {}
    for lost in HINDSIGHT:
        cost = min((c for c, accuracy in curve if accuracy >= full - lost - 1e-9), default=1.0)
        limit[lost] = cost if cost < 1 else None
    return Tested(verdict, limit, curve)


def _times(engine: Engine, source: Source) -> list[Ratio]:
    """Time to answer at each exit over the untouched model's, one thread, interleaved."""
    session = measure.session(ir.to_proto(source.model).SerializeToString())
    x = engine.example()
    named = dict(zip([i.name for i in engine.bundle.manifest.inputs], x, strict=True))
    policies = [fixed_exit(k, engine.exits, engine.artifact.score or "maxprob") for k in range(engine.exits)]
    calls: list[Callable[[], object]] = [lambda: session.run(None, named)]
    calls += [lambda p=p: engine.driver.run(x, p, None) for p in policies]  # type: ignore[misc]
    seconds = interleaved(calls, ROUNDS, lambda i, n: None)
    ratios = [spent / seconds[0] for spent in seconds[1:]]
    return [Ratio(float(np.median(r)), *(float(v) for v in np.percentile(r, (10, 90)))) for r in ratios]
