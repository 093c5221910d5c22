"""docs/bundle-format.md says what the code does: its example runs, its numbers and field names are the code's."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeexit.bundle import bundle, manifest
from edgeexit.bundle.codec import from_json, to_json
from edgeexit.bundle.feature_spec import FeatureSpec
from edgeexit.bundle.input_range import InputRange
from edgeexit.bundle.layouts import LAYOUTS
from edgeexit.bundle.lm_spec import LmProof, LmSpec
from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.common import files
from edgeexit.pictures.preprocess import Preprocess
from edgeexit.policy import scores

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
    assert manifest.MAX_FILE_BYTES == 16 << 30 and "| one file | 16 GiB |" in page
    assert bundle.MAX_ARRAY_BYTES == 1 << 30 and "| one `.npz`, unpacked | 1 GiB |" in page
    assert bundle.MAX_ZIP_ENTRIES == 4096 and "| `.zip`: entries, sum unpacked | 4096, 16 GiB |" in page
    assert manifest.SCHEMA == 1 and page.startswith("# The bundle format, schema 1\n")


def test_words(page: str) -> None:
    for name in (*scores.NAMES, *LAYOUTS, *manifest.DTYPES):
        assert re.search(rf"\b{name}\b", page), name
    assert f"`{' '.join(manifest.DTYPES)}`" in page


TABLES: dict[str, type] = {
    "**tensor**": manifest.TensorSpec,
    "**exit**": manifest.ExitSpec,
    "**stage**": manifest.StageSpec,
    "**artifact**": manifest.Artifact,
    "**port**": manifest.Port,
    "**check**": manifest.Check,
    "**file**": manifest.FileSpec,
    "**speech**": SpeechSpec,
    "**features**": FeatureSpec,
    "**lm**": LmSpec,
    "**preprocess**": Preprocess,
    "**range**": InputRange,
    "**proof**": LmProof,
    "## manifest.json": manifest.Manifest,
}


@pytest.mark.parametrize("heading", TABLES)
def test_every_field_is_described(page: str, heading: str) -> None:
    section = page.split(f"\n{heading}", 1)[1]
    rows = section[section.index("| field |") :].split("\n\n", 1)[0].splitlines()[2:]
    described = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    fields = {f.name for f in dataclasses.fields(TABLES[heading])}
    reserved = {"**stage**": {"states"}, "## manifest.json": {"format", "schema"}}.get(heading, set())
    assert described == fields | reserved


def properties(schema: Any, name: str) -> set[str]:
    return set(schema["$defs"][name]["properties"])


def test_the_schema_names_the_same_fields(tiny: Path) -> None:
    schema = json.loads((Path(manifest.__file__).parent / "schema.json").read_text())
    read = from_json(json.loads((tiny / "manifest.json").read_text()))
    port = manifest.Port(read.inputs[0].name, "int8", None, 0.5, -3, "x_int8")
    proof = LmProof("verified", 10, 5, 0.0, 0, 0.0)
    full = dataclasses.replace(
        read.artifacts[0], batch="one", cuts=read.cuts, ports=(port,), sizes={"time": (7, 9)}, proof=proof
    )
    speech = SpeechSpec(FeatureSpec(8000, 40), ("<blk>", "a", "b"), 0)
    lm = LmSpec(3, 4, 3, 1, 2, 8, (1, 2, 3))
    exits = (dataclasses.replace(read.exits[0], lengths="n"), *read.exits[1:])
    document = to_json(
        dataclasses.replace(
            read,
            artifacts=(full, *read.artifacts[1:]),
            exits=exits,
            speech=speech,
            min_sizes={"time": 7},
            lm=lm,
            default_policy="half-fused",
            preprocess={"x": Preprocess((4, 4))},
            ranges={"x": InputRange(0, 1, 1, 0, 1, 0.5, 0.5, 30)},
        )
    )
    assert set(schema["properties"]) == set(document)
    for name, example in {
        "tensor": document["cuts"][0],
        "exit": document["exits"][0],
        "stage": document["stages"][0],
        "artifact": document["artifacts"][0],
        "check": document["artifacts"][0]["check"],
        "port": document["artifacts"][0]["ports"][0],
        "file": document["policies"]["half-fused"],
        "speech": document["speech"],
        "features": document["speech"]["features"],
        "lm": document["lm"],
        "preprocess": document["preprocess"]["x"],
        "range": document["ranges"]["x"],
        "proof": document["artifacts"][0]["proof"],
    }.items():
        assert properties(schema, name) == set(example), name
