"""Calibration of what ships: accuracy, thresholds and exit rates of every precision, on its own artifact.

A threshold is a number on the scale of one artifact's scores. Quantizing moves scores, so thresholds that were chosen
in float leave at other rates; each precision gets its own, and both are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.layouts import LAYOUTS, layout_order
from edgeexit.bundle.manifest import Artifact
from edgeexit.calibrate.choose import calibrate
from edgeexit.calibrate.on_bundle import store_calibration
from edgeexit.engine.loading import load
from edgeexit.errors import DataError, ExportMismatch, Infeasible
from edgeexit.policy.operating_point import OperatingPoint
from edgeexit.policy.policies import Policy
from edgeexit.records.classification import Records, outcome, replay
from edgeexit_exporters.int8.sensitivity import LayerSensitivity
from edgeexit_exporters.spec import LEAST_ROWS

Arrays = Mapping[str, NDArray[Any]]
MOST_RANGES = 512
"""Rows that ranges are read from; more change nothing that can be measured."""
MOST_ROWS = 2_000
"""Of each of the two parts that go through the finished artifacts, input by input."""


@dataclass(frozen=True)
class RowParts:
    """Rows for three purposes that must not share any."""

    ranges: NDArray[np.int64]
    design: NDArray[np.int64]
    held_out: NDArray[np.int64]


@dataclass(frozen=True)
class FormExit:
    """One exit in one precision, on the rows that nothing was chosen on."""

    name: str
    accuracy: float | None
    """None = no labels."""
    agreement: float
    """Share of rows with the same class as the float exit."""
    error: float
    """Root mean square of the difference to the float exit's answers, over that of those."""
    bytes: int | None
    """Of a file that answers at this exit alone; None = layout prefix was not made."""
    macs: int | None


@dataclass(frozen=True)
class RefitOutcome:
    """A policy on the held-out rows."""

    rates: tuple[float, ...]
    cost: float
    """As a fraction of the last exit's."""
    right: float
    """Accuracy; or agreement with the last exit."""


@dataclass(frozen=True)
class Form:
    """One format in one precision."""

    artifact: str
    """That was measured, and that the operating point is for."""
    format: str
    precision: str
    bytes: int
    exits: tuple[FormExit, ...]
    before: RefitOutcome | None
    """The float network's thresholds on this artifact; None = they do not fit its score."""
    after: RefitOutcome | None
    """Its own thresholds; None = none keeps the allowed drop."""
    point: str | None
    """Name of the operating point that was stored."""


@dataclass(frozen=True)
class Refit:
    """What quantizing did, and what was done about it."""

    drop: float
    """Allowed below the last exit, for the operating points."""
    design: int
    held_out: int
    measure: str
    """accuracy, or agreement with the last exit."""
    forms: tuple[Form, ...]
    """The float one first."""
    layers: tuple[LayerSensitivity, ...] = ()
    """Of ONNX int8, the worst first; empty where it was not asked for."""


