"""`edgeexit run`"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from edgeexit.bench.profile import use_profile
from edgeexit.bundle.input_range import UnusualInput
from edgeexit.cli.common import (
    about,
    bundle_argument,
    count,
    decided_by,
    json_option,
    milliseconds,
    print_json,
    run_artifact_option,
    say,
    threads_option,
)
from edgeexit.cli.pictures import check_pictures, read_picture, use_preprocess
from edgeexit.cli.stream_shown import stream_shown
from edgeexit.common.files import read_npz
from edgeexit.engine.engine import Engine
from edgeexit.engine.loading import load
from edgeexit.errors import DataError


@click.command()
@bundle_argument
@click.option("--input", "-i", "source", type=click.Path(path_type=Path), help="Input file: .npy, .npz or a picture.")
@click.option(
    "--example", type=click.IntRange(0), help="Example input of the bundle, counted from 0, instead of --input."
)
@click.option("--row", type=click.IntRange(0), help="Row to use of a file with many inputs.")
@click.option(
    "--policy", metavar="NAME", help="Operating point by name. [default: the bundle's default, else the first]"
)
@click.option("--exit", "exit_index", type=click.IntRange(0), help="Answer always at this exit, counted from 0.")
@click.option("--budget", help="Mean cost to solve thresholds for: 0.3 (of the last exit's), 4MMACs, 2.5ms.")
@click.option(
    "--profile", type=click.Path(path_type=Path), help="Stage times for deadlines, from `edgeexit bench --save`."
)
@click.option("--deadline-ms", type=float, help="Time limit for one input, in milliseconds.")
@click.option(
    "--preprocess",
    metavar="FIELDS",
    help="Picture preprocessing; see `export --preprocess`. [default: as declared]",
)
@click.option("--scale", type=float, help="Factor on pixel values 0..255. [default: as declared, else 1]")
@run_artifact_option
@threads_option
@json_option
def run(
    bundle: Path,
    source: Path | None,
    example: int | None,
    row: int | None,
    policy: str | None,
    exit_index: int | None,
    budget: str | None,
    profile: Path | None,
    deadline_ms: float | None,
    preprocess: str | None,
    scale: float | None,
    artifact: str | None,
    threads: int,
    as_json: bool,
) -> None:
    """Run one input; print the answer, the exit used and the reason.

    BUNDLE is a folder, a .zip, or the name of the bundle inside the package: digits.

    \b
    Examples:
      edgeexit run digits --example 2
      edgeexit run my.edgeexit --input x.npy
      edgeexit run resnet8.edgeexit --input frog.jpg --policy balanced --deadline-ms 5
      edgeexit run old.edgeexit --input frog.png --preprocess size=32,scale=1/255
      edgeexit run resnet8.edgeexit --input frog.png --budget 0.4
      edgeexit run streaming.edgeexit --input chunks.npy

    Pictures are read as the bundle declares (`edgeexit export --preprocess`, `edgeexit inspect` shows it). An input far
    outside the range of the calibration rows raises a warning.

    The rows of a file for a network with memory follow one another in one stream; stages that a row skipped catch up
    before they are next used.
    """
    if (source is None) == (example is None):
        raise DataError("run takes either --input FILE or --example NUMBER")
    engine, used = open_engine(bundle, artifact, policy, exit_index, budget, threads)
    if profile is not None:
        use_profile(engine, profile)
    following = bool(engine.bundle.manifest.states) and row is None and example is None
    use_preprocess(engine, preprocess, scale)
    if source is None:
        source, x = bundle, _example(engine, example or 0)
    else:
        x = _read(source, row, engine, many=following)
    late = None if deadline_ms is None else deadline_ms / 1000
    if following and engine.layout.stepwise:
        with about(source):
            stream_shown(engine, x, late, used, as_json)
        return
    with about(source), warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusualInput)  # said below
        decision = engine.run(x, deadline_s=late)
    if decision.unusual is not None:
        say(f"warning: {source}: {decision.unusual}")
    labels = engine.bundle.manifest.labels
    name = decision.name if isinstance(decision.name, str) else None
    prediction_set = decision.prediction_set
    if as_json:
        print_json(
            {
                "exit": decision.exit,
                "label": decision.label,
                "name": name,
                "score": decision.score,
                "reason": decision.reason,
                "seconds": decision.seconds,
                "macs": decision.macs,
                "late": decision.late,
                "prediction_set": None if prediction_set is None else np.flatnonzero(prediction_set),
                "uncertainty": decision.uncertainty,
                "accepted": decision.accepted,
                "unusual": decision.unusual,
                "output": decision.output,
                **decided_by(engine, used),
            }
        )
        return
    answer = f"{decision.label}" + (f" ({name})" if name and name != str(decision.label) else "")
    if np.ndim(decision.label):
        answer = f"{np.shape(decision.label)} classes: {' '.join(map(str, np.ravel(decision.label)[:16]))}"
    click.echo(
        f"{answer}  exit {decision.exit} of 0..{engine.exits - 1} ({decision.reason}), score {decision.score:.4f}, "
        f"{milliseconds(decision.seconds)}, {count(decision.macs)} MACs" + (", LATE" if decision.late else "")
    )
    if decision.uncertainty is not None:
        click.echo(f"uncertainty {decision.uncertainty:.4f}: how far the exit's heads are apart")
    if decision.accepted is not None:
        click.echo(
            "accepted" if decision.accepted else "NOT accepted: too unsure for the target, abstain or ask elsewhere"
        )
    if prediction_set is not None and engine.sets is not None:
        shown = ", ".join(
            str(labels[i]) if labels is not None and i < len(labels) else str(i) for i in np.flatnonzero(prediction_set)
        )
        click.echo(f"set at {1 - engine.sets.alpha:g}: {{{shown}}}")
    click.echo(f"{engine.artifact.name}, {used}")


def open_engine(
    bundle: Path, artifact: str | None, policy: str | None, exit_index: int | None, budget: str | None, threads: int,
    warmup: int = 3,
) -> tuple[Engine, str]:  # fmt: skip
    """An engine and, in words, what decides: what was asked for, or else the bundle's default; see `load`."""
    if sum(o is not None for o in (policy, exit_index, budget)) > 1:
        raise DataError("--policy, --exit and --budget exclude each other")
    if budget is not None:
        from edgeexit.calibrate.on_device import solve_budget

        engine = load(bundle, artifact=artifact, exit=-1, threads=threads, warmup=warmup)
        engine.policy = solve_budget(engine, budget)
        return engine, f"thresholds solved for a budget of {budget}"
    engine = load(bundle, artifact=artifact, policy=policy, exit=exit_index, threads=threads, warmup=warmup)
    return engine, engine.policy_source


