"""Keyword features in the network are those of the reference, and the published answers come out of sound."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeexit_models import DSCNN
from edgeexit_models.speech.keywords import KeywordFeatures, Keywords, dscnn_sound
from recipes.trecx import load_trecx
from shared_data import data_dir, mfcc, trecx_probs, trecx_weights


@torch.no_grad()
def test_features_are_those_of_the_reference_at_any_scale() -> None:
    rng = np.random.default_rng(0)
    clips = (rng.normal(0, 3000, (3, 16000)) * np.linspace(0, 1, 16000)).astype(np.int16)
    wanted = np.stack([mfcc(clip) for clip in clips])[:, None]
    for scale in (1.0, 1 / 32768):
        got = KeywordFeatures()(torch.from_numpy(clips.astype(np.float32) * scale))
        np.testing.assert_allclose(got.numpy(), wanted, atol=2e-3)
    assert bool(KeywordFeatures()(torch.zeros(1, 16000)).isfinite().all())


@torch.no_grad()
def test_spoken_words_are_told_as_published() -> None:
    soundfile = pytest.importorskip("soundfile", reason="the clips are flac")
    path = data_dir() / "gsc_v2_test" / "audio.flac"
    if not path.is_file():
        pytest.skip(f"{path} is not in the data pack")
    spotter = load_trecx(trecx_weights("dscnn"))
    assert isinstance(spotter, DSCNN)
    sound = soundfile.read(str(path), dtype="float32", frames=100 * 16000)[0].reshape(100, 16000)
    got = torch.stack(Keywords(spotter).eval()(torch.from_numpy(sound))).softmax(2).numpy()
    np.testing.assert_allclose(got, trecx_probs("dscnn")[0][:, :100], atol=2e-3)


def test_trained_weights_fit() -> None:
    model = dscnn_sound()
    assert [tuple(e.shape) for e in model(torch.randn(2, 16000))] == [(2, 12)] * 4
    assert {n.split(".")[0] for n in model.state_dict()} == {"spotter"}
