"""Preprocessing from torchvision transforms, read by class names without torchvision."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

from edgeexit.errors import DataError
from edgeexit.pictures.foreign import RESAMPLE

_NOTHING = ("PILToTensor", "ToImage", "ToPureTensor", "ToImageTensor", "Identity", "MaybePILToTensor", "ToNumpy")
"""Change no number."""
_TO_UNIT = ("ToTensor", "MaybeToTensor")
_DTYPE = ("ConvertImageDtype", "ToDtype", "ConvertDtype", "ConvertImageDtypeV2")


def from_transforms(transform: Any) -> dict[str, Any]:
    """Fields of `Preprocess` for a Compose, a list or a module of transforms, or one of torchvision's presets.

    Raises:
        DataError: a transform that is not understood, or an order that no declaration has; it is named.
    """
    if isinstance(transform, functools.partial):  # torchvision's `weights.transforms`, not called yet
        transform = transform()
    if type(transform).__name__ == "ImageClassification":
        return _preset(transform)
    if callable(inner := getattr(transform, "transforms", None)):  # a member of torchvision's weights
        return from_transforms(inner())
    read = _Reader()
    for step in _steps(transform):
        read.step(step)
    if read.fields["resize"] == "cover":  # without a crop, pictures are taken to be square
        read.fields.setdefault("size", read.fields["resize_size"])
    return read.fields


def _preset(preset: Any) -> dict[str, Any]:
    if getattr(preset, "antialias", True) is False:
        raise DataError("ImageClassification without antialiasing is not understood: pictures are resized with it")
    resize, crop = _sides(preset.resize_size, "resize_size"), _sides(preset.crop_size, "crop_size")
    return {
        "size": (crop, crop) if isinstance(crop, int) else crop,
        "resize": "cover" if isinstance(resize, int) or resize[0] == resize[1] else "stretch",
        "resize_size": (resize, resize) if isinstance(resize, int) else resize,
        "interpolation": _interpolation(preset.interpolation),
        "scale": 1 / 255,
        "mean": _numbers(preset.mean),
        "std": _numbers(preset.std),
    }


def _steps(transform: Any) -> Iterable[Any]:
    if isinstance(transform, list | tuple):
        inside: Sequence[Any] = transform
    elif type(transform).__name__ == "Compose":
        inside = list(transform.transforms)
    elif type(transform).__name__ == "Sequential":
        inside = list(transform)
    else:
        return [transform]
    return [step for part in inside for step in _steps(part)]


class _Reader:
    """Goes through transforms in their order."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {"resize": "none", "scale": 1.0}
        self.tensor = self.normalized = False

    def step(self, t: Any) -> None:
        """One more transform.

        Raises:
            DataError: it is not understood, or not in this place.
        """
        kind = type(t).__name__
        if kind in _NOTHING:
            self.tensor = self.tensor or kind not in ("Identity", "ToNumpy")
        elif kind in _TO_UNIT:
            self._unit(kind)
        elif kind in _DTYPE:
            self._dtype(t, kind)
        elif kind == "Resize":
            self._resize(t)
        elif kind == "CenterCrop":
            self._crop(t)
        elif kind == "Normalize":
            if self.normalized:
                raise DataError("transforms: a second Normalize is not understood")
            self.fields |= {"mean": _numbers(t.mean), "std": _numbers(t.std)}
            self.normalized = True
        elif kind == "Grayscale":
            if getattr(t, "num_output_channels", 1) != 1:
                raise DataError("transforms: Grayscale to several channels is not understood")
            self.fields["color"] = "grey"
        elif kind == "RGB":
            self.fields["color"] = "RGB"
        else:
            why = "; augmentation belongs to training" if kind.startswith("Random") else ""
            raise DataError(
                f"transforms: {kind} is not understood{why}; state the preprocessing by its fields, see --preprocess"
            )

    def _unit(self, kind: str) -> None:
        self.tensor = True
        if self.normalized:
            raise DataError(f"transforms: {kind} after Normalize is not understood")
        self.fields["scale"] = 1 / 255

    def _dtype(self, t: Any, kind: str) -> None:
        dtype = getattr(t, "dtype", None)
        if isinstance(dtype, dict):
            raise DataError(f"transforms: {kind} with a dtype for each kind of data is not understood")
        name = str(dtype).removeprefix("torch.")
        if "float" not in name:
            if name == "uint8" and not self.normalized and self.fields["scale"] == 1.0:
                return  # as they are
            raise DataError(f"transforms: {kind} to {name} is not understood")
        if (kind != "ToDtype" or getattr(t, "scale", False)) and self.fields["scale"] == 1.0:
            self._unit(kind)
        self.tensor = True

    def _resize(self, t: Any) -> None:
        if self.fields["resize"] != "none":
            raise DataError("transforms: a Resize after another, or after CenterCrop, is not understood")
        if getattr(t, "max_size", None) is not None:
            raise DataError("transforms: Resize with max_size is not understood")
        if self.tensor and getattr(t, "antialias", True) is False:
            raise DataError("transforms: Resize of tensors without antialiasing is not understood")
        size = _sides(t.size, "Resize")
        self.fields["interpolation"] = _interpolation(getattr(t, "interpolation", "bilinear"))
        if isinstance(size, int):
            self.fields |= {"resize": "cover", "resize_size": (size, size)}
        else:
            self.fields |= {"resize": "stretch", "resize_size": size, "size": size}

    def _crop(self, t: Any) -> None:
        crop = _sides(t.size, "CenterCrop")
        size = (crop, crop) if isinstance(crop, int) else crop
        before = self.fields.get("resize_size") or size
        if self.fields["resize"] == "crop" or any(b < s for b, s in zip(before, size, strict=True)):
            raise DataError(
                f"transforms: CenterCrop {size[0]}x{size[1]} of what was cropped before or is smaller is not understood"
            )
        self.fields["size"] = size
        if self.fields["resize"] == "none":
            self.fields["resize"] = "crop"


def _sides(value: Any, at: str) -> int | tuple[int, int]:
    """The shorter side, or height and width."""
    sides = list(value) if isinstance(value, list | tuple) else [value]
    if len(sides) not in (1, 2) or not all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in sides):
        raise DataError(f"transforms: {at} to {value!r:.60} is not understood")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _interpolation(value: Any) -> str:
    """Of torchvision's enumeration, Pillow's numbers or a name."""
    name = getattr(value, "value", value)
    if isinstance(name, int) and not isinstance(name, bool) and 0 <= name < len(RESAMPLE):
        return RESAMPLE[name]
    if isinstance(name, str) and name.lower() in RESAMPLE:
        return name.lower()
    raise DataError(f"transforms: interpolation {value!r:.60} is not understood; known: {', '.join(RESAMPLE)}")


def _numbers(values: Any) -> tuple[float, ...]:
    try:
        return tuple(float(v) for v in (values if hasattr(values, "__iter__") else [values]))
    except (TypeError, ValueError) as e:
        raise DataError(f"transforms: expected numbers, found {values!r:.60}") from e
