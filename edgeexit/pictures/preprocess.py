"""Preprocessing of pictures as the manifest declares it: pixels to network input.

A pixel's channel p, a whole number from 0 to 255, becomes ``(p * scale - mean) / std``, with ``255 - p`` for p where
`invert` is set. `edgeexit.pictures.convert` applies it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from edgeexit.common.kinds import Kind, ListOf, Misfit, Number, OneOf, Whole
from edgeexit.common.records import CheckedRecord, Size
from edgeexit.errors import DataError
from edgeexit.pictures.resample import INTERPOLATIONS

LAYOUTS = ("NCHW", "NHWC", "NHW")
COLORS = {"RGB": 3, "BGR": 3, "grey": 1}
"""Channel order -> number of channels."""
RESIZES = ("cover", "stretch", "crop", "none")
MOST_SIDE = 1 << 14
MOST_PIXELS = 1 << 24
"""Of a network's input; more could fill a device's memory by a manifest alone."""
_LARGEST = 1e9
_POSITIVE = Number(1e-9, _LARGEST)
_Side = Annotated[int, Whole(1, MOST_SIDE)]
_PER_CHANNEL = Size(1, 3)

Shape = Sequence[int | str]


@dataclass(frozen=True)
class Preprocess(CheckedRecord, title="preprocess"):
    """How a picture becomes an input of a network.

    Raises:
        DataError: a field that is not what it should be, or fields that do not fit each other.
    """

    size: tuple[_Side, _Side] | None = None
    """Height and width of the network's picture, up to 2^24 pixels; None = every size, only with `resize` = `none`."""
    layout: Annotated[str, OneOf(*LAYOUTS)] = "NCHW"
    """Axes of the network's input; NHW = grey without an axis of channels."""
    color: Annotated[str, OneOf(*COLORS)] = "RGB"
    """Order of the network's channels: 3, 3, 1."""
    resize: Annotated[str, OneOf(*RESIZES)] = "cover"
    """cover: keep the proportions, so that `resize_size` is just covered, then crop the centre of `size`; stretch: to
    `resize_size`, then crop likewise; crop: crop the centre only; none: a picture of another size is refused."""
    resize_size: tuple[_Side, _Side] | None = None
    """Height and width before the crop, at least those of `size`; None with `crop` and `none`, else None = `size`.
    `(256, 256)` with cover makes the shorter side 256."""
    interpolation: Annotated[str, OneOf(*INTERPOLATIONS)] = "bilinear"
    """Antialiased: filters are as wide as the picture shrinks, as in Pillow."""
    scale: Annotated[float, _POSITIVE] = 1.0
    """Factor on a pixel's channel, 0 to 255."""
    mean: Annotated[tuple[Annotated[float, Number(-_LARGEST, _LARGEST)], ...], _PER_CHANNEL] = (0.0,)
    """Subtracted after `scale`: one number, or as many as channels in the order of the input's."""
    std: Annotated[tuple[Annotated[float, _POSITIVE], ...], _PER_CHANNEL] = (1.0,)
    """Divisor after `mean`, likewise."""
    invert: bool = False
    """True: 255 - p takes the place of p, for networks to which dark pixels are large numbers."""
    background: Annotated[int, Whole(0, 255)] = 255
    """Grey that shows through where a picture is transparent."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layout == "NHW" and self.color != "grey":
            raise DataError(f"layout: NHW has no axis for the channels of {self.color}; expected NCHW or NHWC")
        for name, size in (("size", self.size), ("resize_size", self.resize_size)):
            if size is not None and math.prod(size) > MOST_PIXELS:
                raise DataError(f"{name}: {shown(size)} is more than {MOST_PIXELS} pixels")
        if self.resize != "none" and self.size is None:
            raise DataError(f"size: resize {self.resize!r} needs the height and width to reach; or resize 'none'")
        if self.resize in ("crop", "none") and self.resize_size is not None:
            raise DataError(f"resize_size: resize {self.resize!r} has none; expected null")
        if self.resize in ("cover", "stretch"):
            assert self.size is not None
            if self.resize_size is None:
                object.__setattr__(self, "resize_size", self.size)
            assert self.resize_size is not None
            if any(a < b for a, b in zip(self.resize_size, self.size, strict=True)):
                raise DataError(
                    f"resize_size: {shown(self.resize_size)} is smaller than size {shown(self.size)}, which is cropped "
                    "from it"
                )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise DataError(f"{name}: expected 1 or {self.channels} numbers, found {len(values)}")

    @property
    def channels(self) -> int:
        return COLORS[self.color]

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Shape of one input of that height and width, without the axis that counts inputs."""
        return {"NCHW": (self.channels, *size), "NHWC": (*size, self.channels), "NHW": size}[self.layout]

    def check(self, shape: Shape, dtype: str) -> None:
        """Refuse an input of a network that this preprocessing does not fit.

        Args:
            shape: of the input, with the axis that counts inputs.
            dtype: of the input.

        Raises:
            DataError: other axes, sizes or channels, or an input of booleans.
        """
        if len(shape) != len(self.layout):
            raise DataError(f"layout: {self.layout} is of {len(self.layout)} axes, the input has {list(shape)!r:.60}")
        if dtype == "bool":
            raise DataError("the input is of booleans, which no pixels become")
        asked = self.shape(self.size or (-1, -1))
        for axis, (own, needed) in enumerate(zip(shape[1:], asked, strict=True), 1):
            if isinstance(own, int) and own != needed and (needed != -1):
                raise DataError(f"axis {axis} of a picture in {self.layout} has {needed}, the input has {own}")
            if isinstance(own, int) and needed == -1:
                raise DataError(f"size: expected the input's own, found none, where the input is {list(shape)!r:.60}")

    def __str__(self) -> str:
        """One line for people."""
        size = "any size" if self.size is None else shown(self.size)
        if self.resize in ("cover", "stretch"):
            way = f"{self.resize} {shown(self.resize_size)}, " if self.resize_size != self.size else f"{self.resize} "
            way += f"crop {size}" if self.resize_size != self.size else size
            way += f" ({self.interpolation})"
        else:
            way = f"crop {size}" if self.resize == "crop" else f"{size}, not resized"
        level = "255 - pixel" if self.invert else "pixel"
        steps = [level if self.scale == 1 else f"{'(255 - pixel)' if self.invert else level} x {_ratio(self.scale)}"]
        if any(self.mean):
            steps.append(f"- {_shown_numbers(self.mean)}")
        if any(v != 1 for v in self.std):
            steps = [f"({' '.join(steps)})" if len(steps) > 1 else steps[0], f"/ {_shown_numbers(self.std)}"]
        return f"{self.color} {self.layout}, {way}, {' '.join(steps)}"


