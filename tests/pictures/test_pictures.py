"""Pictures as inputs: whatever form a picture comes in, the network gets the same numbers."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.engine.inputs import InputCheck
from edgeexit.errors import DataError
from edgeexit.pictures.convert import MOST_PIXELS, PictureInput, from_image, read_file
from edgeexit.pictures.preprocess import Preprocess

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)
GREY = RNG.integers(0, 256, (20, 30)).astype(np.uint8)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
CHW = Preprocess((20, 30), scale=1 / 255, mean=MEAN, std=STD)
EXPECTED = ((RGB / 255 - MEAN) / STD).astype(np.float32)
"""`(height, width, channels)`"""


def reader(p: Preprocess, dtype: str = "float32") -> PictureInput:
    return PictureInput("x", p, ("batch", *p.shape(p.size or (20, 30))), dtype)


def image() -> Any:
    return pytest.importorskip("PIL.Image")


def test_numbers_and_layouts() -> None:
    np.testing.assert_array_equal(reader(CHW).one(RGB), EXPECTED.transpose(2, 0, 1)[None])
    nhwc = Preprocess((20, 30), "NHWC", scale=1 / 255, mean=MEAN, std=STD)
    np.testing.assert_array_equal(reader(nhwc).one(RGB), EXPECTED[None])
    bgr = Preprocess((20, 30), "NHWC", "BGR", scale=1 / 255, mean=MEAN[::-1], std=STD[::-1])
    np.testing.assert_array_equal(reader(bgr).one(RGB), EXPECTED[None, ..., ::-1])
    grey = reader(Preprocess((20, 30), "NHW", "grey")).one(GREY)
    assert grey is not None and grey.dtype == np.float32
    np.testing.assert_array_equal(grey[0], GREY)
    inverted = reader(Preprocess((20, 30), "NHW", "grey", invert=True, scale=1 / 255)).one(GREY)
    np.testing.assert_allclose(inverted[0], (255.0 - GREY) / 255, rtol=1e-6)


def test_every_way_to_pass_a_picture() -> None:
    expected = reader(CHW).one(RGB)
    alpha = np.dstack([RGB, np.full((20, 30), 255, np.uint8)])
    chw = np.ascontiguousarray(RGB.transpose(2, 0, 1))
    for x in (RGB, RGB[None], chw, chw[None], alpha, alpha.transpose(2, 0, 1), RGB[:, ::-1][:, ::-1]):
        np.testing.assert_array_equal(reader(CHW).one(x), expected)
    repeated = np.repeat(GREY[..., None], 3, 2)
    for x in (GREY, GREY[..., None], GREY[None], repeated):
        np.testing.assert_array_equal(reader(CHW).one(x), reader(CHW).one(repeated))
    Image = image()
    for picture in (Image.fromarray(RGB), Image.fromarray(alpha)):
        np.testing.assert_array_equal(reader(CHW).one(picture), expected)


class Foreign:
    """Another library's array."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.array


def test_arrays_of_other_libraries() -> None:
    check = InputCheck([TensorSpec("x", "float32", ("batch", 3, 20, 30))], preprocess={"x": CHW})
    expected = check.one(RGB)[0]
    np.testing.assert_array_equal(check.one(Foreign(RGB))[0], expected)
    np.testing.assert_array_equal(check.one(Foreign(expected))[0], expected)
    np.testing.assert_array_equal(check.many(Foreign(expected))[0], expected)


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    check = InputCheck([TensorSpec("x", "float32", ("batch", 3, 20, 30))], preprocess={"x": CHW})
    expected = check.one(RGB)[0]
    chw = torch.from_numpy(RGB.transpose(2, 0, 1).copy())
    np.testing.assert_array_equal(check.one(chw)[0], expected)
    np.testing.assert_array_equal(check.one(torch.from_numpy(RGB))[0], expected)
    own = torch.from_numpy(expected).requires_grad_()
    np.testing.assert_array_equal(check.one(own)[0], expected)  # the network's own numbers, as they are
    half = check.one(own.to(torch.bfloat16))[0]
    assert half.dtype == np.float32 and np.abs(half - expected).max() < 0.02
    small = torch.randint(
        0, 255, (3, 20, 3), dtype=torch.uint8
    )  # both ends could be channels: a tensor begins with them
    np.testing.assert_array_equal(
        reader(Preprocess((20, 3))).one(small), reader(Preprocess((20, 3))).one(small.numpy().transpose(1, 2, 0))
    )
    plain = InputCheck([TensorSpec("x", "float32", ("batch", 4))])  # tensors need no preprocessing
    np.testing.assert_array_equal(plain.one(torch.ones(4, dtype=torch.bfloat16))[0], np.ones((1, 4), np.float32))
    np.testing.assert_array_equal(plain.many(torch.ones(3, 4))[0], np.ones((3, 4), np.float32))


