"""Examples in docstrings: `>>>` gives what it shows, `::` blocks are Python, and those of `RUN` run on what ships."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import edgeexit
from edgeexit.engine import backends
from edgeexit.policy.sets import ConformalSets
from made_wavs import write

PACKAGES = ("edgeexit", "edgeexit_exporters", "edgeexit_models", "edgeexit_runtimes")
SHIPPED = Path(__file__).parents[1] / "models" / "bundles"
RUN: dict[str, dict[str, str]] = {
    "edgeexit": {"digits": "digits"},
    "edgeexit.errors": {"digits": "digits"},
    "edgeexit.lm": {"code": "lm-code"},
    "edgeexit.monitor": {},
    "edgeexit.policy.sets.ConformalSets": {},
    "edgeexit.speech.decode.GreedyDecoder": {},
    "edgeexit.speech.features.FeatureStream": {},
    "edgeexit.speech.offline.Transcriber": {"digits": "spoken-digits"},
    "edgeexit.speech.online.StreamTranscriber": {"digits-stream": "spoken-digits-stream"},
    "edgeexit.testing": {},
}
"""Owner of a block -> the bundles that it opens, and which shipped one stands for each."""
NOT_PYTHON = {"edgeexit.errors": "EdgeExitError\n|--", "edgeexit_exporters.tflite.c_array.c_source": "tflite::"}
"""Owner -> how its block in another language begins."""


class Block(NamedTuple):
    module: str
    owner: str
    text: str


def modules() -> Iterator[tuple[str, str]]:
    """Name and source of every module."""
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec is not None and spec.origin is not None
        root = Path(spec.origin).parent
        for path in sorted(root.rglob("*.py")):
            parts = (package, *path.relative_to(root).with_suffix("").parts)
            yield ".".join(parts).removesuffix(".__init__"), path.read_text(encoding="utf-8")


def blocks(module: str, source: str) -> Iterator[Block]:
    """Literal blocks of Python in a module's docstrings."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            owner = module if isinstance(node, ast.Module) else f"{module}.{node.name}"
            for text in re.findall(r"::\n\n((?: +.*\n|\n)+)", f"{ast.get_docstring(node) or ''}\n"):
                text = textwrap.dedent(text)
                if owner not in NOT_PYTHON or not text.startswith(NOT_PYTHON[owner]):
                    yield Block(module, owner, text)


SOURCES = dict(modules())
SHOWN = [name for name, source in SOURCES.items() if re.search(r"^ *>>> ", source, re.MULTILINE)]
BLOCKS = [b for name, source in SOURCES.items() if "::\n" in source for b in blocks(name, source)]


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_shown_is_given(name: str) -> None:
    result = doctest.testmod(pytest.importorskip(name))
    assert result.attempted and not result.failed


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.owner)
def test_blocks_are_python(block: Block) -> None:
    compile(block.text, block.owner, "exec")


def test_no_example_is_forgotten() -> None:
    assert set(RUN) <= {b.owner for b in BLOCKS}
    assert len(SHOWN) >= 10


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.owner in RUN], ids=lambda b: b.owner)
def test_blocks_run(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not SHIPPED.is_dir():
        pytest.skip("the repository's bundles are not here")
    pytest.importorskip("onnxruntime")
    if block.module == "edgeexit.lm":
        pytest.importorskip("tokenizers", reason="tokenizers turns text into tokens and back")
    monkeypatch.chdir(tmp_path)
    for name, shipped in RUN[block.owner].items():
        shutil.copytree(SHIPPED / f"{shipped}.edgeexit", f"{name}.edgeexit")
    names = assumed(block)
    write(Path("jackson.wav"), names["microphone"].reshape(-1).astype(np.float64))
    exec(block.text, {**vars(importlib.import_module(block.module)), **names})


def assumed(block: Block) -> dict[str, Any]:
    """The names that blocks take for granted."""
    digits = edgeexit.Bundle.open(SHIPPED / "digits.edgeexit")
    speech = edgeexit.Bundle.open(SHIPPED / "spoken-digits.edgeexit").manifest.speech
    assert speech is not None
    return {
        "edgeexit": edgeexit,
        "np": np,
        "sys": sys,
        "backends": backends,
        "Engine": edgeexit.Engine,
        "x": np.tile(np.arange(0, 16, 2, dtype=np.float32), (1, 1, 8, 1)),
        "bundle": digits,
        "artifact": digits.manifest.artifact("onnx-chain-fp32"),
        "policy": edgeexit.fixed_exit(2, 3),
        "sets": ConformalSets("nested", (0.1, 0.1), 0.1, 100, (1.0, 1.0)),
        "outputs": [np.zeros((1, 4), np.float32)] * 2,
        "spec": speech.features if block.module == "edgeexit.speech.features" else speech,
        "microphone": np.random.default_rng(0).standard_normal((4, 4000)).astype(np.float32) / 100,
        "chunks": [np.full((20, len(speech.tokens)), -np.log(len(speech.tokens)), np.float32)] * 3,
    }
