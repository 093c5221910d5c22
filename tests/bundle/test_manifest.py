"""Reading manifests: the schema and the code agree, and nothing but BundleError ever comes out."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeexit.bundle.codec import from_json, to_json
from edgeexit.bundle.feature_spec import FeatureSpec
from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.errors import BundleError
from odd_manifests import ODD, SCHEMA, accepted, mutated


@pytest.fixture
def manifest(tiny: Path) -> dict[str, Any]:
    return json.loads((tiny / "manifest.json").read_text())


SPEECH = SpeechSpec(FeatureSpec(8000, 40), ("<blk>", "▁a", "</s>"), 0, (2,), 0.04).to_dict()


def test_round_trip(manifest: dict[str, Any]) -> None:
    found = from_json(manifest)
    assert from_json(to_json(found)) == found
    assert to_json(from_json(to_json(found))) == to_json(found)
    assert [e.name for e in found.exits] == ["y0", "y1", "y2"]
    assert found.exits[-1].macs == 232 and found.exits[-1].prefix_macs == 184
    assert len(found.files) == len({f.path for f in found.files}) == 13


def test_round_trip_of_speech(manifest: dict[str, Any]) -> None:
    manifest["speech"] = SPEECH
    found = from_json(manifest)
    assert found.speech is not None and found.speech.to_dict() == SPEECH == to_json(found)["speech"]
    assert from_json(to_json(found)) == found


@pytest.mark.parametrize("speech", [None, SPEECH], ids=["plain", "speech"])
def test_schema_and_code_agree(manifest: dict[str, Any], speech: dict[str, Any] | None) -> None:
    manifest["speech"] = speech
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert not list(validator.iter_errors(manifest))
    rng = random.Random(0)
    refused_by_schema = refused_by_code = 0
    for _ in range(400):
        document = mutated(manifest, rng)
        by_code, by_schema = not accepted(document), not validator.is_valid(document)
        assert by_code or not by_schema, [e.message for e in validator.iter_errors(document)]
        refused_by_code += by_code
        refused_by_schema += by_schema
    assert 400 > refused_by_code > refused_by_schema > 200  # the mutations bite, and the code checks more


def test_mutations_raise_nothing_else(manifest: dict[str, Any]) -> None:
    rng = random.Random(1)
    outcomes = [accepted(mutated(manifest, rng)) for _ in range(1500)]
    assert 30 < sum(outcomes) < 1000
    for value in ODD:
        assert not accepted(value)


Change = Callable[[dict[str, Any]], None]


def _second_cut(m: dict[str, Any]) -> None:
    m["cuts"].append({**m["cuts"][0], "dtype": "int8"})


def _second_head(m: dict[str, Any], shape: Any = ("batch",), **parts: str) -> None:
    m["exits"][0]["outputs"].append({"name": "z", "dtype": "float32", "shape": list(shape)})
    m["exits"][0].update(parts)
    m["stages"][0]["outputs"].append("z")


def _axis(m: dict[str, Any]) -> None:
    m["cuts"][0]["batch_axis"] = 2


REFUSED: dict[str, tuple[Change, str]] = {
    "schema 2": (lambda m: m.update(schema=2), "schema 2.*knows 1"),
    "schema true": (lambda m: m.update(schema=True), "schema True"),
    "another format": (lambda m: m.update(format="zip"), "'edgeexit'"),
    "no stages": (lambda m: m.update(stages=[]), "stages"),
    "a stage too few": (lambda m: m["stages"].pop(), "3 exits but 2 stages"),
    "an exit twice": (lambda m: m["exits"][1].update(name="y0"), "exit 'y0' stands twice"),
    "an artifact twice": (lambda m: m["artifacts"].append(m["artifacts"][0]), "artifact .* stands twice"),
    "a tensor twice": (_second_cut, "tensor 'f0' stands twice"),
    "one path, two files": (lambda m: m["policies"]["half-chain"].update(bytes=1, path="policies/half-fused.json"),
                            "file .* stands twice"),
    "stage reads what comes later": (lambda m: m["stages"][1].update(inputs=["f1"]), "stage 1 reads 'f1'"),
    "stage makes the undescribed": (lambda m: m["stages"][1]["outputs"].append("z"), "'z' is described nowhere"),
    "exit that its stage does not make": (lambda m: m["stages"][1].update(outputs=["f1"]), "stage 1 does not make"),
    "an output without a part": (_second_head, "outputs y0, z are not answer, uncertainty, learned score"),
    "heads without an uncertainty": (lambda m: m["exits"][0].update(members=2), "2 heads"),
    "no heads": (lambda m: m["exits"][0].update(members=0), "members: expected a whole number from 1"),
    "an uncertainty of one head": (lambda m: _second_head(m, uncertainty="z"), "1 heads"),
    "a learned score per class": (lambda m: _second_head(m, shape=["batch", 3], learned="z"), "are float32"),
    "a score that no exit gives": (lambda m: m["artifacts"][0].update(score="learned"), "'y0' gives no score"),
    "states": (lambda m: m["stages"][0].update(states=["h"]), "states"),
    "a model too few": (lambda m: m["artifacts"][1]["models"].pop(), "2 models, layout chain needs 3"),
    "temperatures": (lambda m: m["artifacts"][1].update(temperatures=[1.0]), "1 temperatures for 3 exits"),
    "temperature 0": (lambda m: m["artifacts"][1].update(temperatures=[1, 0, 1]), "positive"),
    "chain with a score": (lambda m: m["artifacts"][1].update(score="margin"), "names its score"),
    "fused without": (lambda m: m["artifacts"][0].update(score=None), "names its score"),
    "unknown score": (lambda m: m["artifacts"][0].update(score="luck"), "maxprob, entropy, margin"),
    "errors": (lambda m: m["artifacts"][0]["check"].update(max_error=[]), "max_error"),
    "errors for other exits": (lambda m: m["artifacts"][0]["check"].update(max_error=[0.0]), "1 errors for 3 exits"),
    "labels": (lambda m: m.update(labels=["a"]), "1 labels for 3 classes"),
    "batch axis of a cut": (_axis, "batch_axis is 2"),
    "batch axis of an input": (lambda m: m["inputs"][0].update(batch_axis=1), r"inputs\[0\].batch_axis: expected 0"),
    "input without axes": (lambda m: m["inputs"][0].update(shape=[]), r"inputs\[0\].shape: expected a list of 1 to 16"),
    "control characters": (lambda m: m.update(name="\x1b[2Jtiny"), "printable"),
    "upper-case digest": (lambda m: m["policies"]["half-chain"].update(sha256="A" * 64), "64 hexadecimal"),
    "the manifest as a file": (lambda m: m["policies"]["half-chain"].update(path="manifest.json"), "manifest itself"),
    "policy name": (lambda m: m["policies"].update({"../x": m["policies"]["half-chain"]}), "a name of letters"),
    "tokens for other classes": (lambda m: m.update(speech={**SPEECH, "tokens": ["a", "b"], "drop": []}),
                                 "2 speech tokens for 3 classes"),
    "a token that is none": (lambda m: m.update(speech={**SPEECH, "tokens": ["a", "", "b"]}), r"speech.tokens\[1\]"),
    "a blank beyond": (lambda m: m.update(speech={**SPEECH, "blank": 3}), "speech.blank: expected one of the 3"),
    "a blank to drop": (lambda m: m.update(speech={**SPEECH, "drop": [0]}), "without the blank"),
    "speech without features": (lambda m: m.update(speech={**SPEECH, "features": 1}), "speech.features: expected an"),
    "a feature setting unknown": (lambda m: m.update(speech={**SPEECH, "features": {"dither": 1}}), "'dither'"),
    "a speech field unknown": (lambda m: m.update(speech={**SPEECH, "lexicon": 1}), "'lexicon'"),
    "no time per frame": (lambda m: m.update(speech={**SPEECH, "frame_seconds": 0}), "frame_seconds"),
    "a number beyond floats": (lambda m: m["artifacts"][0]["check"].update(tolerance=10**400), "a number"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(manifest: dict[str, Any], case: str) -> None:
    change, message = REFUSED[case]
    change(manifest)
    with pytest.raises(BundleError, match=message):
        from_json(manifest)


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a/../../b", "a\\b", "..\\x", "C:/x", ".hidden", "a/.b", "a//b", "a/", "", "a\x00b",
             "a\n", "-rf", "a" * 600]
)  # fmt: skip
def test_paths_are_confined(manifest: dict[str, Any], path: str) -> None:
    manifest["artifacts"][0]["models"][0]["path"] = path
    with pytest.raises(BundleError, match="path"):
        from_json(manifest)


def test_odd_but_right(manifest: dict[str, Any]) -> None:
    manifest["strange"] = {"a": [1]}  # unknown fields are ignored
    manifest["labels"] = None
    for e in manifest["exits"]:
        e["macs"] = e["prefix_macs"] = None
    y0 = manifest["exits"][0]["outputs"][0]
    manifest["cuts"].append({**y0, "batch_axis": 0})  # an exit that later stages read, too
    manifest["stages"][1]["inputs"].append("y0")
    manifest["stages"][2]["inputs"].append("y1")  # an exit that an earlier stage made, passed on
    for stage in manifest["stages"]:
        del stage["states"]
    found = from_json(manifest)
    assert found.exits[0].macs is None
    assert "strange" not in to_json(found)


def test_one_input_per_call(manifest: dict[str, Any]) -> None:
    manifest["batch"] = "one"
    manifest["cuts"][0].update(shape=[], batch_axis=0)  # nothing is thinned out, so the axis is never used
    assert from_json(manifest).batch == "one"


def test_hostile_sizes_do_not_stall(manifest: dict[str, Any]) -> None:
    """Lists as long as 4 MiB allow are checked in a moment, not in a loop over pairs."""
    start = time.perf_counter()
    file = manifest["policies"]["half-chain"]
    manifest["policies"] = {f"p{i}": {**file, "path": f"p/{i}"} for i in range(30_000)}
    manifest["policies"]["last"] = {**file, "path": "p/7", "bytes": 1}
    with pytest.raises(BundleError, match="stands twice"):
        from_json(manifest)
    manifest["policies"] = {}
    names = [f"t{i}" for i in range(4000)]
    manifest["cuts"] = [{"name": n, "dtype": "int8", "shape": ["b"]} for n in names]
    for k in range(3):
        manifest["stages"][k]["outputs"] = [f"y{k}", *names]
    manifest["stages"][1]["inputs"] = manifest["stages"][2]["inputs"] = ["x"]
    assert accepted(manifest)
    assert time.perf_counter() - start < 10  # pairs: minutes
