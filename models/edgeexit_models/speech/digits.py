"""Networks for connected spoken digits: features and tokens, and the encoder for features, streams and sound."""

from __future__ import annotations

from edgeexit.bundle.feature_spec import FeatureSpec
from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit_models.speech.conformer import EarlyExitConformer, conformer_edge
from edgeexit_models.speech.sound import SoundConformer
from edgeexit_models.speech.streaming import StreamingConformer

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPEECH = SpeechSpec(
    features=FeatureSpec(sample_rate=8000, bins=40, low_hz=20.0, high_hz=-400.0, snip_edges=False),
    tokens=("<blk>", *(f"▁{word}" for word in WORDS)),
    blank=0,
    drop=(),
    frame_seconds=0.04,
)
"""Features as stock sherpa-onnx makes them by default, for 8 kHz and 40 bins."""


def asr_digits() -> EarlyExitConformer:
    """`conformer_edge` for the weights of `models/recipes/asr-digits-fsdd`: ten digits, 8 kHz, chunks of 0.64 s."""
    return conformer_edge(len(SPEECH.tokens), SPEECH.features.bins, speech=SPEECH)


def asr_digits_streaming() -> StreamingConformer:
    """`asr_digits` on a stream; holds the same weights."""
    return StreamingConformer(asr_digits())


def asr_digits_sound() -> SoundConformer:
    """`asr_digits` on sound; its weights fit."""
    return SoundConformer(asr_digits().config, SPEECH)
