"""Conversion of pictures to network inputs: files, Pillow images, uint8 arrays, torch tensors.

Only reading files needs Pillow, the rest is numpy. `PictureInput` defines what counts as a picture.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import BackendMissing, DataError
from edgeexit.pictures.preprocess import COLORS, Preprocess, Shape, shown
from edgeexit.pictures.resample import Pixels, resize

MOST_PIXELS = 1 << 26
"""Of a picture file, 67 million: a file of a few bytes may declare a huge picture."""
MOST_SIDE = 1 << 16
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""Formats of files that are read; for others Pillow may start programs."""
_CHANNELS = (1, 3, 4)
_WIDE = ("I;16", "I;16L", "I;16B", "I;16N")


class PictureInput:
    """One input of a network that takes pictures.

    Pictures are Pillow images, paths of files, and uint8 arrays or tensors: `(height, width)`, `(height, width,
    channels)` or `(channels, height, width)` with 1, 3 (RGB) or 4 (RGBA) channels, with or without an axis in front
    that counts them. Where both ends could count channels, the network's layout decides if the shape is the network's;
    else channels are last in arrays and first in tensors. Everything else is taken as the network's own numbers, as is
    a uint8 array of the network's shape where the network itself takes uint8.
    """

    def __init__(self, name: str, declared: Preprocess, shape: Shape, dtype: str) -> None:
        self.name, self.declared, self.dtype = name, declared, np.dtype(dtype)
        self.own_shape = tuple(shape[1:])
        levels = np.arange(255, -1, -1.0) if declared.invert else np.arange(256.0)
        mean, std = (np.resize(np.asarray(v, np.float64), declared.channels) for v in (declared.mean, declared.std))
        table = (levels * declared.scale - mean[:, None]) / std[:, None]
        if self.dtype.kind in "iu":
            info = np.iinfo(self.dtype)
            table = np.clip(np.rint(table), info.min, info.max)
        self.table: NDArray[Any] = table.astype(self.dtype)
        """`(channels, 256)`: the network's number for every level of every one of its channels."""

    def one(self, x: Any) -> NDArray[Any] | None:
        """A picture as one input, with its axis of 1 in front; None = `x` is no picture.

        Raises:
            DataError: not one picture, or one of a size that the network does not take.
        """
        x, channels_first = plain(x)
        if self._own(x, many=False):
            return None
        pixels = self._pixels(x, channels_first, rows=False)
        if pixels is None:
            return None
        if len(pixels) != 1:
            raise DataError(f"input {self.name!r} holds {len(pixels)} pictures; run() takes one, run_batch() many")
        return self.apply(pixels[0])[None]

    def many(self, x: Any) -> PictureRows | None:
        """Pictures `(n, ...)`, or a list of any kind, as inputs, computed when they are read; None = no pictures.

        Raises:
            DataError: not pictures.
        """
        if isinstance(x, list | tuple):
            parts = [self._single(item) for item in x]
            return PictureRows(self, parts) if parts else None
        x, channels_first = plain(x)
        if self._own(x, many=True):
            return None
        pixels = self._pixels(x, channels_first, rows=True)
        return None if pixels is None else PictureRows(self, pixels)

    def apply(self, pixels: Pixels) -> NDArray[Any]:
        """Pixels `(height, width, channels)` as an input without the axis that counts inputs.

        Raises:
            DataError: a size that the network does not take.
        """
        d = self.declared
        levels = _resized(_colored(pixels, d), d, self.name)
        if d.color != "grey" and levels.shape[2] == 1:
            levels = np.repeat(levels, 3, 2)
        if d.color == "BGR":
            levels = levels[..., ::-1]
        out = np.empty(d.shape((levels.shape[0], levels.shape[1])), self.dtype)
        for c, table in enumerate(self.table):
            into = out if d.layout == "NHW" else out[c] if d.layout == "NCHW" else out[..., c]
            into[...] = table[levels[..., c]]
        return out

    def _single(self, item: Any) -> Pixels:
        item, channels_first = plain(item)
        pixels = self._pixels(item, channels_first, rows=False)
        if pixels is None or len(pixels) != 1:
            kind = f"{item.dtype}{list(item.shape)}" if isinstance(item, np.ndarray) else type(item).__name__
            raise DataError(f"input {self.name!r}: a list of pictures holds {kind:.60}; expected pictures of uint8")
        first: Pixels = pixels[0]
        return first

    def _own(self, x: Any, *, many: bool) -> bool:
        """Whether an array is the network's own input already."""
        if not isinstance(x, np.ndarray) or x.dtype != self.dtype:
            return False
        shapes = (x.shape[1:],) if many else (x.shape, x.shape[1:])
        return any(self._fits(s) for s in shapes)

    def _fits(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == len(self.own_shape) and all(
            b == a or isinstance(b, str) for a, b in zip(shape, self.own_shape, strict=True)
        )

    def _pixels(self, x: Any, channels_first: bool, *, rows: bool) -> Any:
        """Pixels `(n, height, width, channels)`; None = no picture.

        Args:
            x: what was passed, as `plain` leaves it.
            channels_first: whether the first axis counts channels where both ends could.
            rows: whether the first axis always counts pictures.
        """
        if _is_image(x):
            return [from_image(x)]
        if isinstance(x, str | os.PathLike):
            return [read_file(x)]
        if not isinstance(x, np.ndarray) or x.dtype != np.uint8:
            return None
        shape = x.shape[1:] if rows else x.shape
        if len(shape) == 4 and not rows:
            x, shape = x, shape[1:]
        elif not rows:
            x = x[None]
        if len(shape) == 2:
            return x[..., None]
        if len(shape) == 3:
            ends = [shape[-1] in _CHANNELS, shape[0] in _CHANNELS]
            if all(ends):
                own = self.declared.layout if self._fits(shape) else "NCHW" if channels_first else "NHWC"
                ends = [own != "NCHW", own == "NCHW"]
            if ends[0]:
                return x
            if ends[1]:
                return np.moveaxis(x, 1, -1)
        what = "pictures (n, height, width), (n, height, width, channels)" if rows else "a picture (height, width)"
        raise DataError(
            f"input {self.name!r} is uint8{list(x.shape)}; expected {what} or (height, width, channels) with 1, 3 or 4 "
            "channels" + ("" if rows else "; run_batch() takes many")
        )


class PictureRows:
    """Pictures as inputs, computed slice by slice: `rows[i:j]` is an array."""

    def __init__(self, input_: PictureInput, pixels: Sequence[Pixels] | NDArray[np.uint8]) -> None:
        self._input, self._pixels = input_, pixels
        self.dtype = input_.dtype

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, part: slice) -> NDArray[Any]:
        """Inputs `(rows, ...)`.

        Raises:
            DataError: a size that the network does not take, or sizes that differ.
        """
        rows = [self._input.apply(p) for p in self._pixels[part]]
        if len({r.shape for r in rows}) > 1:
            raise DataError(
                f"input {self._input.name!r}: pictures of several sizes, which this network does not take together; "
                "pass them one by one"
            )
        return np.stack(rows)


