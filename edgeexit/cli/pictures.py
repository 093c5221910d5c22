"""Pictures on the command line: options of preprocessing, and picture files as network inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.manifest import Manifest, TensorSpec
from edgeexit.engine.engine import Engine
from edgeexit.errors import DataError
from edgeexit.pictures.convert import PictureInput
from edgeexit.pictures.preprocess import Preprocess, picture_fields
from edgeexit.pictures.preprocess_text import parse

_FEW = 64
"""Rows of a file that are looked at."""

preprocess_option = click.option(
    "--preprocess",
    multiple=True,
    metavar="FIELDS|FILE",
    help="How pictures become inputs: FIELD=VALUE,... or a preset or a .json. [default: as attached to the module]",
)


def asked_preprocess(texts: tuple[str, ...]) -> Any:
    """What `export` takes as `preprocess`; a text that says nothing is refused before the network is read.

    Raises:
        DataError: an unknown field or preset.
    """
    for text in texts:
        if text != "none":
            parse(text)
    return None if not texts else texts[0] if len(texts) == 1 else list(texts)


def use_preprocess(engine: Engine, text: str | None, scale: float | None) -> None:
    """Let an engine read pictures as this call says, in place of what its bundle declares.

    Args:
        engine: of a network with one input.
        text: fields of the whole declaration; None = the bundle's.
        scale: replaces the declaration's scale; None = it does not.

    Raises:
        DataError: a network of several inputs, or fields that do not fit its input.
    """
    if text is None and scale is None:
        return
    spec = _only_input(engine, "--preprocess" if text is not None else "--scale")
    declared = engine.preprocess.get(spec.name)
    fields: dict[str, Any] = {} if declared is None else declared.to_dict()
    if text is not None:
        name, fields = parse(text)
        if name not in (None, spec.name):
            raise DataError(f"--preprocess names input {name!r}; the network takes {spec.name}")
    if scale is not None:
        fields["scale"] = scale
    if text is None and declared is None:
        fields["resize"] = "none"
    engine.preprocess = {spec.name: picture_fields(spec.shape, spec.dtype, fields)}


def read_picture(path: Path, engine: Engine) -> Any:
    """A picture file as the network's only input `(1, ...)`.

    Where nothing is declared, pixels pass as 0..255 and that is said; where they are then far outside the calibration
    rows' range, they are refused.

    Raises:
        DataError: not a picture, not one that the network takes, or far outside what it was calibrated on.
        BackendMissing: Pillow is not installed.
    """
    spec = _only_input(engine, str(path))
    declared = engine.preprocess.get(spec.name)
    if declared is not None:
        return _numbers(path, spec, declared)
    try:
        plain = picture_fields(spec.shape, spec.dtype, {"resize": "none"})
    except DataError as e:
        raise DataError(
            f"{path}: the model takes {spec.dtype}{list(spec.shape)}, which is no picture ({e}); pass .npy or .npz"
        ) from e
    pixels = _numbers(path, spec, plain)
    known = engine.bundle.manifest.ranges.get(spec.name)
    advice = "say with --preprocess how pictures become the network's numbers, e.g. --preprocess scale=1/255"
    if known is not None and (why := known.unusual(pixels)) is not None:
        raise DataError(f"{path}: the bundle declares no preprocessing, and as pixels 0..255 {why}: {advice}")
    click.echo(f"warning: the bundle declares no preprocessing, so pixels pass as 0..255; {advice}", err=True)
    return pixels


def check_pictures(
    path: Path, pixels: NDArray[np.uint8], spec: TensorSpec, manifest: Manifest, *, one: bool = False
) -> None:
    """Refuse uint8 rows that as pictures lie far outside the calibration rows' range, and as they are do not.

    Args:
        path: where they are from, for messages.
        pixels: `(n, ...)`, or one picture.
        spec: the input.
        manifest: with the input's preprocessing and range.
        one: whether it is one picture.

    Raises:
        DataError: so it is, or they are no pictures.
    """
    known, declared = manifest.ranges.get(spec.name), manifest.preprocess.get(spec.name)
    if known is None or declared is None:
        return
    reader = PictureInput(spec.name, declared, spec.shape, spec.dtype)
    few = pixels[None] if one else pixels[:_FEW]
    rows: Any = reader.one(pixels) if one else reader.many(few)
    if rows is None:
        return
    strange = [why for i in range(len(rows)) if (why := known.unusual(rows[i : i + 1])) is not None]
    as_they_are = sum(known.unusual(row.astype(np.float32)) is None for row in few)
    if 2 * len(strange) > len(few) and 2 * as_they_are > len(few):
        raise DataError(
            f"{path}: {spec.name!r} is uint8, which is read as pictures 0..255, and as such {strange[0]}: if they are "
            f"the network's own numbers, save them as {spec.dtype}"
        )


def _numbers(path: Path, spec: TensorSpec, declared: Preprocess) -> Any:
    try:
        return PictureInput(spec.name, declared, spec.shape, spec.dtype).one(path)
    except DataError as e:
        raise e if str(path) in str(e) else DataError(f"{path}: {e}") from e


def _only_input(engine: Engine, what: str) -> TensorSpec:
    specs = engine.bundle.manifest.inputs
    if len(specs) != 1:
        raise DataError(
            f"{what}: the model has {len(specs)} inputs ({', '.join(s.name for s in specs)}); pass an .npz with all"
        )
    return specs[0]
