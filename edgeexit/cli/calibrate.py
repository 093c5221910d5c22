"""Command `edgeexit calibrate`: an operating point from a bundle and data, or from recorded outputs."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from edgeexit.bundle.bundle import Bundle
from edgeexit.calibrate import calibrate as calibrate_records
from edgeexit.calibrate.cautions import cautions
from edgeexit.calibrate.on_bundle import calibrate_artifact, calibrate_rows
from edgeexit.calibrate.spec import CalibrationSpec, Split
from edgeexit.calibrate.temperature import fit_useful_temperatures
from edgeexit.cli.calibration_options import CalibrationCommand, calibration_options, split_options
from edgeexit.cli.calibration_shown import calibration_text
from edgeexit.cli.common import (
    about,
    artifact_option,
    check_source,
    data_note,
    json_option,
    print_json,
    read_data,
    say,
    source_options,
    steps,
    threads_option,
)
from edgeexit.cli.speech import error_option, is_speech, record_sound
from edgeexit.common.files import write_atomic
from edgeexit.engine.engine import Engine
from edgeexit.engine.loading import load
from edgeexit.errors import BackendMissing, DataError
from edgeexit.policy.operating_point import OperatingPoint
from edgeexit.records.classification import Records, class_outputs
from edgeexit.records.transcripts import load_rows


@click.command(cls=CalibrationCommand)
@source_options
@calibration_options
@click.option("--temperature", is_flag=True, help="First fit a temperature per exit on the design rows and store it.")
@split_options()
@click.option("--name", help="Name of the operating point. [default: made of the target]")
@click.option("--default/--no-default", default=None, help="Make it the bundle's default. [default: only the first]")
@click.option(
    "--out", type=click.Path(path_type=Path), help="With --records: file to write the operating point to (JSON)."
)
@error_option
@artifact_option
@threads_option
@json_option
def calibrate(
    bundle: Path | None,
    data: Path | None,
    records: Path | None,
    spec: CalibrationSpec,
    temperature: bool,
    split: Split,
    name: str | None,
    default: bool | None,
    out: Path | None,
    error: str,
    artifact: str | None,
    threads: int,
    as_json: bool,
) -> None:
    """Choose thresholds for a budget or an accuracy, on the artifact that ships.

    Thresholds are chosen on one part of the rows, by cross-fitting and with one standard error of margin; what to
    expect of them is measured on the other part, with 95 % intervals and the last exit beside it. Each part needs 20
    rows; a drop of 1 point takes some 400 in all to be worth asking for. The operating point is stored in the bundle,
    and runs on the artifact it was made on only.

    --guarantee certifies on the other part: with confidence C over its rows, the loss on data like them is at most
    A. Losses: disagreement (with the last exit; needs no labels), accuracy_gap (wrong where the last exit
    is right), brier_gap, and of speech wer_gap or cer_gap (edits beyond the last exit's per word or character);
    accumulated_ before the first two bounds them at every exit. Too few rows are refused with the number needed.

    For speech, accuracy is 1 less the error rate: --accuracy-drop 0.005 allows half a point more of it.

    \b
    Examples:
      edgeexit calibrate digits.edgeexit --data val.npz --accuracy-drop 0.01
      edgeexit calibrate digits.edgeexit --data val.npz --budget 0.5 --artifact chain --score margin
      edgeexit calibrate digits.edgeexit --data val.npz --policy eero --budget 0.2ms
      edgeexit calibrate digits.edgeexit --data val.npz --guarantee "accuracy_gap<=0.02@0.95"
      edgeexit calibrate speech.edgeexit --data dev.npz --guarantee "wer_gap<=0.02@0.95"
      edgeexit calibrate --records recorded.npz --policy window --selective cov@0.02
      edgeexit calibrate qute.edgeexit --data val.npz --policy qute --selective risk@0.8
      edgeexit calibrate --records recorded.npz --budget 0.3 --json
    """
    check_source("calibrate", bundle, data, records)
    if out is not None and records is None:
        raise DataError("--out goes with --records; with a bundle the operating point is stored in the bundle")
    if default is not None and records is not None:
        raise DataError("--default goes with a bundle; with --records nothing is stored in one")
    spec = replace(spec, name=name)
    if records is not None:
        point = _on_records(records, spec, split, temperature)
        if out is not None:
            write_atomic(out, json.dumps(point.to_dict(), indent=1) + "\n")
    else:
        assert bundle is not None and data is not None
        engine = load(bundle, artifact=artifact, exit=-1, threads=threads)
        spec = _on_artifact(spec, engine)
        original = engine.bundle
        if is_speech(engine, data):
            if temperature:
                raise DataError("--temperature is fitted to true classes, and speech has texts")
            rows = record_sound(engine, data, error).rows
            changed, point = calibrate_rows(engine, rows, spec, data=data_note(data), split=split, default=default)
        else:
            changed, point = _on_arrays(engine, data, spec, split, temperature, default, threads)
        _say_replaced(original, changed, point)
        followed = _followed(changed, point)
    warnings = cautions(point)
    for sentence in warnings:
        say(f"WARNING: {sentence}")
    if as_json:
        if bundle is not None:
            say(followed)
        print_json({**point.to_dict(), "warnings": warnings})
    else:
        click.echo(calibration_text(point))
        if bundle is not None:
            click.echo(f"stored in {bundle} as {point.name!r}: edgeexit run {bundle} --policy {point.name} --input ...")
            click.echo(followed)


def _on_records(records: Path, spec: CalibrationSpec, split: Split, temperature: bool) -> OperatingPoint:
    """Calibrate on recorded outputs."""
    chosen_on, held_out = split.of(load_rows(records))
    temperatures = _useful(class_outputs(chosen_on, "temperatures")) if temperature else None
    own = None if spec.policy is None else spec.family.own_score
    if spec.score is None and own in chosen_on.score_names:
        spec = replace(spec, score=own)
    return calibrate_records(chosen_on, spec, held_out=held_out, temperatures=temperatures)


def _on_artifact(spec: CalibrationSpec, engine: Engine) -> CalibrationSpec:
    """The spec with the artifact's score. Refuses, before minutes of recording, a policy that it could not run."""
    score = spec.score or engine.artifact.score
    if score is None and spec.family.pick_score is None:
        score = engine.default_score
    engine.driver.fits(spec.family.example(engine.exits, score or engine.default_score))
    return replace(spec, score=score)


def _on_arrays(
    engine: Engine,
    data: Path,
    spec: CalibrationSpec,
    split: Split,
    temperature: bool,
    default: bool | None,
    threads: int,
) -> tuple[Bundle, OperatingPoint]:
    """Record a file of arrays, with temperatures first where they are asked for, and calibrate on that."""
    original = engine.bundle
    inputs, labels = read_data(data, original.manifest)
    with about(data), contextlib.ExitStack() as stack:
        if temperature:
            copy = stack.enter_context(tempfile.TemporaryDirectory(prefix="edgeexit-"))
            engine = _with_temperatures(engine, inputs, labels, split, threads, Path(copy))
            left, before = engine.bundle.manifest.policies, original.manifest
            if (before.default_policy or next(iter(before.policies), None)) not in left and default is None:
                default = True  # in place of the one that goes with the temperatures
        with steps("recording") as tell:
            changed, point = calibrate_artifact(
                engine, inputs, labels, spec, data=data_note(data), split=split, default=default, progress=tell
            )
        return (changed if changed.path == original.path else original.become(changed)), point


def _say_replaced(before: Bundle, after: Bundle, point: OperatingPoint) -> None:
    """Say which operating points are not there any more."""
    if gone := sorted(set(before.manifest.policies) - set(after.manifest.policies)):
        gone = [f"{n} (the default)" if n == before.manifest.default_policy else n for n in gone]
        say(f"dropped with the temperatures they were calibrated under: {', '.join(gone)}")
    if point.name in before.manifest.policies:
        of = before.operating_point(point.name).artifact or "recorded outputs"
        say(f"operating point {point.name!r} was there before (of {of}) and is replaced; --name keeps both")


def _followed(bundle: Bundle, point: OperatingPoint) -> str:
    """Which operating point is followed where none is named, in one line."""
    default = bundle.manifest.default_policy
    if default == point.name:
        return f"{point.name!r} is the bundle's default: followed where no --policy is named"
    if default is None:
        first = next(iter(bundle.manifest.policies))
        return f"the bundle names no default, so that its first operating point, {first!r}, is it; --default names one"
    return f"the bundle's default stays {default!r}; --default makes it {point.name!r}"


def _with_temperatures(
    engine: Engine, inputs: dict[str, Any], labels: Any, split: Split, threads: int, folder: Path
) -> Engine:
    """The artifact with fitted temperatures, in a copy of its bundle: what fails later leaves the bundle as it was."""
    if labels is None:
        raise DataError("--temperature needs labels: the data file has no y")
    try:
        from edgeexit_exporters.temperatures import apply_temperatures
    except ImportError as e:
        raise BackendMissing(f"--temperature rewrites model files ({e}): pip install 'edgeexit[onnx-export]'") from e
    with steps("recording for temperatures") as tell:
        # From the raw outputs: what an artifact was given before must not count twice.
        records = engine.record(inputs, labels, progress=tell)
    chosen_on, _ = split.of(records)
    temperatures = _useful(chosen_on)
    if temperatures == engine.artifact.temperatures:
        return engine
    copy = shutil.copytree(engine.bundle.path, folder / engine.bundle.path.name)
    bundle = apply_temperatures(Bundle.open(copy), engine.artifact.name, temperatures)
    return load(bundle, artifact=engine.artifact.name, exit=-1, threads=threads)


def _useful(design: Records) -> tuple[float, ...]:
    """A temperature per exit, 1 where it gains nothing; says which."""
    fitted = fit_useful_temperatures(design)
    for k, t in enumerate(fitted):
        gain = f"NLL {t.nll_before:.4f} -> {t.nll_after:.4f}"
        say(
            f"exit {k}: temperature {t.value:.3f}, {gain}"
            if t.skipped is None
            else f"exit {k}: no temperature, {t.skipped}"
        )
    return tuple(t.value for t in fitted)
