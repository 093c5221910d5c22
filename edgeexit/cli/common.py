"""Shared parts of the commands: options, data files, progress, JSON, tables."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.manifest import Manifest
from edgeexit.cli.pictures import check_pictures
from edgeexit.common.files import read_npz, sha256
from edgeexit.common.formatting import percent as percent
from edgeexit.common.formatting import plain
from edgeexit.engine.engine import Engine
from edgeexit.engine.inputs import data_inputs
from edgeexit.errors import DataError

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
bundle_argument = click.argument("bundle", type=click.Path(path_type=Path))
threads_option = click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of the engine."
)
artifact_option = click.option(
    "--artifact", metavar="NAME", help="Artifact by name or layout (fused, chain). [default: the first that runs here]"
)
run_artifact_option = click.option(
    "--artifact", metavar="NAME", help="Artifact by name or layout. [default: the operating point's, if it runs here]"
)

MOST_TEXT = 64 << 20


def read_text(path: Path) -> str:
    """A text file.

    Raises:
        DataError: missing, larger than 64 MiB, not UTF-8, or without any text.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MOST_TEXT + 1)
        text = data.decode("utf-8")
    except OSError as e:
        raise DataError(f"{path}: no text to read: {e.strerror or e}") from e
    except UnicodeDecodeError as e:
        raise DataError(f"{path}: not text in UTF-8: {e}") from e
    if len(data) > MOST_TEXT:
        raise DataError(f"{path}: more than {MOST_TEXT} bytes: give a part of it")
    if not text.strip():
        raise DataError(f"{path}: no text in it")
    return text


def source_options(command: Callable[..., None]) -> Callable[..., None]:
    """The rows that `calibrate` and `sweep` work on: a bundle and data, or recorded outputs."""
    for option in (
        click.option(
            "--records",
            type=click.Path(path_type=Path),
            help="Recorded outputs instead of a bundle: logits, labels, cost.",
        ),
        click.option(
            "--data",
            type=click.Path(path_type=Path),
            help="An .npz with x (n, ...) and y (n,); without y, agreement counts. Or speech, see `evaluate`.",
        ),
        click.argument("bundle", type=click.Path(path_type=Path), required=False),
    ):
        command = option(command)
    return command


def check_source(command: str, bundle: Path | None, data: Path | None, records: Path | None) -> None:
    """Refuse anything but a bundle with data, or recorded outputs alone.

    Raises:
        DataError: neither, both, or one half.
    """
    if (bundle is None) == (records is None) or (bundle is not None) != (data is not None):
        raise DataError(f"{command} takes a BUNDLE with --data, or --records without a bundle")


def print_json(document: Any) -> None:
    """JSON on standard output; infinities as the texts "inf" and "-inf", NaN as null."""
    click.echo(json.dumps(plain(document), indent=1))


def decided_by(engine: Engine, used: str) -> dict[str, Any]:
    """Artifact and policy for the JSON of a command that runs a bundle; `used` is the policy in words."""
    point = None if engine.point is None else engine.point.name
    return {"artifact": engine.artifact.name, "policy": used, "operating_point": point}


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns padded to their widest cell; `right` names the right-aligned ones."""
    widths = [max(len(r[c]) for r in rows) for c in range(len(rows[0]))]
    lines = []
    for r in rows:
        cells = [
            cell.rjust(w) if c in right else cell.ljust(w) for c, (cell, w) in enumerate(zip(r, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def printable(text: str) -> str:
    """Text without control characters, which a terminal would execute."""
    return "".join(c if c.isprintable() else " " for c in text)


def shown(text: str) -> str:
    """As `printable`, for text of several lines; line ends and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else "" for c in text)


def count(number: float | None) -> str:
    """12,516,992 as 12.52 M; None as -."""
    if number is None:
        return "-"
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= limit:
            return f"{number / limit:.2f}{unit}"
    return f"{number:g}"


def milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.3f} ms"