def shown(size: tuple[int, int] | None) -> str:
    return "any" if size is None else f"{size[0]}x{size[1]}"


def picture_fields(shape: Shape, dtype: str, stated: Mapping[str, Any]) -> Preprocess:
    """Preprocessing for one input of a network; fields that are not stated follow from the input's shape.

    Args:
        shape: of the input, with the axis that counts inputs.
        dtype: of the input.
        stated: fields of `Preprocess`, and `crop`, the share of `resize_size` that the centre crop keeps.

    Raises:
        DataError: the input is no picture, or does not fit the stated fields.
    """
    values = dict(stated)
    if "layout" not in values:
        values["layout"] = _layout(shape)
    if values["layout"] not in LAYOUTS:
        raise DataError(f"layout: expected one of {', '.join(LAYOUTS)}, found {values['layout']!r:.60}")
    if len(shape) != len(values["layout"]):
        raise DataError(f"layout {values['layout']!r:.20} does not fit the axes of the input, {list(shape)!r:.60}")
    if "color" not in values:
        channels = 1 if values["layout"] == "NHW" else shape[1 if values["layout"] == "NCHW" else 3]
        if channels not in (1, 3):
            raise DataError(
                f"the input {list(shape)!r:.60} has {channels!r:.20} channels in {values['layout']}; a picture has 1, 3"
            )
        values["color"] = "grey" if channels == 1 else "RGB"
    first = 2 if values["layout"] == "NCHW" else 1
    own = [a for a in shape[first : first + 2] if isinstance(a, int)]
    if values.get("size") is None and len(own) == 2:
        values["size"] = (own[0], own[1])
    crop = values.pop("crop", None)
    if values.get("size") is None and "resize" not in values and crop is None:
        values["resize"] = "none"
    if crop is not None:
        if values.get("resize_size") is not None:
            raise DataError("crop: expected no resize_size beside it")
        if values.get("size") is None:
            raise DataError("size: a crop needs the height and width to keep; the input has free sizes")
        share = _read(Number(1e-9, 1.0), crop, "crop")
        size = _read(ListOf(Whole(1, MOST_SIDE), 2, 2), values["size"], "size")
        values["resize_size"] = tuple(math.floor(side / share) for side in size)
    result = Preprocess(**values)
    result.check(shape, dtype)
    return result


def is_picture(shape: Shape) -> bool:
    """Whether an input's shape is one that pictures have."""
    try:
        picture_fields(shape, "float32", {})
    except DataError:
        return False
    return True


def _layout(shape: Shape) -> str:
    if len(shape) == 3:
        return "NHW"
    if len(shape) != 4:
        raise DataError(f"the input {list(shape)!r:.60} is no picture, which has 3 or 4 axes")
    first, last = (a in (1, 3) for a in (shape[1], shape[3]))
    if first == last:
        raise DataError(f"which axis of the input {list(shape)!r:.60} counts channels? state layout NCHW or NHWC")
    return "NCHW" if first else "NHWC"


def _read(kind: Kind, value: Any, name: str) -> Any:
    try:
        return kind.read(value)
    except Misfit as e:
        raise DataError(f"{name}{e.place}: {e.text}") from None


def _ratio(scale: float) -> str:
    """1/255 and the like as people write them."""
    for top in (1, 2, 16):
        below = top / scale
        if abs(below - round(below * 2) / 2) < 1e-6 * below and below > top:
            return f"{top}/{below:g}"
    return f"{scale:g}"


def _shown_numbers(values: Sequence[float]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else f"[{', '.join(f'{v:g}' for v in values)}]"