def divide_rows(n: int, seed: int = 0) -> RowParts:
    """Divide rows at random: a quarter for ranges, the others half for choosing and half for measuring.

    Raises:
        DataError: too few.
    """
    most = min(max(n // 4, LEAST_ROWS), MOST_RANGES)
    if n - most < 2 * LEAST_ROWS:
        raise DataError(
            f"{n} rows of data: {LEAST_ROWS} are needed to read ranges from, {LEAST_ROWS} to choose thresholds on and "
            f"{LEAST_ROWS} to measure on, {3 * LEAST_ROWS} in all; 1,000 and more are good"
        )
    order = np.random.default_rng(seed).permutation(n)
    half = most + (n - most) // 2
    cuts = order[:most], order[most:half][:MOST_ROWS], order[half:][:MOST_ROWS]
    return RowParts(*(np.sort(c) for c in cuts))


def refit(
    bundle: Bundle,
    rows: Arrays,
    labels: NDArray[np.int64] | None,
    parts: RowParts,
    reference: Callable[[Arrays], tuple[list[NDArray[Any]], list[NDArray[Any]] | None]],
    *,
    score: str = "maxprob",
    drop: float = 0.01,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[Bundle, Refit]:
    """Measure every format and precision of a bundle, choose thresholds for each, and store them.

    Args:
        bundle: as exported.
        rows: inputs `(n, ...)` by name.
        labels: `(n,)`; None = agreement takes the place of accuracy.
        parts: which rows are for what.
        reference: inputs -> every exit's answers in float, and their lengths; see `formats.float_answers`.
        score: what thresholds compare.
        drop: accuracy that the operating points may lose against the last exit, in [0, 1).
        progress: called with each step's name.

    Returns:
        The bundle with calibration scores and operating points, one per format and precision, called as
        ``onnx-int8``; and the report.
    """
    progress("measuring the float network")
    exact = _records(bundle, reference, rows, labels, parts)
    in_float = _chosen(*exact, score, drop) if score in exact[0].score_names else None
    forms = []
    for artifact in _first_of_each(bundle):
        progress(f"measuring {artifact.name}")
        engine = load(bundle, artifact=artifact.name, exit=-1, warmup=0)
        design, held_out = (
            engine.record({n: a[p] for n, a in rows.items()}, None if labels is None else labels[p])
            for p in (parts.design, parts.held_out)
        )
        point = None
        if LAYOUTS[artifact.layout].stops_early:
            bundle = store_calibration(engine, held_out)
            name = f"{artifact.format}-{artifact.precision}"
            point = _chosen(design, held_out, score, drop, name, artifact)
            if point is not None:
                bundle = bundle.with_operating_point(point)
        forms.append(
            Form(
                artifact.name, artifact.format, artifact.precision, artifact.bytes,
                _exits(bundle, artifact, held_out, exact[1]),
                None if in_float is None else _outcome(in_float.policy, held_out),
                None if point is None else _outcome(point.policy, held_out),
                None if point is None else point.name,
            )
        )  # fmt: skip
    return bundle, Refit(drop, exact[0].n, exact[1].n, exact[0].measure, tuple(forms))


def refuse_drop(report: Refit, most: float) -> None:
    """Refuse artifacts whose exits lost too much.

    Args:
        report: of `refit`.
        most: accuracy that an exit may lose against the float one (or share of answers that may differ, without
            labels), as a fraction.

    Raises:
        ExportMismatch: one lost more.
    """
    exact = next((f for f in report.forms if f.precision == "fp32"), None)
    for form in report.forms:
        for k, e in enumerate(form.exits):
            lost, what = 1 - e.agreement, "answers otherwise on"
            if e.accuracy is not None and exact is not None and exact.exits[k].accuracy is not None:
                lost, what = (exact.exits[k].accuracy or 0.0) - e.accuracy, "loses"
            if form.precision != "fp32" and lost > most:
                raise ExportMismatch(
                    f"{form.artifact}: exit {e.name!r} {what} {100 * lost:.2f} points on {report.held_out} rows, "
                    f"{100 * most:g} allowed (--max-drop); no bundle was written. More or other calibration rows, "
                    "another --ranges, or int16x8 may keep it"
                )


def _first_of_each(bundle: Bundle) -> list[Artifact]:
    """Per format and precision the artifact that a device takes first, float ones before others."""
    first: dict[tuple[str, str], Artifact] = {}
    for a in sorted(bundle.manifest.artifacts, key=lambda a: (a.precision != "fp32", layout_order(a.layout))):
        first.setdefault((a.format, a.precision), a)
    return list(first.values())


def _records(
    bundle: Bundle, reference: Callable[[Arrays], tuple[list[NDArray[Any]], list[NDArray[Any]] | None]],
    rows: Arrays, labels: NDArray[np.int64] | None, parts: RowParts,
) -> tuple[Records, Records]:  # fmt: skip
    exits = bundle.manifest.exits
    known = [e.macs for e in exits]
    cost = np.array(known if None not in known else range(1, len(exits) + 1), np.float64)
    kind = "probs" if any(e.kind == "probs" for e in exits) else "logits"
    records = []
    for part in (parts.design, parts.held_out):
        outputs, lengths = reference({n: a[part] for n, a in rows.items()})
        records.append(
            Records(
                np.stack(outputs), cost, None if labels is None else labels[part], kind,  # type: ignore[arg-type]
                lengths=None if lengths is None else np.stack(lengths),
            )
        )  # fmt: skip
    return records[0], records[1]


def _chosen(
    design: Records, held_out: Records, score: str, drop: float, name: str = "float", artifact: Artifact | None = None
) -> OperatingPoint | None:
    """None = nothing keeps the drop."""
    try:
        return calibrate(
            design, accuracy_drop=drop, score=score, held_out=held_out, name=name,
            artifact=None if artifact is None else artifact.name,
            temperatures=None if artifact is None else artifact.temperatures,
        )  # fmt: skip
    except Infeasible:
        return None


def _outcome(policy: Policy, rows: Records) -> RefitOutcome:
    result = outcome(replay(policy, rows), rows)
    return RefitOutcome(tuple(result.exit_rates), float(result.cost), float(result.accuracy))


def _exits(bundle: Bundle, artifact: Artifact, rows: Records, exact: Records) -> tuple[FormExit, ...]:
    alone = next(
        (
            a
            for a in bundle.manifest.artifacts
            if (a.format, a.precision) == (artifact.format, artifact.precision) and LAYOUTS[a.layout].self_contained
        ),
        None,
    )
    errors = [_error(exact.valid(k, a), exact.valid(k, exact.outputs[k])) for k, a in enumerate(rows.outputs)]
    same = (rows.predictions == exact.predictions).astype(np.float64)
    agree = [exact.per_input(k, s).mean() for k, s in enumerate(same)]
    right = None if rows.labels is None else rows.correct.mean(1, dtype=np.float64)
    return tuple(
        FormExit(
            e.name,
            None if right is None else float(right[k]),
            float(agree[k]),
            errors[k],
            None if alone is None else alone.models[k].bytes,
            e.macs,
        )
        for k, e in enumerate(bundle.manifest.exits)
    )


def _error(values: NDArray[Any], exact: NDArray[Any]) -> float:
    difference = np.square(values.astype(np.float64) - exact).mean()
    return float(np.sqrt(difference / max(np.square(exact.astype(np.float64)).mean(), np.finfo(np.float64).tiny)))
