"""What a manifest says of a language model: read back as written, and nothing but BundleError for anything else."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeexit.bundle.bundle import Bundle, write_bundle
from edgeexit.bundle.codec import from_json, to_json
from edgeexit.bundle.files import describe
from edgeexit.bundle.lm_spec import DecoderFiles, LmProof, LmSpec
from edgeexit.bundle.manifest import Artifact, ExitSpec, Manifest, StageSpec, TensorSpec
from edgeexit.errors import BundleError
from odd_manifests import ODD, SCHEMA, accepted, mutated

FILES = {
    f"artifacts/onnx-decoder-fp32/{name}": name.encode()
    for name in (
        "stage_0.onnx", "stage_1.onnx", "head.onnx", "embedding.npy", "exit_0.onnx", "exit_0_ids.npy", "kv_1.onnx",
        "positions.onnx",
    )
} | {"tokenizer.json": b"{}"}  # fmt: skip


def lm_manifest() -> Manifest:
    """Two stages of three layers; the files are empty shells."""
    specs = [describe(path, data) for path, data in FILES.items()]
    hidden = TensorSpec("hidden", "float32", ("batch", "tokens", 8))
    turn = [TensorSpec(n, "float32", ("batch", "tokens", 1, 4)) for n in ("cos", "sin")]
    mask = TensorSpec("mask", "float32", ("batch", 1, 1, "tokens", "total"))
    exits, stages = [], []
    for k in range(2):
        answer = TensorSpec(f"logits_{k}", "float32", ("batch", "tokens", 16))
        exits.append(ExitSpec(f"layer {2 + k}", (answer,), "logits", 100 + k, 100 + k))
        before = "hidden" if k == 0 else "hidden_0"
        outputs = ("logits_0", "hidden_0") if k == 0 else ("logits_1",)
        stages.append(StageSpec((before, "cos", "sin", "mask"), outputs, 50, 50, 200, 32))
    artifact = Artifact(
        "onnx-decoder-fp32", "onnx", "decoder", "fp32", None, (1.0, 1.0), tuple(specs[:2]), tuple(specs[2:-1]),
        proof=LmProof("verified", 40, 5, 1e-5, 0, 1e-3),
    )  # fmt: skip
    return Manifest(
        "story", "language-model", "dynamic", (hidden, *turn, mask), tuple(exits), tuple(stages),
        (dataclasses.replace(hidden, name="hidden_0"),), (artifact,),
        lm=LmSpec(16, 8, 3, 1, 4, 64, (2, 3), 1, (0, 2), specs[-1]),
    )  # fmt: skip


def test_round_trip(tmp_path: Path) -> None:
    found = lm_manifest()
    document = to_json(found)
    assert from_json(json.loads(json.dumps(document))) == found
    write_bundle(tmp_path / "story.edgeexit", FILES, found)
    opened = Bundle.open(tmp_path / "story.edgeexit").manifest
    assert opened == found and opened.lm is not None
    assert (opened.lm.layers_of(0), opened.lm.layers_of(1)) == (range(2), range(2, 3))
    assert opened.lm.cache_bytes(64) == 64 * 3 * 2 * 4 * 4
    parts = DecoderFiles.of(opened.artifacts[0].models, opened.artifacts[0].data)
    assert parts.head.path.endswith("head.onnx") and parts.exits[1] is None and parts.keys_values[0] is None
    assert parts.ids[0] is not None and parts.exits[0] is not None and parts.keys_values[1] is not None


def test_the_tokenizer_is_the_bundles(tmp_path: Path) -> None:
    write_bundle(tmp_path / "story.edgeexit", FILES, lm_manifest())
    (tmp_path / "story.edgeexit" / "tokenizer.json").write_bytes(b"[]")
    with pytest.raises(BundleError, match=r"tokenizer\.json was changed"):
        Bundle.open(tmp_path / "story.edgeexit")


def test_engines_of_networks_say_who_runs_it(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    import edgeexit

    write_bundle(tmp_path / "story.edgeexit", FILES, lm_manifest())
    with pytest.raises(BundleError, match="no fused or chain artifact"):
        edgeexit.load(tmp_path / "story.edgeexit")
    with pytest.raises(BundleError, match="edgeexit generate"):
        edgeexit.load(tmp_path / "story.edgeexit", artifact="decoder")


Change = Callable[[dict[str, Any]], None]


def _data(m: dict[str, Any], name: str) -> None:
    file = copy.deepcopy(m["artifacts"][0]["data"][0])
    m["artifacts"][0]["data"].append({**file, "path": name})


def _lm(**values: Any) -> Change:
    return lambda m: m["lm"].update(values)


def _proof(**values: Any) -> Change:
    return lambda m: m["artifacts"][0]["proof"].update(values)


REFUSED: dict[str, tuple[Change, str]] = {
    "no vocabulary": (_lm(vocab=0), r"lm\.vocab: .*from 1"),
    "vocabulary of a bool": (_lm(vocab=True), r"lm\.vocab"),
    "another vocabulary": (_lm(vocab=17), "17 tokens answers with 16"),
    "width beyond": (_lm(width=1 << 40), r"lm\.width"),
    "no width": (lambda m: m["lm"].pop("width"), r"lm\.width: missing"),
    "unknown field": (_lm(rope="scaled"), "unknown field 'rope'"),
    "stages that fall": (_lm(stages=[3, 2]), r"lm\.stages: expected rising numbers, found \[3, 2\]"),
    "stages that stand": (_lm(stages=[3, 3]), r"lm\.stages"),
    "stages short of the end": (_lm(stages=[1, 2]), "all 3 layers, found 2"),
    "stage before the first layer": (_lm(stages=[0, 3]), r"lm\.stages"),
    "stages for other exits": (_lm(stages=[1, 2, 3]), "3 stages with 2 exits"),
    "stages of texts": (_lm(stages=["1", "3"]), r"lm\.stages\[0\]: expected a whole number"),
    "no list of stages": (_lm(stages=3), r"lm\.stages: expected a list"),
    "begin outside": (_lm(bos=16), r"lm\.bos: .*to 15"),
    "end outside": (_lm(eos=[-1]), r"lm\.eos"),
    "end twice": (_lm(eos=[1, 1]), "no value twice"),
    "ends without end": (_lm(eos=list(range(5000))), r"lm\.eos: expected a list"),
    "tokenizer elsewhere": (_lm(tokenizer={"path": "../x", "sha256": "0" * 64, "bytes": 1}), r"tokenizer\.path"),
    "tokenizer of text": (_lm(tokenizer="tokenizer.json"), "tokenizer: expected an object"),
    "no lm": (lambda m: m.pop("lm"), "there is no `lm`"),
    "lm of a list": (lambda m: m.update(lm=[]), "lm: expected an object"),
    "verified with flips": (_proof(flips=1), "make it 'approximate'"),
    "verified beyond the tolerance": (_proof(max_difference=1.0), "make it 'approximate'"),
    "approximate for no reason": (_proof(lossless="approximate"), "make it 'verified'"),
    "another word": (_proof(lossless="lossless"), "lossless: expected one of verified, approximate"),
    "more flips than tokens": (_proof(flips=41, lossless="approximate"), "flips: .*to 40"),
    "proof by nothing": (_proof(tokens=0), r"proof\.tokens"),
    "a block of one": (_proof(block=1), r"proof\.block"),
    "difference NaN": (_proof(max_difference=float("nan")), "max_difference"),
    "difference below 0": (_proof(max_difference=-1), "max_difference"),
    "proof without tolerance": (lambda m: m["artifacts"][0]["proof"].pop("tolerance"), "tolerance: missing"),
    "proof of a chain": (lambda m: m["artifacts"][0].update(layout="chain"), "a proof is of a decoder"),
    "a stage file too few": (lambda m: m["artifacts"][0]["models"].pop(), "1 models, layout decoder needs 2"),
    "no head": (lambda m: m["artifacts"][0]["data"].pop(0), r"has a head\.onnx"),
    "no embedding": (lambda m: m["artifacts"][0]["data"].pop(1), r"has a embedding\.npy"),
    "no positions": (lambda m: m["artifacts"][0]["data"].pop(), r"has a positions\.onnx"),
    "two heads": (lambda m: _data(m, "other/head.onnx"), "two files 'head.onnx'"),
    "exit of no stage": (lambda m: _data(m, "x/exit_2.onnx"), "early exits 0 to 0"),
    "a head of the last exit's own": (lambda m: _data(m, "x/exit_1.onnx"), "early exits 0 to 0"),
    "exit far out": (lambda m: _data(m, f"x/kv_{'9' * 300}.onnx"), "stages 0 to 1"),
    "ids without an exit": (lambda m: m["artifacts"][0]["data"].pop(2), r"exit_0_ids\.npy without exit_0"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    change, message = REFUSED[case]
    document = to_json(lm_manifest())
    change(document)
    with pytest.raises(BundleError, match=message):
        from_json(document)


def test_missing_is_none() -> None:
    document = to_json(lm_manifest())
    for name in ("bos", "eos", "tokenizer"):
        del document["lm"][name]
    document["artifacts"][0]["proof"] = None
    found = from_json(document)
    assert found.lm is not None and (found.lm.bos, found.lm.eos, found.lm.tokenizer) == (None, (), None)
    assert found.artifacts[0].proof is None


def test_mutations_raise_nothing_else_and_the_schema_agrees() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    document = to_json(lm_manifest())
    assert not list(validator.iter_errors(document))
    rng = random.Random(2)
    refused_by_code = refused_by_schema = 0
    for i in range(900):
        changed = copy.deepcopy(document)
        if i % 2:  # half of them where this page is about
            place = rng.choice((changed["lm"], changed["artifacts"][0]["proof"], changed["artifacts"][0]))
            place[rng.choice(list(place))] = copy.deepcopy(rng.choice(ODD))
        else:
            changed = mutated(document, rng)
        by_code, by_schema = not accepted(changed), not validator.is_valid(changed)
        assert by_code or not by_schema, [e.message for e in validator.iter_errors(changed)]
        refused_by_code += by_code
        refused_by_schema += by_schema
    assert 900 > refused_by_code > refused_by_schema > 450
