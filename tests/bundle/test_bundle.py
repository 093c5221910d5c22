"""Opening bundles that are whole, damaged or hostile."""

from __future__ import annotations

import gc
import io
import json
import os
import random
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeexit.bundle.archives import MAX_ZIP_ENTRIES
from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.files import describe
from edgeexit.common import files
from edgeexit.errors import BundleError, DataError, EdgeExitError, PolicyError

MODEL = "artifacts/onnx-fused-fp32/model.onnx"


def rewrite(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = bundle / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def replace_file(bundle: Path, path: str, data: bytes) -> None:
    """Put other bytes there, and make the manifest say so: what a forger would do."""
    (bundle / path).write_bytes(data)
    spec = describe(path, data)
    text = (bundle / "manifest.json").read_text()
    document = json.loads(text)

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if value.get("path") == path:
                value.update(sha256=spec.sha256, bytes=spec.bytes)
            value = list(value.values())
        if isinstance(value, list):
            for v in value:
                walk(v)

    walk(document)
    (bundle / "manifest.json").write_text(json.dumps(document))


def refused(path: Path, message: str) -> None:
    with pytest.raises(BundleError, match=message) as e:
        Bundle.open(path)
    assert str(path) in str(e.value)  # says which file


def test_opens(tiny: Path) -> None:
    found = Bundle.open(tiny)
    assert found.path == tiny
    assert [a.layout for a in found.manifest.artifacts] == ["fused", "chain", "prefix", "all"]
    assert found.operating_point("half-fused").artifact == "onnx-fused-fp32"
    assert Bundle.open(str(tiny)).manifest == found.manifest


def test_missing(tmp_path: Path) -> None:
    refused(tmp_path / "none", "no such bundle")
    refused(tmp_path / ("n" * 5000), "cannot be read")
    refused(tmp_path, "has no manifest.json")


def test_not_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("hello")
    refused(path, "not a bundle folder nor a readable .zip")


def test_truncated(copy: Path) -> None:
    data = (copy / MODEL).read_bytes()
    (copy / MODEL).write_bytes(data[:-1])
    refused(copy, f"{MODEL} has {len(data) - 1} bytes, the manifest says {len(data)}: truncated")


def test_changed_byte(copy: Path) -> None:
    data = bytearray((copy / MODEL).read_bytes())
    data[100] ^= 1
    (copy / MODEL).write_bytes(data)
    refused(copy, f"{MODEL} was changed")


@pytest.mark.parametrize("replacement", ["nothing", "folder"])
def test_missing_file(copy: Path, replacement: str) -> None:
    (copy / MODEL).unlink()
    if replacement == "folder":
        (copy / MODEL).mkdir()
    refused(copy, f"{MODEL} is missing")


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_unknown_schema(copy: Path, schema: Any) -> None:
    rewrite(copy, lambda m: m.update(schema=schema))
    refused(copy, "bundle schema .*; this version of EdgeExit knows 1")


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../outside", "..\\outside"])
def test_files_outside(copy: Path, path: str) -> None:
    (copy.parent / "outside").write_bytes(b"secret")
    secret = describe("x", b"secret")
    spec = {"path": path, "sha256": secret.sha256, "bytes": secret.bytes}
    rewrite(copy, lambda m: m["policies"].update(stolen=spec))
    refused(copy, "confined to the bundle")


@pytest.mark.parametrize("what", ["file", "folder", "manifest.json"])
def test_symbolic_link(copy: Path, what: str) -> None:
    inside = {"file": MODEL, "folder": "artifacts", "manifest.json": "manifest.json"}[what]
    shutil.move(copy / inside, copy.parent / "elsewhere")
    (copy / inside).symlink_to(copy.parent / "elsewhere")
    refused(copy, "symbolic link")


JSON: dict[str, tuple[bytes, str]] = {
    "NaN": (b'{"a": NaN}', "NaN is not JSON"),
    "Infinity": (b'{"a": -Infinity}', "-Infinity is not JSON"),
    "beyond float64": (b'{"a": 1e999}', "too large"),
    "key twice": (b'{"format": "edgeexit", "format": "edgeexit"}', "a key stands twice"),
    "too large": (b'{"a": "' + b"x" * files.MAX_JSON_BYTES + b'"}', "bytes of JSON, at most 4194304"),
    "deep": (b"[" * 100 + b"]" * 100, "deeper than 64"),
    "very deep": (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, "not a valid JSON document"),
    "digits": (b'{"schema": ' + b"9" * 5000 + b"}", "not a valid JSON document"),
    "empty": (b"", "not a valid JSON document"),
    "half": (b'{"format": "edgeexit"', "not a valid JSON document"),
    "UTF-16": ('{"format": "edgeexit"}'.encode("utf-16"), "not a valid JSON document"),
    "byte order mark": (b'\xef\xbb\xbf{"format": "edgeexit"}', "not a valid JSON document"),
    "half a surrogate pair": (b'{"a": "\\ud800"}', "not a valid JSON document"),
    "a list": (b"[]", "expected an object, found list"),
    "null": (b"null", "expected an object, found NoneType"),
    "another object": (b"{}", "'edgeexit'"),
}


@pytest.mark.parametrize("case", JSON)
def test_json(copy: Path, case: str) -> None:
    raw, message = JSON[case]
    (copy / "manifest.json").write_bytes(raw)
    refused(copy, message)


def test_depth_is_counted_as_documented(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for depth, fine in ((files.MAX_JSON_DEPTH - 1, True), (files.MAX_JSON_DEPTH + 1, False)):
        path.write_text("[" * depth + "]" * depth)
        if fine:
            files.read_json(path)
        else:
            with pytest.raises(BundleError, match="deeper"):
                files.read_json(path)


def npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


NPZ: dict[str, tuple[bytes, str]] = {
    "objects": (npz(scores=np.array([{"a": 1}], object)), "object arrays, which need pickle"),
    "not a zip": (b"hello", "not a plain .npz"),
    "empty": (b"", "not a plain .npz"),
    "truncated": (npz(a=np.arange(1000))[:-30], "not a plain .npz"),
    "complex": (npz(a=np.zeros(3, complex)), "not an array of numbers"),
    "records": (npz(a=np.zeros(3, [("x", "f4")])), "not an array of numbers"),
}


@pytest.mark.parametrize("case", NPZ)
def test_npz(copy: Path, case: str) -> None:
    raw, message = NPZ[case]
    replace_file(copy, "calibration/onnx-fused-fp32.npz", raw)
    bundle = Bundle.open(copy)  # the bytes are the manifest's; what is in them is looked at when it is needed
    spec = bundle.manifest.artifact("onnx-fused-fp32").calibration
    assert spec is not None
    with pytest.raises(BundleError, match=message):
        bundle.arrays(spec)
    path = copy / spec.path
    with pytest.raises(DataError, match=message):
        files.read_npz(path)


def test_npz_that_claims_much(tmp_path: Path) -> None:
    path = tmp_path / "big.npz"
    np.savez_compressed(path, a=np.zeros(1 << 20))
    assert path.stat().st_size < 1 << 16
    with pytest.raises(DataError, match=r"unpacks to 8388\d+ bytes, at most 1000000"):
        files.read_npz(path, limit=1_000_000)
    assert files.read_npz(path)["a"].shape == (1 << 20,)


def test_npz_member_that_claims_a_huge_shape(tmp_path: Path) -> None:
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)})
    path = tmp_path / "lie.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", member.getvalue())
    with pytest.raises(DataError, match="not a plain"):
        files.read_npz(path)


