"""Preprocessing from Hugging Face's ``preprocessor_config.json`` and timm's model configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeexit.errors import DataError

RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box")
"""In the order of Pillow's numbers."""
_HUGGING_FACE = ("do_resize", "do_normalize", "do_rescale", "image_mean", "image_processor_type")
_NOTES = (
    "image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "data_format", "input_data_format",
    "device", "return_tensors", "disable_grouping", "default_to_square", "do_convert_rgb", "transformers_version",
    "image_seq_length", "num_channels",
)  # fmt: skip
"""Fields that do not change the input made of an RGB picture."""


def is_foreign(document: Any) -> bool:
    """Whether a document is one that `from_foreign` reads."""
    return isinstance(document, Mapping) and (
        any(k in document for k in _HUGGING_FACE) or "pretrained_cfg" in document or _is_timm(document)
    )


def from_foreign(document: Mapping[str, Any], at: str) -> dict[str, Any]:
    """Fields of `Preprocess`.

    Raises:
        DataError: a field that changes the input is not supported; the message names it.
    """
    if any(k in document for k in _HUGGING_FACE):
        return _hugging_face(document, at)
    return _timm(document.get("pretrained_cfg") or document, at)


def _is_timm(document: Mapping[str, Any]) -> bool:
    return "input_size" in document and "mean" in document


def _timm(document: Any, at: str) -> dict[str, Any]:
    if not isinstance(document, Mapping) or not _is_timm(document):
        raise DataError(f"{at}: a configuration of timm without input_size and mean")
    mode, size = document.get("crop_mode") or "center", document["input_size"]
    resizes = {"center": "cover", "squash": "stretch"}
    if mode not in resizes:
        raise DataError(f"{at}: crop_mode {mode!r:.60} is not understood; known: {', '.join(resizes)}")
    if not isinstance(size, list | tuple) or len(size) != 3:
        raise DataError(f"{at}: input_size: expected channels, height and width, found {size!r:.60}")
    return {
        "size": _pair(size[1:], f"{at}: input_size"),
        "resize": resizes[mode],
        "crop": document.get("crop_pct") or 0.875,  # timm's own default
        "interpolation": _interpolation(document.get("interpolation") or "bilinear", at),
        "scale": 1 / 255,
        "mean": _numbers(document["mean"], f"{at}: mean"),
        "std": _numbers(document.get("std"), f"{at}: std"),
    }


def _hugging_face(document: Mapping[str, Any], at: str) -> dict[str, Any]:
    d = {k: v for k, v in document.items() if v is not None and not k.startswith("_")}
    known = (
        "do_resize", "size", "crop_pct", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor",
        "do_normalize", "image_mean", "image_std", "do_flip_channel_order",
    )  # fmt: skip
    if strange := [k for k, v in d.items() if k not in (*known, *_NOTES) and v is not False]:
        raise DataError(
            f"{at}: {strange[0]!r:.60} is not understood; state the preprocessing by its fields, see --preprocess"
        )
    declared: dict[str, Any] = {"scale": d.get("rescale_factor", 1 / 255) if d.get("do_rescale", True) else 1.0}
    if d.get("do_normalize", True):
        declared["mean"] = _numbers(d.get("image_mean"), f"{at}: image_mean")
        declared["std"] = _numbers(d.get("image_std"), f"{at}: image_std")
    if d.get("do_flip_channel_order"):
        declared["color"] = "BGR"
    cropped = d.get("do_center_crop", "crop_size" in d)
    crop = _pair(d.get("crop_size"), f"{at}: crop_size") if cropped else None
    if not d.get("do_resize", True):
        return {**declared, "resize": "none"} if crop is None else {**declared, "resize": "crop", "size": crop}
    declared["interpolation"] = _interpolation(d.get("resample", 2), at)
    size = d.get("size")
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) and set(size) == {"shortest_edge"} else None
    if isinstance(size, int) and crop is not None:  # older files
        shortest = size
    if shortest is None:
        whole = _pair(size, f"{at}: size")
        return {**declared, "resize": "stretch", "resize_size": whole, "size": crop or whole}
    side = _pair(shortest, f"{at}: size")
    if (share := d.get("crop_pct")) is not None:  # ConvNeXT: large ones are stretched, others cropped
        if not isinstance(share, int | float) or not 0 < share <= 1:
            raise DataError(f"{at}: crop_pct: expected a share of at most 1, found {share!r:.60}")
        if side[0] >= 384:
            return {**declared, "resize": "stretch", "size": side}
        return {
            **declared,
            "resize": "cover",
            "size": side,
            "resize_size": _pair(int(side[0] / share), f"{at}: crop_pct"),
        }
    if crop is None:
        raise DataError(
            f"{at}: the shorter side becomes {side[0]} and nothing is cropped, so that sizes vary; state the size and "
            "resizing by their fields, see --preprocess"
        )
    return {**declared, "resize": "cover", "size": crop, "resize_size": side}


def _interpolation(value: Any, at: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(RESAMPLE):
        return RESAMPLE[value]
    if isinstance(value, str) and value.lower() in RESAMPLE:
        return value.lower()
    raise DataError(f"{at}: interpolation {value!r:.60} is not understood; known: {', '.join(RESAMPLE)}")


def _pair(value: Any, at: str) -> tuple[int, int]:
    if isinstance(value, Mapping) and set(value) == {"height", "width"}:
        value = (value["height"], value["width"])
    sides = value if isinstance(value, list | tuple) else [value] * 2
    if len(sides) == 1:
        sides = [*sides] * 2
    if len(sides) != 2 or not all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in sides):
        raise DataError(f"{at}: expected a size, or a height and a width, found {value!r:.60}")
    return sides[0], sides[1]


def _numbers(value: Any, at: str) -> tuple[float, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    if not values or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise DataError(f"{at}: expected a number for every channel, found {value!r:.60}")
    return tuple(float(v) for v in values)
