"""`edgeexit run`"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from edgeexit.cli.common import (
    about,
    bundle_argument,
    count,
    decided_by,
    json_option,
    milliseconds,
    print_json,
    run_artifact_option,
    threads_option,
)
from edgeexit.cli.stream_shown import stream_shown
from edgeexit.engine import Engine
from edgeexit.errors import BackendMissing, DataError
from edgeexit.files import read_npz
from edgeexit.loading import load
from edgeexit.manifest import TensorSpec
from edgeexit.profile import use_profile


@click.command()
@bundle_argument
@click.option("--input", "-i", "source", type=click.Path(path_type=Path), required=True, help=".npy, .npz or .png")
@click.option("--row", type=click.IntRange(0), help="Row of a file that holds many inputs.")
@click.option("--policy", metavar="NAME", help="Operating point. [default: the bundle's default, else the first]")
@click.option("--exit", "exit_index", type=click.IntRange(0), help="Answer at this exit, whatever the score.")
@click.option("--budget", help="Thresholds solved now for this mean cost: 0.3 of the last exit's, 4MMACs, 2.5ms.")
@click.option("--profile", type=click.Path(path_type=Path), help="Stage times from `edgeexit bench --save`.")
@click.option("--deadline-ms", type=float, help="Milliseconds one input may take.")
@click.option(
    "--scale", type=float, default=1.0, show_default=True, help="Factor on a picture's pixel values (0..255)."
)
@run_artifact_option
@threads_option
@json_option
def run(
    bundle: Path,
    source: Path,
    row: int | None,
    policy: str | None,
    exit_index: int | None,
    budget: str | None,
    profile: Path | None,
    deadline_ms: float | None,
    scale: float,
    artifact: str | None,
    threads: int,
    as_json: bool,
) -> None:
    """Answer one input and say which exit did, and why.

    \b
    Examples:
      edgeexit run digits.edgeexit --input x.npy
      edgeexit run resnet8.edgeexit --input frog.png --policy balanced --deadline-ms 5
      edgeexit run resnet8.edgeexit --input frog.png --budget 0.4
      edgeexit run streaming.edgeexit --input chunks.npy

    The rows of a file for a network with memory follow one another in one stream; stages that a row skipped catch up
    before they are next used.
    """
    engine, used = open_engine(bundle, artifact, policy, exit_index, budget, threads)
    if profile is not None:
        use_profile(engine, profile)
    following = bool(engine.bundle.manifest.states) and row is None
    x = _read(source, row, engine, scale, many=following)
    late = None if deadline_ms is None else deadline_ms / 1000
    if following and engine.artifact.layout == "chain":
        with about(source):
            stream_shown(engine, x, late, used, as_json)
        return
    with about(source):
        decision = engine.run(x, deadline_s=late)
    labels = engine.bundle.manifest.labels
    known = labels is not None and isinstance(decision.label, int) and decision.label < len(labels)
    name = labels[decision.label] if labels is not None and known else None
    kept = decision.prediction_set
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
                "prediction_set": None if kept is None else np.flatnonzero(kept),
                "uncertainty": decision.uncertainty,
                "accepted": decision.accepted,
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
    if kept is not None and engine.sets is not None:
        shown = ", ".join(
            str(labels[i]) if labels is not None and i < len(labels) else str(i) for i in np.flatnonzero(kept)
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


def _read(path: Path, row: int | None, engine: Engine, scale: float, many: bool = False) -> Any:
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
        found = {specs[0].name: read_picture(path, specs[0], scale)}
    for s in specs:
        if row is not None:
            array = found[s.name]
            if array.ndim != len(s.shape) or row >= len(array):
                raise DataError(f"{path}: no row {row} in {s.name!r} of shape {array.shape}")
            found[s.name] = array[row : row + 1]
        array = found[s.name]
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


def read_picture(path: Path, spec: TensorSpec, scale: float = 1.0) -> NDArray[Any]:
    """A picture as a model input `(1, channels, height, width)` or `(1, height, width, channels)`, pixels 0..255.

    Raises:
        DataError: not a picture, or not of the model's size.
        BackendMissing: pillow is not installed.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as e:
        raise BackendMissing(f"reading pictures needs pillow ({e}): pip install 'edgeexit[plots]'") from e
    shape = spec.shape[1:]
    first = len(shape) == 3 and shape[0] in (1, 3)
    channels = shape[0] if first else shape[-1] if len(shape) == 3 else 1
    if len(shape) not in (2, 3) or channels not in (1, 3):
        raise DataError(
            f"{path}: the model takes {spec.dtype}{list(spec.shape)}, which is no picture; pass .npy or .npz"
        )
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"), np.float32)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as e:
        raise DataError(f"{path}: not a readable picture: {e}") from e
    if len(shape) == 3:
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        pixels = pixels.transpose(2, 0, 1) if first else pixels
    if any(isinstance(a, int) and a != b for a, b in zip(shape, pixels.shape, strict=True)):
        raise DataError(f"{path}: a picture of shape {pixels.shape}; the model takes {shape}: resize it first")
    return (pixels * np.float32(scale)).astype(spec.dtype)[None]
