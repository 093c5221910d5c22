"""docs/bundle-format.md says what the code does: its example runs, its numbers and field names are the code's."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeexit.bundle import archives, bundle, manifest
from edgeexit.bundle.codec import from_json, to_json
from edgeexit.bundle.feature_spec import FeatureSpec
from edgeexit.bundle.input_range import InputRange
from edgeexit.bundle.layouts import LAYOUTS
from edgeexit.bundle.lm_spec import LmProof, LmSpec
from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.common import files
from edgeexit.pictures.preprocess import Preprocess
from edgeexit.policy import scores
from odd_manifests import SCHEMA

PAGE = Path(__file__).parents[2] / "docs" / "bundle-format.md"


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_the_example_runs(page: str, tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert "edgeexit" not in re.sub(r"tiny\.edgeexit", "", example)
    shutil.copytree(tiny, tmp_path / "tiny.edgeexit")
    found = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert re.fullmatch(r"class [012] from exit [012], score 0\.\d{3}\n", found.stdout), found.stderr


def test_limits(page: str) -> None:
    assert (files.MAX_JSON_BYTES, files.MAX_JSON_DEPTH) == (4 << 20, 64)
    assert "| JSON document | 4 MiB, 64 levels |" in page
    assert manifest.MAX_EXITS == 256 and "| exits, artifacts, inputs | 256 each |" in page
    assert files.MAX_FILE_BYTES == 16 << 30 and "| one file | 16 GiB |" in page
    assert bundle.MAX_ARRAY_BYTES == 1 << 30 and "| one `.npz`, unpacked | 1 GiB |" in page
    assert archives.MAX_ZIP_ENTRIES == 4096 and "| `.zip`: entries, sum unpacked | 4096, 16 GiB |" in page
    assert manifest.SCHEMA == 1 and page.startswith("# The bundle format, schema 1\n")


def test_scores(page: str) -> None:
    for score in scores.SCORES.values():
        assert f"| `{score.name}` | {score.description} | " in page, score.name


def test_words(page: str) -> None:
    for name in (*scores.NAMES, *LAYOUTS, *manifest.DTYPES):
        assert re.search(rf"\b{name}\b", page), name
    assert f"`{' '.join(manifest.DTYPES)}`" in page


def test_tables_and_schema_are_generated() -> None:
    script = PAGE.parents[1] / "scripts" / "format_docs.py"
    checked = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stderr


def test_the_schema_has_every_written_field(tiny: Path) -> None:
    """A manifest with every optional part fits the schema, field for field."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(SCHEMA.read_text())
    for definition in (schema, *schema["$defs"].values()):
        if "properties" in definition:
            definition["additionalProperties"] = False
    document = to_json(full_manifest(tiny))
    assert set(document) == set(schema["properties"])
    assert [e.message for e in jsonschema.Draft202012Validator(schema).iter_errors(document)] == []


def full_manifest(tiny: Path) -> manifest.Manifest:
    read = from_json(json.loads((tiny / "manifest.json").read_text()))
    port = manifest.Port(read.inputs[0].name, "int8", None, 0.5, -3, "x_int8")
    proof = LmProof("verified", 10, 5, 0.0, 0, 0.0)
    full = dataclasses.replace(
        read.artifacts[0], batch="one", cuts=read.cuts, ports=(port,), sizes={"time": (7, 9)}, proof=proof
    )
    exits = (dataclasses.replace(read.exits[0], lengths="n"), *read.exits[1:])
    return dataclasses.replace(
        read,
        artifacts=(full, *read.artifacts[1:]),
        exits=exits,
        speech=SpeechSpec(FeatureSpec(8000, 40), ("<blk>", "a", "b"), 0),
        min_sizes={"time": 7},
        lm=LmSpec(3, 4, 3, 1, 2, 8, (1, 2, 3)),
        default_policy="half-fused",
        preprocess={"x": Preprocess((4, 4))},
        ranges={"x": InputRange(0, 1, 1, 0, 1, 0.5, 0.5, 30)},
    )
