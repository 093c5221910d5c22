"""The bundles that ship write down a speaker whom nobody had heard in training."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgeexit
from edgeexit.bench.verify import verify
from edgeexit.speech.offline import Transcriber
from edgeexit.speech.online import StreamTranscriber
from edgeexit.speech.wav import read_wav

ROOT = Path(__file__).resolve().parents[2]
WAV = ROOT / "models/recipes/asr-digits-fsdd/wavs/george-clean-0.wav"
WHOLE, STREAM = (ROOT / "models/bundles" / f"spoken-digits{n}.edgeexit" for n in ("", "-stream"))
pytestmark = pytest.mark.skipif(not WHOLE.is_dir(), reason="bundles and recordings are in the repository only")


@pytest.mark.parametrize(("artifact", "policy"), [("chain", None), ("chain", "balanced"), ("fused", "balanced-fused")])
def test_whole_utterances(artifact: str, policy: str | None) -> None:
    heard = Transcriber(edgeexit.load(WHOLE, artifact=artifact, policy=policy)).file(WAV)
    assert heard.text == WAV.with_suffix(".txt").read_text().strip()
    assert heard.exit is not None and heard.exit < 3, "an easy utterance leaves early"


def test_on_a_stream() -> None:
    samples, rate = read_wav(WAV)
    assert rate == 8000
    ear = StreamTranscriber(edgeexit.load(STREAM))
    heard = [h for i in range(0, len(samples), 800) for h in ear.accept_waveform(samples[i : i + 800])] + list(
        ear.finish()
    )
    assert [h.text for h in heard if h.final] == [WAV.with_suffix(".txt").read_text().strip()]
    partial = [h.text for h in heard if not h.final]
    assert len(partial) >= 3, "text comes while it is being said"


@pytest.mark.parametrize("bundle", [WHOLE, STREAM], ids=["whole", "stream"])
def test_vectors_hold_here(bundle: Path) -> None:
    assert all(v.passed for v in verify(edgeexit.Bundle.open(bundle)))