def plain(x: Any) -> tuple[Any, bool]:
    """An array for a torch tensor or another library's array, and whether it was a tensor; everything else unchanged.

    Tensors may need gradients, be on another device, or hold bfloat16, which becomes float32.

    Raises:
        DataError: a tensor that cannot become an array.
    """
    if isinstance(x, np.ndarray) or _is_image(x):
        return x, False
    try:
        if hasattr(x, "detach") and hasattr(x, "cpu"):
            x = x.detach().cpu()
            return np.asarray((x.float() if str(x.dtype) in ("torch.bfloat16", "torch.float16") else x).numpy()), True
        if hasattr(x, "__array__") and not isinstance(x, np.generic):
            return np.asarray(x), False
    except (TypeError, ValueError, RuntimeError, AttributeError) as e:
        raise DataError(f"a {type(x).__name__} cannot be read as an array: {e}") from e
    return x, False


def could_be(x: Any) -> bool:
    """Whether something is a picture by its type: an image, a path, or uint8 numbers."""
    return _is_image(x) or isinstance(x, str | os.PathLike) or getattr(x, "dtype", None) == np.uint8


def _is_image(x: Any) -> bool:
    return hasattr(x, "getbands") and hasattr(x, "convert") and hasattr(x, "size")


def read_file(path: str | os.PathLike[str]) -> Pixels:
    """The pixels of a picture file, as `from_image` gives them; of several frames, the first.

    Raises:
        DataError: not a readable picture of `FORMATS`, or of more than `MOST_PIXELS`.
        BackendMissing: Pillow is not installed.
    """
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such file")
    try:
        from PIL import Image
    except ImportError as e:
        raise BackendMissing(f"reading pictures needs Pillow ({e}): pip install pillow") from e
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is lower
            opened = Image.open(path, formats=[f for f in FORMATS if f in Image.OPEN])
        with opened as image:
            if image.width * image.height > MOST_PIXELS:
                raise DataError(
                    f"{path}: {image.width}x{image.height} pixels; at most {MOST_PIXELS} are read: shrink it first"
                )
            return from_image(image)
    except DataError as e:
        raise e if str(path) in str(e) else DataError(f"{path}: {e}") from e
    except Exception as e:  # damaged files: Pillow's readers raise many kinds
        raise DataError(f"{path}: not a readable picture ({', '.join(FORMATS)}): {e}") from e