def test_npz_fuzz(tmp_path: Path) -> None:
    raw = npz(x=np.arange(40, dtype=np.float32).reshape(10, 4), y=np.arange(10))
    compressed = io.BytesIO()
    np.savez_compressed(compressed, x=np.arange(40.0))
    rng = random.Random(2)
    path, fine = tmp_path / "x.npz", 0
    for i in range(500):
        data = bytearray((raw, compressed.getvalue())[i % 2])
        for _ in range(rng.choice((1, 2, 8))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data[: rng.randrange(len(data))] if rng.random() < 0.2 else data)
        try:
            files.read_npz(path)
            fine += 1
        except DataError as e:
            assert str(path) in str(e)
    assert fine < 400


# --- zip ---------------------------------------------------------------------------------------------------


def zipped(folder: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for f in sorted(folder.rglob("*")):
            archive.write(f, prefix + f.relative_to(folder).as_posix())
    return path


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where zip bundles are unpacked; must be empty again when they are gone."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("prefix", ["", "tiny.edgeexit/"])
def test_zip(tiny: Path, tmp_path: Path, temporary: Path, prefix: str) -> None:
    path = zipped(tiny, tmp_path / "tiny.zip", prefix)
    bundle = Bundle.open(path)
    assert bundle.manifest == Bundle.open(tiny).manifest
    assert (bundle.path / MODEL).read_bytes() == (tiny / MODEL).read_bytes()
    with pytest.raises(BundleError, match=r"\.zip bundle cannot be changed"):
        bundle.with_operating_point(bundle.operating_point("half-fused"))
    assert list(temporary.iterdir())
    del bundle
    gc.collect()
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "..\\x", "C:/x"])
def test_zip_slip(tiny: Path, tmp_path: Path, temporary: Path, name: str) -> None:
    path = zipped(tiny, tmp_path / "slip.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), "slipped")
    before = sorted(tmp_path.rglob("*"))
    refused(path, "would leave the bundle")
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/x").exists()


def test_zip_link_is_a_plain_file(copy: Path, tmp_path: Path, temporary: Path) -> None:
    (copy / MODEL).unlink()
    path = zipped(copy, tmp_path / "link.zip")
    entry = zipfile.ZipInfo(MODEL)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, "/etc/passwd")
    refused(path, "has 11 bytes")
    assert not list(temporary.iterdir())


