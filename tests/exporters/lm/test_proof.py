"""The word lossless stands only where it was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.bench.verify import verify
from edgeexit.bundle.bundle import Bundle
from edgeexit.cli.lm_shown import proof_text
from edgeexit.errors import DataError
from edgeexit.lm.loading import load_lm
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.proof import prove
from edgeexit_exporters.lm import LmExport

IDS = np.random.default_rng(4).integers(0, 300, (2, 24))


def test_float_is_verified(made: LmExport) -> None:
    proof = made.bundle.manifest.artifacts[0].proof
    assert proof is not None and proof.verified and (proof.tokens, proof.block) == (128, 5)
    assert "lossless up to 5 tokens" in proof_text(proof)


def test_one_scale_for_all_tokens_is_seen(made: LmExport) -> None:
    """quantize_dynamic rounds activations by the largest of all tokens that go through together."""
    proof = made.bundle.manifest.artifact("onnx-decoder-int8-dynamic").proof
    assert proof is not None and not proof.verified and proof.max_difference > 1e-2
    assert "lossless" not in proof_text(proof) and proof_text(proof).startswith("approximate: ")
    assert proof_text(None) == "not measured"


class _Jumps(LanguageModel):
    """Adds something to the logits where tokens go through together."""

    size: float = 0.0

    def logits(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        found = super().logits(hidden).copy()
        if hidden.shape[1] > 1:
            found[..., 0] += self.size
        return found


@pytest.mark.parametrize(("size", "word"), [(0.0, "verified"), (0.01, "approximate"), (1e6, "approximate")])
def test_what_is_measured(made: LmExport, size: float, word: str) -> None:
    plain = load_lm(made.bundle)
    lm = _Jumps(plain.spec, plain.parts, artifact="jumps")
    lm.size = size
    found = prove(lm, IDS, 3)
    assert found.proof.lossless == word
    assert found.proof.max_difference == pytest.approx(size, rel=1e-2, abs=1e-4)
    alone = found.logits.argmax(-1)
    # the first 24 of each piece go through in blocks of 2 and 3, none alone
    assert found.proof.flips == (int((alone != 0).sum()) if size == 1e6 else 0)
    assert found.logits.shape == (2, 24, 300)


class _Late(LanguageModel):
    """Its last stage is off where several tokens enter it: what self-speculation does and prompt lookup does, too."""

    def run_stage(self, k: int, hidden: NDArray[np.float32], cache: object) -> NDArray[np.float32]:
        found = super().run_stage(k, hidden, cache)  # type: ignore[arg-type]
        return found + 0.5 if k == self.count - 1 and hidden.shape[1] == 4 else found


def test_every_size_up_to_the_block_is_tried(made: LmExport) -> None:
    plain = load_lm(made.bundle)
    assert prove(_Late(plain.spec, plain.parts), IDS, 3).proof.verified
    assert not prove(_Late(plain.spec, plain.parts), IDS, 4).proof.verified


def test_a_block_that_does_not_fit(made: LmExport) -> None:
    with pytest.raises(DataError, match="2 to the 24 tokens"):
        prove(load_lm(made.bundle), IDS, 25)
    with pytest.raises(DataError, match="block of 1"):
        prove(load_lm(made.bundle), IDS, 1)


def test_verify_repeats_it_here(made: LmExport, tmp_path: Path) -> None:
    found = {v.artifact: v for v in verify(made.bundle)}
    assert all(v.passed for v in found.values()) and len(found) == 5
    dynamic = made.bundle.manifest.artifact("onnx-decoder-int8-dynamic")
    said = made.bundle.manifest.artifacts[0].proof
    claimed = replace(made.bundle.manifest, artifacts=(replace(dynamic, proof=said),))
    (v,) = verify(Bundle(made.bundle.path, claimed))  # another machine's claim
    assert v.passed is False and "not lossless on this machine" in v.reason
    unproved = replace(made.bundle.manifest, artifacts=(replace(dynamic, proof=None),))
    (v,) = verify(Bundle(made.bundle.path, unproved))
    assert v.passed is None
