"""Pictures on the command line: a picture answers as the array it is made of, and nothing answers wrong in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
Image = pytest.importorskip("PIL.Image")

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "models/bundles/digits.edgeexit"
Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def ink() -> np.ndarray:
    """Test rows `(n, 8, 8)` uint8, ink 0..16."""
    with np.load(ROOT / "models/edgeexit_models/data/optdigits.npz") as z:
        return z["x_test"][:6]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The digits without a declaration, as older bundles are."""
    copy = Path(shutil.copytree(DIGITS, tmp_path / "old.edgeexit"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest.pop("preprocess")
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def forms(row: np.ndarray) -> dict[str, Any]:
    grey = Image.fromarray(np.rint(row * (255 / 16)).astype(np.uint8))
    large = grey.resize((32, 32), Image.Resampling.NEAREST)
    bits = np.zeros((32, 32), bool)
    for y in range(8):
        for x in range(8):  # as the data were made: ink counted in blocks of 4 x 4
            bits[4 * y : 4 * y + 4, 4 * x : 4 * x + 4].flat[: row[y, x]] = True
    block = np.arange(16).reshape(4, 4)
    bits = np.kron(row, np.ones((4, 4), int)) > np.tile(block, (8, 8))
    return {
        "8x8 grey": grey,
        "32x32 RGB": large.convert("RGB"),
        "RGBA": large.convert("RGBA"),
        "palette": grey.convert("P"),
        "few colours": large.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=17),
        "16 bits": Image.fromarray((row * (65535 / 16)).astype(np.uint16)),
        "1 bit": Image.fromarray(bits),
        "200x120": grey.resize((200, 120), Image.Resampling.BILINEAR),
    }


def test_a_picture_answers_as_its_array(cli: Cli, ink: np.ndarray, tmp_path: Path) -> None:
    for k, row in enumerate(ink):
        array = tmp_path / "x.npy"
        np.save(array, row[None].astype(np.float32))
        expected = cli("run", DIGITS, "--input", array, "--json")
        assert expected.err == "" and expected.json["name"] == str(expected.json["label"])
        for what, picture in forms(row).items() if k == 0 else list(forms(row).items())[1:3]:
            path = tmp_path / "p.png"
            picture.save(path)
            found = cli("run", DIGITS, "--input", path, "--json")
            assert found.err == "", what
            assert found.json["label"] == expected.json["label"], what
            assert found.json["exit"] == expected.json["exit"] or what == "200x120", what
            if what not in ("200x120", "palette"):
                np.testing.assert_allclose(found.json["output"], expected.json["output"], atol=0.1, err_msg=what)


def test_inspect_shows_it(cli: Cli) -> None:
    found = cli("inspect", DIGITS)
    assert "pictures become 'image': grey NCHW, stretch 8x8 (box), pixel x 16/255\n" in found.out
    assert "'image' on 1000 calibration rows: 0 to 16, mean 4.9" in found.out
    document = cli("inspect", DIGITS, "--json").json
    assert document["preprocess"]["image"]["interpolation"] == "box" and document["ranges"]["image"]["high"] == 16


def test_pixels_without_a_declaration(cli: Cli, bare: Path, ink: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    forms(ink[0])["8x8 grey"].save(path)
    refused = cli("run", bare, "--input", path)
    assert refused.code == 1 and "declares no preprocessing" in refused.error
    assert "from 0 to 239; on 1000 calibration rows they are from 0 to 16" in refused.error
    for option in (("--scale", 16 / 255), ("--preprocess", "scale=16/255")):
        found = cli("run", bare, "--input", path, *option)
        assert found.code == 0 and found.err == "" and found.out.startswith("0  exit")
    manifest = json.loads((bare / "manifest.json").read_text())
    manifest.pop("ranges")
    (bare / "manifest.json").write_text(json.dumps(manifest))
    warned = cli("run", bare, "--input", path)
    assert warned.code == 0 and "warning: the bundle declares no preprocessing, so pixels pass as 0..255" in warned.err
    large = tmp_path / "l.png"
    forms(ink[0])["32x32 RGB"].save(large)
    assert "a picture of 32x32; the network takes 8x8" in cli("run", bare, "--input", large, "--scale", 16 / 255).error
    assert cli("run", bare, "--input", large, "--preprocess", "scale=16/255,interpolation=box").out.startswith(
        "0  exit"
    )


def test_an_unusual_input_is_warned_of(cli: Cli, ink: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    for row, message in (
        (ink[0] * 16.0, "its numbers are from 0 to 240; on 1000 calibration rows they are from 0 to 16"),
        (ink[0] / 16.0, "its numbers are from 0 to 0.9375; "),
        (16.0 - ink[0], "(dark and light inverted?)"),
    ):
        np.save(path, row[None].astype(np.float32))
        found = cli("run", DIGITS, "--input", path)
        assert found.code == 0 and found.err.startswith("warning: ") and message in found.err
        assert found.err.count("\n") == 1
        assert message in cli("run", DIGITS, "--input", path, "--json").json["unusual"]
    inverted = tmp_path / "p.png"
    Image.fromarray(255 - np.rint(ink[0] * (255 / 16)).astype(np.uint8)).save(inverted)
    assert "(dark and light inverted?)" in cli("run", DIGITS, "--input", inverted).err
    declared = "scale=16/255,interpolation=box,resize=stretch,invert"
    assert cli("run", DIGITS, "--input", inverted, "--preprocess", declared).err == ""


def test_uint8_rows_are_pictures(cli: Cli, ink: np.ndarray, tmp_path: Path) -> None:
    pixels = np.rint(ink * (255 / 16)).astype(np.uint8)
    expected = [cli("run", DIGITS, "--input", _saved(tmp_path, r[None].astype(np.float32)), "--json").json for r in ink]
    path = tmp_path / "p.npy"
    for shape in ((-1, 8, 8), (-1, 8, 8, 1), (-1, 1, 8, 8)):
        np.save(path, pixels.reshape(shape))
        for k in (0, 5):
            found = cli("run", DIGITS, "--input", path, "--row", k, "--json")
            assert found.err == "" and found.json["label"] == expected[k]["label"]
    np.save(path, pixels[0])
    assert cli("run", DIGITS, "--input", path, "--json").json["label"] == expected[0]["label"]
    np.save(path, pixels[0][..., None].repeat(3, 2))
    assert cli("run", DIGITS, "--input", path, "--json").json["label"] == expected[0]["label"]
    assert (
        "no row 0" in cli("run", DIGITS, "--input", path, "--row", 0).error
    )  # one picture, whose rows are no pictures
    for row in (ink[0], ink[0][None]):  # the network's own numbers, stored as uint8: neither guessed nor wrong
        np.save(path, row)
        assert (
            "if they are the network's own numbers, save them as float32" in cli("run", DIGITS, "--input", path).error
        )


def _saved(folder: Path, array: np.ndarray) -> Path:
    np.save(folder / "x.npy", array)
    return folder / "x.npy"


def test_calibrate_on_pictures(cli: Cli, tmp_path: Path) -> None:
    with np.load(ROOT / "models/edgeexit_models/data/optdigits.npz") as z:
        x, y = z["x_test"][:200], z["y_test"][:200]
    copies = [Path(shutil.copytree(DIGITS, tmp_path / f"{name}.edgeexit")) for name in ("numbers", "pictures")]
    pixels = np.rint(x * (255 / 16)).astype(np.uint8)
    points = []
    for copy, rows in zip(copies, (x[:, None].astype(np.float32), pixels), strict=True):
        np.savez(tmp_path / "d.npz", x=rows, y=y)
        points.append(cli("calibrate", copy, "--data", tmp_path / "d.npz", "--accuracy-drop", 0.05, "--json").json)
    assert points[0]["expected"]["exit_rates"] == pytest.approx(points[1]["expected"]["exit_rates"], abs=0.03)
    ranges = [json.loads((c / "manifest.json").read_text())["ranges"]["image"] for c in copies]
    assert ranges[0]["rows"] == ranges[1]["rows"] == 200
    assert ranges[1]["mean"] == pytest.approx(ranges[0]["mean"], abs=0.05)
    np.savez(tmp_path / "d.npz", x=x, y=y)  # its own numbers as uint8
    refused = cli("calibrate", copies[0], "--data", tmp_path / "d.npz", "--accuracy-drop", 0.05)
    assert "'image' is uint8, which is read as pictures 0..255" in refused.error


def test_run_reads_a_preprocessor_config(cli: Cli, ink: np.ndarray, tmp_path: Path) -> None:
    document = {"do_normalize": False, "rescale_factor": 16 / 255, "size": {"height": 8, "width": 8}, "resample": 4}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(document))
    forms(ink[0])["32x32 RGB"].save(tmp_path / "p.png")
    declared = tmp_path / "preprocessor_config.json"
    found = cli("run", DIGITS, "--input", tmp_path / "p.png", "--preprocess", declared)
    assert found.err == "" and found.out.startswith("0  exit")


def test_pictures_that_are_none(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"hello")
    assert "not a readable picture" in cli("run", DIGITS, "--input", path).error
    forms(np.zeros((8, 8), np.uint8))["8x8 grey"].save(path)
    assert "which is no picture" in cli("run", tiny, "--input", path).error
    assert "no field 'gamma'" in cli("run", DIGITS, "--input", path, "--preprocess", "gamma=2").error
    assert "has 9, the input has 8" in cli("run", DIGITS, "--input", path, "--preprocess", "size=9").error


def test_export_takes_it(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("onnx_ir")
    source = DIGITS / "artifacts/onnx-all-fp32/model.onnx"
    out = tmp_path / "d.edgeexit"
    exits = [e["outputs"][0]["name"] for e in json.loads((DIGITS / "manifest.json").read_text())["exits"]]
    options = ("--exits", ",".join(exits), "--layouts", "fused", "--out", out)
    found = cli(
        "export", source, *options, "--preprocess", "scale=16/255,interpolation=box,resize=stretch,background=0"
    )
    assert found.code == 0, found.err
    shipped = json.loads((DIGITS / "manifest.json").read_text())["preprocess"]
    assert json.loads((out / "manifest.json").read_text())["preprocess"] == shipped
    assert (
        "expected FIELD=VALUE or a preset" in cli("export", source, *options, "--overwrite", "--preprocess", "x").error
    )
    assert cli("export", source, *options, "--overwrite").code == 0
    assert "preprocess" not in json.loads((out / "manifest.json").read_text())