def _example(engine: Engine, number: int) -> dict[str, NDArray[Any]]:
    inputs = engine.examples()
    if number >= len(inputs):
        raise DataError(f"{engine.bundle.path}: no example {number}, it ships 0 to {len(inputs) - 1}")
    return inputs[number]


def _read(path: Path, row: int | None, engine: Engine, many: bool = False) -> Any:
    specs = engine.bundle.manifest.inputs
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix == ".npz":
        arrays = read_npz(path)
        if len(specs) == 1 and len(arrays) == 1:
            arrays = {specs[0].name: next(iter(arrays.values()))}
        found = {
            s.name: arrays[s.name if s.name in arrays else "x"]
            for s in specs
            if s.name in arrays or (len(specs) == 1 and "x" in arrays)
        }
        if len(found) != len(specs):
            raise DataError(f"{path}: needs {', '.join(s.name for s in specs)}; it holds {', '.join(arrays)}")
    elif len(specs) != 1:
        raise DataError(
            f"{path}: the model has {len(specs)} inputs ({', '.join(s.name for s in specs)}); pass an .npz with all"
        )
    elif path.suffix == ".npy":
        found = {specs[0].name: _read_npy(path)}
    else:
        found = {specs[0].name: read_picture(path, engine)}
    for s in specs:
        if row is not None:
            array = found[s.name]
            declared = engine.preprocess.get(s.name) if array.dtype == np.uint8 else None
            axes = {len(s.shape)} if declared is None else {4, 3 if declared.channels == 1 else 4}
            if array.ndim not in axes or (array.ndim == 3 and array.shape[2] in (1, 3, 4)) or row >= len(array):
                raise DataError(f"{path}: no row {row} in {s.name!r} of shape {array.shape}")
            found[s.name] = array[row : row + 1]
        array = found[s.name]
        if s.name in engine.preprocess and array.dtype == np.uint8:
            if not many:
                check_pictures(path, array, s, replace(engine.bundle.manifest, preprocess=engine.preprocess), one=True)
            continue  # which the engine reads as declared
        if array.ndim == len(s.shape) and len(array) > 1 and not many:
            raise DataError(f"{path}: {s.name!r} holds {len(array)} rows; --row picks one, e.g. --row 0")
        if array.dtype != s.dtype and np.can_cast(array.dtype, s.dtype, "same_kind"):
            found[s.name] = array.astype(s.dtype)
    return found


def _read_npy(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as e:  # numpy's header parser raises a dozen kinds
        what = "text, or objects that need pickle" if "allow_pickle" in str(e) else str(e)
        raise DataError(f"{path}: not a plain .npy array of numbers: {what}; write it with np.save") from e
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{path}: holds an archive, not one array; name it .npz")
    return array