def from_image(image: Any) -> Pixels:
    """Pixels `(height, width, channels)` of a Pillow image, rotated by its EXIF orientation.

    Grey, 1-bit and 16-bit images have one channel (65535 becomes 255), others three, or four with transparency.

    Raises:
        DataError: an image whose numbers have no known range, or one that cannot be decoded.
    """
    from PIL import ImageOps

    if image.width * image.height > MOST_PIXELS:
        raise DataError(f"{image.width}x{image.height} pixels; at most {MOST_PIXELS} are read: shrink it first")
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode in _WIDE or (image.mode == "I" and image.format == "PNG"):
            wide = np.asarray(image).astype(np.int64)
            return ((wide * 255 + 32767) // 65535).clip(0, 255).astype(np.uint8)[..., None]
        if image.mode in ("I", "F"):
            raise DataError(
                f"a picture of mode {image.mode}, whose numbers have no known range: save it with 8 or 16 bits, or "
                "pass the network's own numbers as an array"
            )
        if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
            image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        elif image.mode in ("1", "L"):
            image = image.convert("L")
        else:
            image = image.convert("RGB")
        pixels = np.asarray(image, np.uint8)
    except DataError:
        raise
    except Exception as e:  # damaged files: Pillow's decoders raise many kinds
        raise DataError(f"not a readable picture: {e}") from e
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _colored(pixels: Pixels, d: Preprocess) -> Pixels:
    """RGB or grey pixels without transparency; a grey picture gets its colour channels after resizing."""
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:].astype(np.int32)
        mixed = pixels[..., :3] * alpha + d.background * (255 - alpha)
        pixels = ((mixed + 127) // 255).astype(np.uint8)
    if COLORS[d.color] == 1 and pixels.shape[2] == 3:  # Pillow's weights
        wide = pixels.astype(np.int32)
        pixels = ((wide @ np.array([19595, 38470, 7471], np.int32) + 0x8000) >> 16).astype(np.uint8)[..., None]
    return pixels


def _resized(pixels: Pixels, d: Preprocess, name: str) -> Pixels:
    height, width = pixels.shape[:2]
    if not height or not width:
        raise DataError(f"input {name!r}: a picture without pixels ({height}x{width})")
    if max(height, width) > MOST_SIDE:
        raise DataError(f"input {name!r}: a picture of {height}x{width}; its sides may have {MOST_SIDE} pixels at most")
    if d.size is None:
        return pixels
    if d.resize == "none":
        if (height, width) != d.size:
            raise DataError(
                f"input {name!r}: a picture of {height}x{width}; the network takes {shown(d.size)} and its "
                "preprocessing does not resize: resize it first, or declare it, e.g. --preprocess resize=cover"
            )
        return pixels
    if d.resize == "crop":
        whole = height, width
        if height < d.size[0] or width < d.size[1]:
            raise DataError(f"input {name!r}: a picture of {height}x{width}; its centre {shown(d.size)} is cropped")
    else:
        assert d.resize_size is not None
        whole = d.resize_size
        if d.resize == "cover":  # the longer side is cut to a whole number, as torchvision does
            high, wide = d.resize_size
            taller = height * wide >= width * high
            whole = (max(wide * height // width, high), wide) if taller else (high, max(high * width // height, wide))
    top, left = (round((a - b) / 2) for a, b in zip(whole, d.size, strict=True))
    return resize(pixels, whole, d.interpolation, (top, left, *d.size))
