"""Declarations of preprocessing: what they may say, how people write them, what is read off a network's input."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from edgeexit.errors import BundleError, DataError
from edgeexit.pictures.preprocess import Preprocess, is_picture, picture_fields
from edgeexit.pictures.preprocess_text import PRESETS, parse

NCHW = ("batch", 3, 32, 32)
IMAGENET = "size=224,scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225"


def test_a_text_and_a_file_say_the_same(tmp_path: Path) -> None:
    name, fields = parse(IMAGENET)
    assert name is None
    p = picture_fields(("batch", 3, 224, 224), "float32", fields)
    assert p == Preprocess(
        (224, 224),
        "NCHW",
        "RGB",
        "cover",
        (224, 224),
        "bilinear",
        1 / 255,
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    )
    path = tmp_path / "p.json"
    path.write_text(
        json.dumps({"size": 224, "scale": "1/255", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]})
    )
    assert parse(str(path)) == (None, fields)
    path.write_text(json.dumps(p.to_dict()))
    assert picture_fields(("batch", 3, 224, 224), "float32", parse(str(path))[1]) == p
    assert Preprocess.from_dict(json.loads(json.dumps(p.to_dict()))) == p


def test_presets() -> None:
    shape = ("batch", 3, 224, 224)
    p = picture_fields(shape, "float32", parse("imagenet")[1])
    assert (p.resize, p.resize_size, p.size) == ("cover", (256, 256), (224, 224))
    assert p == picture_fields(shape, "float32", parse(f"{IMAGENET},resize_size=256")[1])
    level = {
        name: [(v * q.scale - q.mean[0]) / q.std[0] for v in (0, 255)]
        for name in ("pixels", "unit", "signed")
        for q in [picture_fields(shape, "float32", parse(name)[1])]
    }
    assert level == {"pixels": [0, 255], "unit": [0, 1], "signed": [-1, 1]}
    assert parse("imagenet,interpolation=bicubic,input=pixel_values")[0] == "pixel_values"
    assert set(PRESETS) == {"pixels", "unit", "signed", "imagenet"}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (("batch", 3, 32, 48), ("NCHW", "RGB", (32, 48), "cover")),
        ((1, 32, 48, 3), ("NHWC", "RGB", (32, 48), "cover")),
        (("n", 1, 8, 8), ("NCHW", "grey", (8, 8), "cover")),
        (("n", 28, 28), ("NHW", "grey", (28, 28), "cover")),
        (("n", 3, "height", "width"), ("NCHW", "RGB", None, "none")),
    ],
)
def test_what_a_shape_says(shape: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
    p = picture_fields(shape, "float32", {})
    assert (p.layout, p.color, p.size, p.resize) == expected
    assert is_picture(shape)


@pytest.mark.parametrize(
    ("shape", "text", "message"),
    [
        (NCHW, "size=224", "has 224, the input has 32"),
        (NCHW, "color=grey", "axis 1 of a picture in NCHW has 1, the input has 3"),
        (NCHW, "layout=NHWC", "has 3"),
        (NCHW, "mean=1:2", "mean: expected 1 or 3 numbers"),
        (NCHW, "std=0", r"std\[0\]: expected a number from"),
        (NCHW, "scale=1/0", "scale: expected a number or a fraction"),
        (NCHW, "scale=nan", "scale: expected a number from"),
        (NCHW, "mean=inf", r"mean\[0\]: expected a number from -1e\+09"),
        (NCHW, "size=0", r"size\[0\]: expected a whole number from 1"),
        (NCHW, "size=99999x99999", r"size\[0\]: expected"),
        (NCHW, "gamma=2", "no field 'gamma'; known: size"),
        (NCHW, "imagenett", "expected FIELD=VALUE or a preset"),
        (NCHW, "resize_size=16", "resize_size: 16x16 is smaller than size 32x32"),
        (NCHW, "resize=crop,resize_size=64", "resize_size: resize 'crop' has none"),
        (NCHW, "resize=letterbox", "resize: expected one of cover"),
        (NCHW, "crop=1.5", "crop: expected a number from 1e-09 to 1"),
        (NCHW, "background=300", "background: expected a whole number from 0 to 255"),
        (NCHW, "invert=perhaps", "invert: expected true or false"),
        (("n", 3, "h", "w"), "resize=cover", "needs the height and width"),
        (("n", 3, "h", "w"), "crop=0.875", "needs the height and width"),
        (("n", 3, 32, 3), "", "which axis"),
        (("n", 4, 32, 32), "layout=NCHW", "4 channels"),
        (("n", 4, 32, 32), "layout=chwn", "layout: expected one of NCHW"),
        (("n", 784), "", "is no picture"),
    ],
)
def test_refused(shape: tuple[Any, ...], text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        picture_fields(shape, "float32", parse(text)[1] if text else {})


def test_booleans_are_no_pixels() -> None:
    with pytest.raises(DataError, match="booleans"):
        picture_fields(NCHW, "bool", {})


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Preprocess)])
@pytest.mark.parametrize("value", [None, True, -1, 1e300, 10**400, "x", [], {}, [[1]], ["a"], [1] * 5000, "\x1b[2J"])
def test_hostile_fields_are_refused_in_one_line(name: str, value: Any) -> None:
    data = {**Preprocess((8, 8)).to_dict(), name: value}
    try:
        assert Preprocess.from_dict(data, "m") is not None  # some are right
    except BundleError as e:
        assert str(e).startswith("m.") and len(str(e)) < 300 and "\x1b" not in str(e)


def test_a_long_text_is_no_file() -> None:
    long = ":".join(["0.485"] * 100)
    assert len(parse(f"mean={long}")[1]["mean"]) == 100
    with pytest.raises(DataError, match="mean: expected a list of 1 to 3"):
        picture_fields(NCHW, "float32", parse(f"mean={long}")[1])


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        parse(str(tmp_path / "absent.json"))
    path = tmp_path / "p.json"
    for text, message in (
        ("[1]", "expected an object"),
        ("{", "not a valid JSON"),
        ('{"scale": true}', "scale: expected"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            parse(str(path))


def test_people_can_read_it() -> None:
    p = picture_fields(("n", 3, 224, 224), "float32", parse("imagenet")[1])
    assert str(p) == (
        "RGB NCHW, cover 256x256, crop 224x224 (bilinear), "
        "(pixel x 1/255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]"
    )
    assert str(Preprocess((8, 8), "NHW", "grey", scale=16 / 255, invert=True)) == (
        "grey NHW, cover 8x8 (bilinear), (255 - pixel) x 16/255"
    )
    assert str(Preprocess(resize="none")) == "RGB NCHW, any size, not resized, pixel"