@contextlib.contextmanager
def steps(label: str) -> Iterator[Callable[..., None]]:
    """A progress bar on standard error for `done, total, ...` calls; silent where it is not a terminal."""
    with contextlib.ExitStack() as stack:
        bar: Any = None
        seen = 0

        def tell(done: int, total: int, *_: Any) -> None:
            nonlocal bar, seen
            if bar is None:
                quiet = not sys.stderr.isatty()
                bar = stack.enter_context(click.progressbar(length=total, label=label, file=sys.stderr, hidden=quiet))
            bar.update(done - seen)
            seen = done

        yield tell


def say(text: str) -> None:
    """A progress line on standard error, so that standard output stays clean."""
    click.echo(text, err=True)


def read_data(path: Path, manifest: Manifest) -> tuple[dict[str, NDArray[Any]], NDArray[Any] | None]:
    """Model inputs and labels of a data file: `x` or one array per input, and `y` where labels exist.

    Raises:
        DataError: no such file, or arrays that do not fit the model.
    """
    arrays = read_npz(path)
    inputs = data_inputs(arrays, manifest.inputs, str(path))
    for spec in manifest.inputs:
        array = inputs[spec.name]
        if spec.name in manifest.preprocess and array.dtype == np.uint8:
            check_pictures(path, array, spec, manifest)
            continue  # which the engine reads as the manifest declares
        if array.dtype != spec.dtype and np.can_cast(array.dtype, spec.dtype, "same_kind"):
            inputs[spec.name] = array.astype(spec.dtype)  # a file of uint8 pictures for a float model
        if array.ndim == 0:
            raise DataError(f"{path}: {spec.name!r} is a single number; expected rows (n, ...)")
    labels = labels_of(arrays, path)
    n = len(next(iter(inputs.values())))
    if labels is not None and len(labels) != n:
        got = f"{labels.dtype} {labels.shape}"
        raise DataError(f"{path}: y must be whole numbers, one per row; found {got} for {n} rows")
    return inputs, labels


def labels_of(arrays: Mapping[str, NDArray[Any]], path: Path) -> NDArray[np.int64] | None:
    """`y` of a data file `(n, ...)`; None = it has none.

    Raises:
        DataError: not whole numbers.
    """
    labels = next((arrays[n] for n in ("y", "labels") if n in arrays), None)
    if labels is not None and (labels.dtype.kind not in "iu" or labels.ndim == 0):
        raise DataError(f"{path}: y must be whole numbers, one per row; found {labels.dtype} {labels.shape}")
    return None if labels is None else labels.astype(np.int64)


@contextlib.contextmanager
def about(path: Path) -> Iterator[None]:
    """Add the file's name to data errors raised inside."""
    try:
        yield
    except DataError as e:
        raise e if str(path) in str(e) else DataError(f"{path}: {e}") from e


def data_note(path: Path) -> dict[str, Any]:
    """Name and sha256 of a data file, as stored with an operating point."""
    return {"file": path.name, "sha256": sha256(path)}


def names(text: str | None) -> list[str] | None:
    """A comma-separated option."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def as_names(context: click.Context, option: click.Parameter, text: str | None) -> list[str] | None:
    """`names` as the callback of an option."""
    return names(text)


def as_class_names(context: click.Context, option: click.Parameter, text: str | None) -> list[str] | None:
    """Callback of an option: names separated by commas, or the lines of a text file."""
    if text is not None and Path(text).is_file():
        return [line.strip() for line in Path(text).read_text(encoding="utf-8").splitlines() if line.strip()]
    return names(text)


def numbers(text: str | None) -> list[float] | None:
    """A comma-separated option of numbers.

    Raises:
        DataError: something in it is no number.
    """
    try:
        return None if text is None else [float(part) for part in names(text) or ()]
    except ValueError as e:
        raise DataError(f"{text!r}: expected numbers separated by commas, e.g. 0.2,0.4,0.6 ({e})") from e
