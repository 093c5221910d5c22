"""`edgeexit export-lm`: one export from a folder, and what is refused before minutes of work."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="exporting a decoder needs torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("tokenizers")

from lm_nets import CONFIG, built, tokenizer_file

from edgeexit.bundle.bundle import Bundle
from edgeexit_models.lm import save_lm

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer, in Hugging Face's files, with a tokenizer that puts token 1 before a text."""
    found = tmp_path_factory.mktemp("hf") / "model"
    save_lm(found, built(replace(CONFIG, num_hidden_layers=1)))
    tokenizer_file(found / "tokenizer.json", start=True)
    return found


@pytest.fixture
def text(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    place = tmp_path / "text.txt"
    place.write_text("".join(rng.choice([*"etaoin shrdlu"], 900)))
    return place


def test_a_folder_becomes_a_bundle(cli: Cli, folder: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "one.edgeexit"
    found = cli("export-lm", folder, "--out", out, "--text", text, "--json", "--precision", "fp32,int8-dynamic").json
    assert found["lm"]["bos"] == 1 and found["lm"]["eos"] == [0, 2] and found["lm"]["stages"] == [1]
    assert found["artifacts"][0]["proof"]["lossless"] == "verified"
    assert found["artifacts"][1]["precision"] == "int8-dynamic"
    assert found["exits_agreement"][-1]["shown"] == 1.0
    assert found["provenance"]["source"] == "model" and len(found["provenance"]["weights_sha256"]) == 64
    m = Bundle.open(out).manifest
    assert m.lm is not None and m.lm.tokenizer is not None
    assert (out / m.lm.tokenizer.path).read_bytes() == (folder / "tokenizer.json").read_bytes()
    shown = cli("inspect", out).out
    assert "one: 1 layers, width 64, 300 tokens, context 64" in shown and "lossless up to 5 tokens" in shown
    assert "onnx-decoder-fp32  passed" in cli("verify", out, "--artifact", "onnx-decoder-fp32").out
    assert "exists already" in cli("export-lm", folder, "--out", out).error


def _big(folder: Path, tmp_path: Path) -> Path:
    return tokenizer_file(tmp_path / "big.json", vocab=400)


def _no(folder: Path, tmp_path: Path) -> Path:
    place = tmp_path / "bare"
    place.mkdir()
    for name in ("config.json", "model.safetensors"):
        (place / name).write_bytes((folder / name).read_bytes())
    return place


REFUSED: dict[str, tuple[list[Any], str]] = {
    "nothing there": (["nowhere"], "no such folder or file"),
    "no such gguf": (["nowhere.gguf"], "no such file"),
    "an empty folder": (["{tmp}"], "config.json: cannot be read"),
    "a module without such a function": (["lm_nets:nothing"], "nothing"),
    "no decoder": (["torch.nn:Identity"], "no decoder that runs in parts: it lacks config, layers"),
    "an exit behind the last layer": (["{hf}", "--stages", "1,2"], "has 1 layers, so early exits come after"),
    "an exit before the first layer": (["{hf}", "--stages", "0"], "exits after layers 0"),
    "exits of words": (["{hf}", "--stages", "a"], "expected layer numbers"),
    "maps without text": (["{hf}", "--maps"], "--maps is made from text: give --text"),
    "a short list without text": (["{hf}", "--shortlist", "5"], "--shortlist is made from text"),
    "a short list of all": (["{hf}", "--shortlist", "300", "--text", "{text}"], "expected 3 to 299"),
    "a short list of ends": (["{hf}", "--shortlist", "2", "--text", "{text}"], "expected 3 to 299"),
    "no such text": (["{hf}", "--text", "nowhere.txt"], "no text to read"),
    "a picture for a text": (["{hf}", "--text", "{binary}"], "not text in UTF-8"),
    "an empty text": (["{hf}", "--text", "{empty}"], "no text in it"),
    "a short text": (["{hf}", "--text", "{brief}"], "fewer than two pieces of 64"),
    "an unknown precision": (["{hf}", "--precision", "int3"], "known: fp32, int8, int4"),
    "a precision twice": (["{hf}", "--precision", "fp32,fp32"], "name each once"),
    "a block beyond the proof": (["{hf}", "--block", "65"], "expected 2 to 64"),
    "no such tokenizer": (["{hf}", "--tokenizer", "nowhere.json"], "no tokenizer.json to read"),
    "no tokenizer": (["{bare}"], "has no tokenizer: give --tokenizer tokenizer.json, or --no-tokenizer"),
    "text without a tokenizer": (["{bare}", "--no-tokenizer", "--text", "{text}"], "text needs a tokenizer"),
    "a tokenizer and none": (["{hf}", "--no-tokenizer", "--tokenizer", "x"], "not both"),
    "a tokenizer of another model": (["{hf}", "--tokenizer", "{big}"], "tokens up to 399, the model knows 0 to 299"),
    "a tokenizer of other JSON": (["{hf}", "--tokenizer", "{hf}/config.json"], "not a tokenizer.json"),
    "weights beside weights": (["{hf}", "--weights", "x"], "brings its own weights"),
    "maps and heads": (["{hf}", "--maps", "--heads", "x", "--text", "{text}"], "not both"),
    "no such heads": (["{hf}", "--heads", "x.safetensors"], "x.safetensors"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(cli: Cli, folder: Path, text: Path, tmp_path: Path, case: str) -> None:
    arguments, message = REFUSED[case]
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "brief").write_text("the end")
    places = {
        "{tmp}": tmp_path, "{hf}": folder, "{text}": text, "{bare}": _no(folder, tmp_path),
        "{big}": _big(folder, tmp_path), "{binary}": tmp_path / "binary", "{empty}": tmp_path / "empty",
        "{brief}": tmp_path / "brief", "{hf}/config.json": folder / "config.json",
    }  # fmt: skip
    wished = [places.get(a, a) for a in arguments]
    found = cli("export-lm", *wished, "--out", tmp_path / "x.edgeexit")
    said = found.err.splitlines()[-1]  # what went well before was told
    assert found.code == 1 and found.out == "" and said.startswith("error: ") and message in said, found
    assert "Traceback" not in found.err
    assert not (tmp_path / "x.edgeexit").exists() and not list(tmp_path.glob(".x.edgeexit*"))


def test_damaged_folders(cli: Cli, folder: Path, tmp_path: Path) -> None:
    bare = _no(folder, tmp_path)
    config = json.loads((bare / "config.json").read_text())

    def error(**changes: Any) -> str:
        (bare / "config.json").write_text(json.dumps({**config, **changes}))
        return str(cli("export-lm", bare, "--no-tokenizer", "--out", tmp_path / "x").err.splitlines()[-1])

    assert "only 'llama' is known" in error(model_type="mamba")
    assert "does not fit config.json" in error(hidden_size=32, head_dim=16)
    assert "several" not in error(eos_token_id=[0, 10**9]) and "eos_token_id" in error(eos_token_id=[[1]])
    (bare / "model.safetensors").write_bytes(b"\xff" * 100)
    assert "cannot be read as safetensors" in error()