def test_zip_bomb(tiny: Path, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tiny, tmp_path / "bomb.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10_000_000))
    monkeypatch.setattr("edgeexit.bundle.archives.MAX_FILE_BYTES", 5_000_000)
    refused(path, "too many or too large")
    assert not list(temporary.iterdir())


def test_zip_that_claims_less(tiny: Path, tmp_path: Path, temporary: Path) -> None:
    path = zipped(tiny, tmp_path / "claims.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10_000_000))
    # the size stands in the central directory and in the entry's own header
    path.write_bytes(path.read_bytes().replace((10_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    refused(path, "not a bundle folder nor a readable|more than it declares")
    assert not list(temporary.iterdir())


def test_zip_with_too_many_entries(tmp_path: Path, temporary: Path) -> None:
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(MAX_ZIP_ENTRIES + 1):
            archive.writestr(f"f{i}", "")
    refused(path, "too many")


def test_zip_without_a_manifest(tmp_path: Path, temporary: Path) -> None:
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/readme", "hello")
        archive.writestr("b/readme", "hello")
    refused(path, "has no manifest.json")
    assert not list(temporary.iterdir())


def test_truncated_and_damaged_zip(tiny: Path, tmp_path: Path, temporary: Path) -> None:
    raw = zipped(tiny, tmp_path / "whole.zip").read_bytes()
    path = tmp_path / "damaged.zip"
    rng = random.Random(3)
    outcomes = []
    for i in range(120):
        data = bytearray(raw)
        if i % 3 == 0:
            del data[rng.randrange(len(data)) :]
        else:
            for _ in range(rng.choice((1, 3, 20))):
                data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        outcomes.append(opened(path))
        gc.collect(0)
    assert outcomes.count(False) > 60
    gc.collect()
    assert not list(temporary.iterdir())


# --- damage ------------------------------------------------------------------------------------------------


def opened(path: Path) -> bool:
    """Whether it opens; anything but BundleError comes through and fails the test."""
    try:
        bundle = Bundle.open(path)
    except BundleError:
        return False
    for name in bundle.manifest.policies:
        try:
            bundle.operating_point(name)
        except EdgeExitError:
            return False
    return True


def test_flipped_bytes_in_the_manifest(copy: Path) -> None:
    path = copy / "manifest.json"
    raw = path.read_bytes()
    rng = random.Random(4)
    outcomes = []
    for _ in range(600):
        data = bytearray(raw)
        for _ in range(rng.choice((1, 1, 2, 5))):
            data[rng.randrange(len(data))] = rng.choice((rng.randrange(256), *b'{}[]",:0189\\'))
        path.write_bytes(data)
        outcomes.append(opened(copy))
    # a changed blank, label or MAC count opens: the manifest itself is not hashed
    assert 250 < outcomes.count(False) < 600


def test_truncated_anywhere(copy: Path) -> None:
    rng = random.Random(5)
    every = [copy / "manifest.json", *(copy / f.path for f in Bundle.open(copy).manifest.files)]
    for path in every:
        raw = path.read_bytes()
        for size in {0, 1, len(raw) - 2, *(rng.randrange(len(raw) - 1) for _ in range(5))}:
            path.write_bytes(raw[:size])
            assert not opened(copy), (path, size)
        path.write_bytes(raw)
    assert opened(copy)


def test_flipped_bytes_anywhere_else(tiny: Path, copy: Path) -> None:
    rng = random.Random(6)
    for spec in Bundle.open(copy).manifest.files:
        raw = bytearray((copy / spec.path).read_bytes())
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        (copy / spec.path).write_bytes(raw)
        refused(copy, "was changed")
        shutil.copyfile(tiny / spec.path, copy / spec.path)


# --- operating points ---------------------------------------------------------------------------------------

POINTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no schema": lambda p: p.pop("schema"),
    "schema 2": lambda p: p.update(schema=2),
    "no name": lambda p: p.pop("name"),
    "no policy": lambda p: p.pop("policy"),
    "policy kind": lambda p: p["policy"].update(kind="luck"),
    "policy kind of no sort": lambda p: p["policy"].update(kind=[]),
    "no thresholds": lambda p: p["policy"].pop("thresholds"),
    "threshold text": lambda p: p["policy"].update(thresholds=["high", 1]),
    "threshold true": lambda p: p["policy"].update(thresholds=[True, 1]),
    "threshold NaN": lambda p: p["policy"].update(thresholds=["nan", 1]),
    "threshold beyond floats": lambda p: p["policy"].update(thresholds=[10**400, 1]),
    "unknown score": lambda p: p["policy"].update(score="luck"),
    "score of no sort": lambda p: p["policy"].update(score={}),
    "temperature 0": lambda p: p["policy"].update(temperatures=[1, 0, 1]),
    "temperatures for other exits": lambda p: p["policy"].update(temperatures=[1]),
    "patience 0": lambda p: p.update(policy={"kind": "patience", "patience": 0}),
    "patience 1.5": lambda p: p.update(policy={"kind": "patience", "patience": 1.5}),
    "expected text": lambda p: p["expected"].update(cost="cheap"),
    "expected rates": lambda p: p["expected"].update(exit_rates=["some"]),
    "asked text": lambda p: p["asked"].update(budget="half"),
    "promise": lambda p: p.update(promise="sure"),
    "another artifact": lambda p: p.update(artifact="onnx-none-fp32"),
}


@pytest.mark.parametrize("case", POINTS)
def test_damaged_operating_point(copy: Path, case: str) -> None:
    point = json.loads((copy / "policies/half-fused.json").read_text())
    POINTS[case](point)
    replace_file(copy, "policies/half-fused.json", json.dumps(point).encode())
    with pytest.raises(PolicyError if case != "another artifact" else BundleError):
        Bundle.open(copy).operating_point("half-fused")


def test_operating_points_round_trip(copy: Path) -> None:
    point = json.loads((copy / "policies/half-fused.json").read_text())
    point["policy"].update(thresholds=["-inf", "inf"], temperatures=None)
    replace_file(copy, "policies/half-fused.json", json.dumps(point).encode())
    found = Bundle.open(copy).operating_point("half-fused")
    assert found.policy.to_dict()["thresholds"] == ["-inf", "inf"]
    assert found.to_dict() == {**point, "drift": None, "sets": None}


def test_unknown_operating_point(tiny: Path) -> None:
    with pytest.raises(PolicyError, match="no operating point 'none'; it holds: half-fused, half-chain"):
        Bundle.open(tiny).operating_point("none")


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="needs a user who may not read everything")
def test_unreadable_file(copy: Path) -> None:
    (copy / MODEL).chmod(0)
    refused(copy, "cannot be read")
