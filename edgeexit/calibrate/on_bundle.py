"""Calibrating an artifact of a bundle: record its outputs, choose on one part of the rows, measure on the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.bundle import Bundle, Change
from edgeexit.bundle.files import calibration_arrays, describe
from edgeexit.bundle.input_range import InputRange
from edgeexit.bundle.merging import check_unchanged
from edgeexit.calibrate.budget import Budget
from edgeexit.calibrate.choose import calibrate
from edgeexit.calibrate.on_device import exit_seconds
from edgeexit.common.files import npz_bytes
from edgeexit.engine.engine import Engine
from edgeexit.policy.operating_point import OperatingPoint
from edgeexit.records.base import Rows


def calibrate_artifact(
    engine: Engine,
    inputs: Mapping[str, NDArray[Any]],
    labels: NDArray[Any] | None,
    *,
    data: Mapping[str, Any],
    design: float = 0.5,
    seed: int = 0,
    budget: Budget | None = None,
    default: bool | None = None,
    progress: Callable[[int, int], None] = lambda i, n: None,
    **wish: Any,
) -> tuple[Bundle, OperatingPoint]:
    """Calibrate on the artifact that ships and store the operating point in its bundle.

    Args:
        engine: the loaded artifact.
        inputs: arrays `(n, ...)` by input name.
        labels: `(n,)` true classes; None = agreement with the last exit is what is measured.
        data: where the rows came from (file name, sha256); stored with the operating point.
        design: share of the rows that thresholds are chosen on; the others measure what to expect.
        seed: of the split.
        budget: mean cost allowed, in any of its units.
        default: whether it becomes the bundle's default; None = see `Bundle.with_operating_point`.
        progress: called with rows recorded and rows in all.
        wish: policy, score, accuracy or accuracy_drop or guarantee, name; see `calibrate`.

    Raises:
        Infeasible, PolicyError, DataError: see `calibrate`.
    """
    return calibrate_rows(
        engine, engine.record(dict(inputs), labels, progress=progress), data=data, design=design, seed=seed,
        budget=budget, default=default, ranges=engine.input_ranges(dict(inputs)), **wish,
    )  # fmt: skip


def calibrate_rows(
    engine: Engine,
    recorded: Rows,
    *,
    data: Mapping[str, Any],
    design: float = 0.5,
    seed: int = 0,
    budget: Budget | None = None,
    default: bool | None = None,
    ranges: Mapping[str, InputRange] | None = None,
    **wish: Any,
) -> tuple[Bundle, OperatingPoint]:
    """As `calibrate_artifact`, on rows that were recorded on this artifact.

    Args:
        default: see `calibrate_artifact`.
        ranges: of the rows' inputs, stored too; None = the bundle keeps those it has.

    Raises:
        Infeasible, PolicyError, DataError: see `calibrate`.
    """
    records = recorded
    if budget is not None:
        records, wish["budget"] = budget.on(records, exit_seconds(engine))
    chosen_on, held_out = records.split(design, seed)
    point = calibrate(
        chosen_on,
        held_out=held_out,
        artifact=engine.artifact.name,
        temperatures=engine.artifact.temperatures,
        **wish,
    )
    point = replace(
        point,
        data={
            **data,
            "rows": records.n,
            "design_rows": chosen_on.n,
            "held_out_rows": held_out.n,
            "seed": seed,
            **({} if budget is None else {"budget": f"{budget.value:g} {budget.unit}"}),
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