def test_where_both_ends_could_be_channels_the_own_shape_decides() -> None:
    pixels = RNG.integers(0, 256, (3, 4, 3)).astype(np.uint8)
    own = reader(Preprocess((4, 3)))
    np.testing.assert_array_equal(own.one(pixels)[0], pixels)  # (3, 4, 3) is exactly the network's shape
    other = reader(Preprocess((3, 4)))
    np.testing.assert_array_equal(other.one(pixels)[0], pixels.transpose(2, 0, 1))


def test_float_arrays_are_the_networks_own() -> None:
    check = InputCheck([TensorSpec("x", "float32", ("batch", 3, 20, 30))], preprocess={"x": CHW})
    own = RNG.random((1, 3, 20, 30)).astype(np.float32)
    assert check.one(own)[0] is own
    with pytest.raises(DataError, match="is float64; the model takes float32"):
        check.one(own.astype(np.float64))
    with pytest.raises(DataError, match=r"shape \(1, 20, 30, 3\)"):
        check.one(own.transpose(0, 2, 3, 1))


def test_networks_that_take_uint8() -> None:
    p = Preprocess((20, 30), "NHWC", scale=0.5, mean=(10.0,))
    check = InputCheck([TensorSpec("x", "uint8", ("batch", 20, 30, 3))], preprocess={"x": p})
    np.testing.assert_array_equal(check.one(RGB)[0][0], RGB)  # its own shape: as it is
    chw = np.ascontiguousarray(RGB.transpose(2, 0, 1))
    expected = np.clip(np.rint(RGB * 0.5 - 10), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(check.one(chw)[0][0], expected)  # another: a picture
    signed = InputCheck(
        [TensorSpec("x", "int8", (1, 20, 30, 3))], preprocess={"x": Preprocess((20, 30), "NHWC", mean=(128.0,))}
    )
    np.testing.assert_array_equal(signed.one(RGB)[0][0], (RGB.astype(int) - 128).astype(np.int8))
    np.testing.assert_array_equal(signed.one(signed.one(RGB)[0])[0], signed.one(RGB)[0])


def test_many() -> None:
    check = InputCheck([TensorSpec("x", "float32", ("batch", 3, 10, 10))], preprocess={"x": Preprocess((10, 10))})
    batch = RNG.integers(0, 256, (5, 20, 30, 3)).astype(np.uint8)
    each = np.concatenate([check.one(p)[0] for p in batch])
    np.testing.assert_array_equal(check.many(batch)[0], each)
    np.testing.assert_array_equal(check.many(batch.transpose(0, 3, 1, 2))[0], each)
    Image = image()
    mixed = [Image.fromarray(batch[0]), batch[1], batch[2].transpose(2, 0, 1), batch[3], Image.fromarray(batch[4])]
    np.testing.assert_array_equal(check.many(mixed)[0], each)
    rows = check.rows(batch)[0]
    assert len(rows) == 5
    np.testing.assert_array_equal(rows[1:3], each[1:3])  # computed when it is asked for
    for x, message in (
        (RGB[..., 0], "is uint8"),
        ([np.ones((3, 3))], "a list of pictures holds float64"),
        ([], "is a list"),
        (batch[:0], "0"),
    ):
        with pytest.raises(DataError, match=message):
            check.many(x)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 20, 30, 3), np.uint8), r"holds 2 pictures; run\(\) takes one"),
        (np.zeros((20, 30, 2), np.uint8), "with 1, 3 or 4 channels"),
        (np.zeros((5,), np.uint8), "expected a picture"),
        (np.zeros((0, 30, 3), np.uint8), "without pixels"),
        (np.zeros((20, 30), np.uint16), "is uint16"),
        (np.zeros((20, 30), bool), "is bool"),
        ("absent.png", "absent.png: no such file"),
        (None, "is a NoneType"),
        (7, "is a int"),
    ],
)
def test_refused(x: Any, message: str) -> None:
    check = InputCheck([TensorSpec("x", "float32", ("batch", 3, 20, 30))], preprocess={"x": CHW})
    with pytest.raises(DataError, match=message):
        check.one(x)


