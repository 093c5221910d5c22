"""A published model, whole: SmolLM2-135M against transformers. Runs where EDGEEXIT_SMOLLM2 names its file or folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeexit.lm.generate import Answer
from edgeexit.lm.loading import load_lm
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.settings import Decoding
from edgeexit.lm.text.tokenizer import text_of
from edgeexit_exporters.lm import LmExportSpec, export_lm

MODEL = os.environ.get("EDGEEXIT_SMOLLM2")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(MODEL is None, reason="EDGEEXIT_SMOLLM2 names no SmolLM2-135M (.gguf or folder)"),
]
PROMPTS = (
    "The capital of France is", "def fibonacci(n):\n", "Once upon a time", "Water boils at", "1, 2, 3, 4,",
    "The three laws of robotics are", "import numpy as np\n", "Dear Sir or Madam,", "In 1969, humans",
    "Q: What is 2+2?\nA:",
)  # fmt: skip


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """In float, with exits after a third and two thirds; the proof on the prompts themselves, repeated."""
    out = tmp_path_factory.mktemp("smollm2") / "smollm2.edgeexit"
    wish = LmExportSpec((10, 20), keys_values=False, proof_tokens=64)
    text = "\n".join(PROMPTS * 30)
    return load_lm(export_lm(Path(MODEL or ""), out, wish, text=text, progress=print).bundle)


@pytest.fixture(scope="module")
def published() -> Any:
    """As transformers reads it."""
    transformers = pytest.importorskip("transformers")
    path = Path(MODEL or "")
    place = (path.parent, {"gguf_file": path.name}) if path.is_file() else (path, {})
    if place[1]:
        pytest.importorskip("gguf")
        pytest.importorskip("accelerate", reason="transformers reads .gguf with accelerate: pip install accelerate")
    found = transformers.AutoModelForCausalLM.from_pretrained(place[0], dtype=torch.float32, **place[1])
    return found.eval()


def answer(lm: LanguageModel, ids: list[int], setting: Decoding) -> list[int]:
    made = Answer(lm, ids, setting, max_tokens=64)
    for _ in made:
        pass
    return list(made.result.ids)


def test_greedy_text_is_transformers(lm: LanguageModel, published: Any) -> None:
    """One pass over prompt and answer: greedy decoding gives that answer where each token is the most probable one."""
    text = text_of(lm)
    for prompt in PROMPTS:
        ids = text.encode(prompt)
        found = answer(lm, ids, Decoding())
        assert len(found) == 64 or found[-1] in lm.spec.eos
        with torch.no_grad():
            logits = published(torch.tensor([ids + found])).logits[0]
        assert logits[len(ids) - 1 : -1].argmax(-1).tolist() == found, prompt


def test_float_is_lossless_and_speculation_keeps_the_text(lm: LanguageModel) -> None:
    assert lm.proof is not None and lm.proof.verified
    text = text_of(lm)
    for prompt in PROMPTS[:4]:
        ids = text.encode(prompt)
        plain = answer(lm, ids, Decoding())
        assert answer(lm, ids, Decoding("speculative", 0, 2)) == plain
        assert answer(lm, ids, Decoding("lookup", None, 4)) == plain


def test_logits_are_the_published(lm: LanguageModel, published: Any) -> None:
    from edgeexit.lm.cache import Cache

    ids = text_of(lm).encode(PROMPTS[5] + PROMPTS[2])
    hidden, cache = lm.embed(ids), Cache(lm.spec)
    for k in range(lm.count):
        hidden = lm.run_stage(k, hidden, cache)
    with torch.no_grad():
        expected = published(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(lm.logits(hidden) - expected).max() < 1e-2
