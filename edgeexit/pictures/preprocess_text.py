"""Preprocessing in text form: ``size=224,scale=1/255,mean=0.485:0.456:0.406``, a preset, or a JSON file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from edgeexit.common.files import read_json
from edgeexit.errors import DataError
from edgeexit.pictures.foreign import from_foreign, is_foreign
from edgeexit.pictures.preprocess import Preprocess

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "pixels": {"scale": 1.0},
    "unit": {"scale": 1 / 255},
    "signed": {"scale": 1 / 127.5, "mean": (1.0,)},
    "imagenet": {"scale": 1 / 255, **IMAGENET, "crop": 0.875},
}
"""pixels: 0..255; unit: 0..1; signed: -1..1; imagenet: as torchvision's and most of timm's networks are evaluated, the
shorter side to 8/7 of the network's and the centre of it."""
KEYS = (*(f.name for f in fields(Preprocess)), "crop")
_EXAMPLE = "e.g. size=224,scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225"


def parse(text: str) -> tuple[str | None, dict[str, Any]]:
    """Name of the input (None = not stated) and fields of `Preprocess` in a text.

    Args:
        text: fields and presets (`PRESETS`), separated by commas, of which later ones win; or the name of a JSON file.

    Raises:
        DataError: an unknown field or preset, or a value of another kind.
    """
    if names_file(text):
        return read_fields(read_json(Path(text), DataError), text)
    values: dict[str, Any] = {}
    for part in (p.strip() for p in text.split(",")):
        key, equals, value = (p.strip() for p in part.partition("="))
        if not equals and key in PRESETS:
            values |= PRESETS[key]
        elif not equals and key == "invert":
            values["invert"] = True
        elif not equals:
            raise DataError(
                f"preprocessing {part!r:.60}: expected FIELD=VALUE or a preset ({', '.join(PRESETS)}), {_EXAMPLE}"
            )
        elif key in ("mean", "std"):
            values[key] = value.split(":")
        elif key in ("size", "resize_size"):
            values[key] = value.split("x") * (1 if "x" in value else 2)
        else:
            values[key] = value
    return read_fields(values, "preprocessing")


def names_file(text: str) -> bool:
    """Whether a text is the name of a file, not fields."""
    return text.endswith(".json") or os.path.isfile(text)


def read_fields(data: Any, at: str) -> tuple[str | None, dict[str, Any]]:
    """Fields of `Preprocess` from JSON or texts: numbers may be texts such as "1/255", a size one number.

    Documents of Hugging Face and timm are read too, see `edgeexit.pictures.foreign`.

    Raises:
        DataError: as `parse`; `at` names the place in the message.
    """
    if is_foreign(data):
        return None, from_foreign(data, at)
    if not isinstance(data, Mapping):
        raise DataError(f"{at}: expected an object of fields, found {type(data).__name__}")
    values = dict(data)
    name = values.pop("input", None)
    if name is not None and not isinstance(name, str):
        raise DataError(f"{at}: input: expected the name of an input, found {name!r:.60}")
    if strange := [k for k in values if k not in KEYS]:
        raise DataError(f"{at}: no field {strange[0]!r:.60}; known: {', '.join(KEYS)}, input")
    for key, value in values.items():
        if key in ("scale", "crop"):
            values[key] = _number(value, f"{at}: {key}")
        elif key in ("mean", "std"):
            numbers = value if isinstance(value, list | tuple) else [value]
            values[key] = tuple(_number(v, f"{at}: {key}") for v in numbers)
        elif key in ("size", "resize_size") and value is not None:
            sides = value if isinstance(value, list | tuple) else [value] * 2
            values[key] = tuple(_whole(v, f"{at}: {key}") for v in sides)
        elif key == "background":
            values[key] = _whole(value, f"{at}: {key}")
        elif key == "invert" and isinstance(value, str):
            words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
            if value.lower() not in words:
                raise DataError(f"{at}: invert: expected true or false, found {value!r:.60}")
            values[key] = words[value.lower()]
        elif isinstance(value, str):
            values[key] = {"gray": "grey", "rgb": "RGB", "bgr": "BGR"}.get(value.lower(), value)
    if isinstance(values.get("layout"), str):
        values["layout"] = {"HW": "NHW", "CHW": "NCHW", "HWC": "NHWC"}.get(layout := values["layout"].upper(), layout)
    return name, values


def _number(value: Any, at: str) -> float:
    try:
        if isinstance(value, str):
            top, _, below = value.partition("/")
            return float(top) / float(below or 1)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    except (ValueError, ArithmeticError):
        pass
    raise DataError(f"{at}: expected a number or a fraction such as 1/255, found {value!r:.60}")


def _whole(value: Any, at: str) -> int:
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) < 10:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise DataError(f"{at}: expected a whole number, found {value!r:.60}")