def test_pictures_without_a_declaration_are_refused() -> None:
    check = InputCheck([TensorSpec("x", "float32", ("batch", 3, 20, 30))])
    with pytest.raises(DataError, match=r"float32: convert with .*, or declare with --preprocess"):
        check.one(RGB)
    with pytest.raises(DataError, match="does not declare how one becomes float32"):
        check.one("some.png")
    with pytest.raises(DataError, match="does not declare how one becomes float32"):
        check.one(image().fromarray(RGB))


def test_resize_and_crop() -> None:
    Image = image()
    picture = Image.fromarray(RNG.integers(0, 256, (61, 87, 3)).astype(np.uint8))
    pixels = np.asarray(picture)

    def found(p: Preprocess, x: Any = picture) -> np.ndarray:
        array = reader(p).one(x)
        assert array is not None
        return array[0].transpose(1, 2, 0).astype(np.uint8)

    def close(a: np.ndarray, b: np.ndarray) -> bool:
        return a.shape == b.shape and int(np.abs(a.astype(int) - b).max()) <= 1

    # torchvision's Resize(32), CenterCrop(28): the shorter side, the longer one cut to a whole number
    whole = np.asarray(picture.resize((int(32 * 87 / 61), 32), Image.Resampling.BILINEAR))
    left = round((whole.shape[1] - 28) / 2)
    assert close(found(Preprocess((28, 28), resize_size=(32, 32))), whole[2:30, left : left + 28])
    assert close(found(Preprocess((28, 20), resize="stretch")), np.asarray(picture.resize((20, 28), 2)))
    tall = picture.transpose(Image.Transpose.ROTATE_90)
    whole = np.asarray(tall.resize((32, int(32 * 87 / 61)), Image.Resampling.BILINEAR))
    assert close(found(Preprocess((32, 32)), tall), whole[6:38])
    np.testing.assert_array_equal(found(Preprocess((21, 27), resize="crop")), pixels[20:41, 30:57])
    np.testing.assert_array_equal(found(Preprocess((61, 87), resize="none")), pixels)
    with pytest.raises(
        DataError, match="a picture of 61x87; the network takes 60x60 and its preprocessing does not resize"
    ):
        found(Preprocess((60, 60), resize="none"))
    with pytest.raises(DataError, match="centre 62x62 is cropped"):
        found(Preprocess((62, 62), resize="crop"))
    anything = PictureInput("x", Preprocess(resize="none"), ("n", 3, "h", "w"), "float32").one(pixels)
    assert anything is not None and anything.shape == (1, 3, 61, 87)


def test_colours() -> None:
    Image = image()
    grey = reader(Preprocess((20, 30), "NHW", "grey"))
    np.testing.assert_array_equal(grey.one(RGB)[0], np.asarray(Image.fromarray(RGB).convert("L")))
    pixels = np.dstack([RGB, RNG.integers(0, 256, (20, 30)).astype(np.uint8)])
    for level in (0, 255):
        base = Image.new("RGBA", (30, 20), (level, level, level, 255))
        expected = np.asarray(Image.alpha_composite(base, Image.fromarray(pixels)).convert("RGB"))
        found = reader(Preprocess((20, 30), background=level)).one(pixels)
        assert np.abs(found[0].transpose(1, 2, 0) - expected).max() <= 1


