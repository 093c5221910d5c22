"""The language model that ships writes the same text however it is decoded, as its proof says."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="runs the shipped bundle")
pytest.importorskip("tokenizers", reason="reads the prompt")

from edgeexit.bench.verify import verify
from edgeexit.bundle.bundle import Bundle
from edgeexit.lm.generate import Answer
from edgeexit.lm.loading import load_lm
from edgeexit.lm.settings import Decoding
from edgeexit.lm.text.tokenizer import encoded, text_of

BUNDLE = Path(__file__).resolve().parents[2] / "models/bundles/lm-code.edgeexit"


def test_speculation_and_lookup_keep_the_text() -> None:
    model = load_lm(BUNDLE)
    assert model.proof is not None
    assert model.proof.verified
    assert model.proof.block == 9
    text = text_of(model)
    for prompt in ("def main(", "import os\n\nclass "):
        ids = encoded(model, text, prompt)
        plain = Answer(model, ids, Decoding(), max_tokens=40).run()
        assert len(set(plain.ids)) > 5, "a text, and not one token again and again"
        for setting in (Decoding("speculative", 0, 8), Decoding("lookup", None, 8)):
            found = Answer(model, ids, setting, max_tokens=40).run()
            assert found.ids == plain.ids, setting
            assert found.drafted > 0


def test_the_proof_holds_on_this_machine() -> None:
    assert all(found.passed for found in verify(Bundle.open(BUNDLE)))
