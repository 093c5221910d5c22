"""Calibration of an artifact in a bundle: record its outputs, choose on one part of the rows, measure on the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.bundle import Bundle, Change
from edgeexit.bundle.files import calibration_arrays, describe
from edgeexit.bundle.input_range import InputRange
from edgeexit.bundle.merging import check_unchanged
from edgeexit.calibrate.choose import calibrate
from edgeexit.calibrate.on_device import exit_seconds
from edgeexit.calibrate.spec import HALVES, CalibrationKeywords, CalibrationSpec, Split
from edgeexit.common.files import npz_bytes
from edgeexit.engine.engine import Engine
from edgeexit.policy.operating_point import OperatingPoint
from edgeexit.records.base import Rows

if TYPE_CHECKING:
    from typing_extensions import Unpack


def calibrate_artifact(
    engine: Engine,
    inputs: Mapping[str, NDArray[Any]],
    labels: NDArray[Any] | None,
    spec: CalibrationSpec | None = None,
    *,
    data: Mapping[str, Any],
    split: Split = HALVES,
    default: bool | None = None,
    progress: Callable[[int, int], None] = lambda i, n: None,
    **keywords: Unpack[CalibrationKeywords],
) -> tuple[Bundle, OperatingPoint]:
    """Calibrate on the artifact that ships and store the operating point in its bundle.

    Args:
        engine: the loaded artifact.
        inputs: arrays `(n, ...)` by input name.
        labels: `(n,)` true classes; None = agreement with the last exit is what is measured.
        spec: target, policy family, prediction sets and name; None = made of the keywords. A budget may be in seconds
            of this device.
        data: where the rows came from (file name, sha256); stored with the operating point.
        split: into design and held-out rows.
        default: whether it becomes the bundle's default; None = see `Bundle.with_operating_point`.
        progress: called with rows recorded and rows in all.
        keywords: as of `calibrate`, such as `accuracy_drop`.

    Raises:
        Infeasible, PolicyError, DataError: see `calibrate`.
    """
    return calibrate_rows(
        engine,
        engine.record(dict(inputs), labels, progress=progress),
        spec,
        data=data,
        split=split,
        default=default,
        ranges=engine.input_ranges(dict(inputs)),
        **keywords,
    )


def calibrate_rows(
    engine: Engine,
    recorded: Rows,
    spec: CalibrationSpec | None = None,
    *,
    data: Mapping[str, Any],
    split: Split = HALVES,
    default: bool | None = None,
    ranges: Mapping[str, InputRange] | None = None,
    **keywords: Unpack[CalibrationKeywords],
) -> tuple[Bundle, OperatingPoint]:
    """As `calibrate_artifact`, on rows that were recorded on this artifact.

    Args:
        spec, data, split, default, keywords: see `calibrate_artifact`.
        ranges: of the rows' inputs, stored too; None = the bundle keeps those it has.

    Raises:
        Infeasible, PolicyError, DataError: see `calibrate`.
    """
    asked = CalibrationSpec.of(spec, **keywords)
    budget = asked.target.budget
    records, asked = asked.on(recorded, exit_seconds(engine))
    chosen_on, held_out = split.of(records)
    point = calibrate(
        chosen_on,
        asked,
        held_out=held_out,
        artifact=engine.artifact.name,
        temperatures=engine.artifact.temperatures,
    )
    point = replace(
        point,
        data={
            **data,
            "rows": records.n,
            "design_rows": chosen_on.n,
            "held_out_rows": held_out.n,
            "seed": split.seed,
            **({} if budget is None else {"budget": str(budget)}),
        },
    )
    return store_calibration(engine, recorded, ranges).with_operating_point(point, default=default), point


def store_calibration(engine: Engine, records: Rows, ranges: Mapping[str, InputRange] | None = None) -> Bundle:
    """Keep the scores in the bundle, so that a device can solve for another budget later; no raw inputs.

    Rows without labels do not replace rows with them. The inputs' `ranges` replace those of earlier rows.

    Raises:
        BundleError: see `Bundle.update`; or another process changed the artifact since it was loaded.
    """
    name = engine.artifact.name
    raw = npz_bytes(
        **calibration_arrays(
            records.scores(engine.artifact.score or records.default_score),
            records.agreement.astype(np.float32),
            None if not records.labelled else records.correct,
        )
    )
    spec = describe(f"calibration/{name}.npz", raw)

    def change(now: Bundle) -> Change:
        check_unchanged(engine.bundle.manifest, now.manifest, name, now.path)
        manifest = replace(now.manifest, ranges={**now.manifest.ranges, **(ranges or {})})
        there = manifest.artifact(name).calibration
        if not records.labelled and there and "correct" in now.arrays(there):
            return {}, manifest
        artifacts = tuple(replace(a, calibration=spec) if a.name == name else a for a in manifest.artifacts)
        return {spec.path: raw}, replace(manifest, artifacts=artifacts)

    return engine.bundle.update(change)