def modes() -> dict[str, Any]:
    """One picture in all modes of Pillow that hold it."""
    Image = image()
    base = Image.fromarray(GREY // 16 * 17)
    found = {m: base.convert(m) for m in ("L", "RGB", "RGBA", "LA", "P", "CMYK")}
    found["palette of few colours"] = base.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    found["16 bits"] = Image.fromarray((GREY // 16 * 17).astype(np.uint16) * 257)
    return found


@pytest.mark.parametrize("form", ["PNG", "TIFF", "memory"])
def test_modes(form: str, tmp_path: Path) -> None:
    expected = GREY // 16 * 17
    for mode, picture in modes().items():
        if mode == "CMYK" and form == "PNG":
            continue
        path = tmp_path / f"x.{form.lower()}"
        if form != "memory":
            picture.save(path, form)
        pixels = from_image(picture) if form == "memory" else read_file(path)
        found = reader(Preprocess((20, 30), "NHW", "grey")).one(pixels)
        assert np.abs(found[0] - expected).max() <= 1, mode


def test_one_bit_and_transparency(tmp_path: Path) -> None:
    Image = image()
    bits = RNG.random((20, 30)) < 0.5
    Image.fromarray(bits).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_file(tmp_path / "x.png")[..., 0], bits * 255)
    Image.fromarray(GREY // 64).save(tmp_path / "x.png", transparency=3)  # grey with one transparent level
    pixels = read_file(tmp_path / "x.png")
    assert pixels.shape == (20, 30, 4)
    np.testing.assert_array_equal(pixels[..., 3] == 0, GREY // 64 == 3)
    for mode in ("I", "F"):
        with pytest.raises(DataError, match=f"mode {mode}, whose numbers have no known range"):
            from_image(Image.fromarray(GREY.astype({"I": np.int32, "F": np.float32}[mode])))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, tmp_path: Path) -> None:
    Image = image()
    picture = Image.fromarray(RGB)
    exif = picture.getexif()
    exif[0x0112] = orientation
    turn = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }[orientation]  # fmt: skip
    picture.save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(read_file(tmp_path / "x.png"), turn(RGB))


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_files_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    Image = image()
    good = io.BytesIO()
    Image.fromarray(RGB).save(good, "PNG")
    cases = {
        "text": (b"hello", "not a readable picture"),
        "empty": (b"", "not a readable picture"),
        "cut off": (good.getvalue()[:200], "not a readable picture"),
        "huge": (png(10_000, 10_000), f"10000x10000 pixels; at most {MOST_PIXELS} are read"),
        "absurd": (png(1 << 30, 1 << 30), "not a readable picture"),
        "nothing inside": (png(40, 40), "not a readable picture"),
        "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a readable picture"),
    }
    path = tmp_path / "x.png"
    for what, (data, message) in cases.items():
        path.write_bytes(data)
        with pytest.raises(DataError, match=message) as caught:
            read_file(path)
        assert str(path) in str(caught.value), what
    rng = np.random.default_rng(1)
    for _ in range(200):  # damaged anywhere: read, or refused in one way
        damaged = bytearray(good.getvalue())
        for place in rng.integers(0, len(damaged), 3):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            assert read_file(path).dtype == np.uint8
        except DataError as e:
            assert str(path) in str(e)


def test_long_and_thin(tmp_path: Path) -> None:
    thin = np.zeros((60_000, 1, 1), np.uint8)
    found = reader(Preprocess((8, 8), "NHW", "grey")).one(thin[..., 0])
    assert found is not None and found.shape == (1, 8, 8)
    with pytest.raises(DataError, match="its sides may have 65536 pixels at most"):
        reader(Preprocess((8, 8), "NHW", "grey")).one(np.zeros((70_000, 1), np.uint8))
