"""Features as a part of the network: the numbers of the device's own, whatever the padding holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeexit.bundle.feature_spec import FeatureSpec
from edgeexit.speech.features import log_mel
from edgeexit_models.speech.digits import SPEECH, asr_digits, asr_digits_sound
from edgeexit_models.speech.sound import LogMel

SPECS = (
    SPEECH.features,
    FeatureSpec(16000, 80, high_hz=-400.0),
    FeatureSpec(16000, 23, window="hamming", snip_edges=True, high_hz=4000.0, sample_scale=32768.0, log_floor=1.0),
    FeatureSpec(8000, 20, window_ms=32.0, shift_ms=16.0, window="rectangular", preemphasis=0.0, remove_dc=False),
)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("length", [512, 3000, 4567])
def test_frames_are_those_of_numpy_and_padding_changes_none(spec: FeatureSpec, length: int) -> None:
    rng = np.random.default_rng(length)
    sound = rng.normal(0.05, 0.1, (2, 5000)).astype(np.float32)
    sound[1, length:] = 7 * rng.standard_normal(5000 - length)
    frames, counts = LogMel(spec)(torch.from_numpy(sound), torch.tensor([5000, length]))
    for i, n in enumerate((5000, length)):
        wanted = log_mel(sound[i, :n], spec)
        assert counts[i] == len(wanted) == spec.frames(n)
        np.testing.assert_allclose(frames[i, : len(wanted)].numpy(), wanted, atol=2e-3)


def test_a_network_on_sound_has_the_same_weights_and_answers() -> None:
    torch.manual_seed(0)
    plain, on_sound = asr_digits().eval(), asr_digits_sound().eval()
    on_sound.load_state_dict(plain.state_dict())
    sound = np.random.default_rng(1).normal(0, 0.1, 8000).astype(np.float32)
    features = log_mel(sound, SPEECH.features)
    with torch.no_grad():
        wanted = plain(torch.from_numpy(features)[None], torch.tensor([len(features)]))
        found = on_sound(torch.from_numpy(sound)[None], torch.tensor([len(sound)]))
    for a, b in zip(wanted, found, strict=True):
        assert torch.equal(a["lengths"], b["lengths"])
        torch.testing.assert_close(b["output"], a["output"], atol=1e-4, rtol=0)
