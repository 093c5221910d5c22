"""The repository's own speech encoders, small: every layout answers as torch at odd, even and least lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import edgeexit
from edgeexit.speech import ctc
from edgeexit.speech.features import log_mel
from edgeexit.speech.offline import Transcriber
from edgeexit.speech.tokens import Tokens
from edgeexit_models.speech.config import ConformerConfig
from edgeexit_models.speech.conformer import EarlyExitConformer
from edgeexit_models.speech.digits import SPEECH
from edgeexit_models.speech.sound import SoundConformer
from edgeexit_models.speech.splitformer import Splitformer

CONFIG = ConformerConfig(
    bins=SPEECH.features.bins, vocab=len(SPEECH.tokens), layers=2, width=16, heads=2, feed_forward=24, kernel=5,
    exits=(1, 2), norm="batch",
)  # fmt: skip


@pytest.mark.parametrize("kind", [EarlyExitConformer, pytest.param(Splitformer, marks=pytest.mark.slow)])
def test_every_layout_answers_as_torch(kind: type[EarlyExitConformer], tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = kind(CONFIG, SPEECH).eval()
    model.set_normalisation(torch.full((CONFIG.bins,), -8.0), torch.full((CONFIG.bins,), 2.0))
    with torch.no_grad():
        for head in model.heads:
            head.weight *= 8  # so that answers change from frame to frame
    bundle = edgeexit.export(model, tmp_path / "b.edgeexit", layouts=["fused", "chain", "prefix"])
    assert bundle.manifest.min_sizes == {"time": 7} and bundle.manifest.speech is not None
    assert bundle.manifest.speech.least_frames == 7
    for layout in ("fused", "chain", "prefix"):
        engine = edgeexit.load(bundle, artifact=layout, policy=edgeexit.fixed_exit(1, 2), warmup=0)
        for time, valid in ((7, 7), (12, 12), (90, 90), (95, 95), (101, 70)):  # encoder frames odd and even
            x = np.random.default_rng(time).normal(-8, 2, (1, time, CONFIG.bins)).astype(np.float32)
            with torch.no_grad():
                want = model(torch.from_numpy(x[:, :valid]), torch.tensor([valid]))[1]["output"][0].numpy()
            found = engine.run({"x": x, "x_lens": np.array([valid])}).output
            assert found.shape == want.shape
            np.testing.assert_allclose(found, want, atol=1e-4)
    _sherpa(bundle)


def _sherpa(bundle: edgeexit.Bundle) -> None:
    """Stock sherpa-onnx spells what we do."""
    sherpa_onnx = pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")
    artifact = bundle.manifest.artifact("onnx-prefix-fp32")
    tokens = next(f for f in artifact.data if f.path.endswith("tokens.txt"))
    recogniser = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(
        model=str(bundle.file(artifact.models[1])), tokens=str(bundle.file(tokens)),
        sample_rate=SPEECH.features.sample_rate, feature_dim=CONFIG.bins,
    )  # fmt: skip
    sound = np.random.default_rng(0).normal(0, 0.1, 9000).astype(np.float32)
    sound[3000:6000] *= np.sin(np.arange(3000) / 3)
    stream = recogniser.create_stream()
    stream.accept_waveform(SPEECH.features.sample_rate, sound)
    recogniser.decode_streams([stream])
    x = log_mel(sound, SPEECH.features)
    engine = edgeexit.load(bundle, artifact="chain", policy=edgeexit.fixed_exit(1, 2), warmup=0)
    output = engine.run({"x": x[None], "x_lens": np.array([len(x)])}).output
    ours = Tokens.of(SPEECH).text(ctc.greedy(output, SPEECH.blank))
    assert stream.result.text.strip() == ours != ""


@pytest.mark.slow
def test_features_in_the_graph_hear_what_the_hosts_hear(tmp_path: Path) -> None:
    torch.manual_seed(1)
    plain, on_sound = EarlyExitConformer(CONFIG, SPEECH).eval(), SoundConformer(CONFIG, SPEECH).eval()
    plain.set_normalisation(torch.full((CONFIG.bins,), -8.0), torch.full((CONFIG.bins,), 2.0))
    with torch.no_grad():
        for head in plain.heads:
            head.weight *= 8
    on_sound.load_state_dict(plain.state_dict())
    host = edgeexit.export(plain, tmp_path / "host.edgeexit", layouts=["chain"])
    graph = edgeexit.export(on_sound, tmp_path / "graph.edgeexit", layouts=["fused", "chain"])
    int8 = edgeexit.export(on_sound, tmp_path / "int8.edgeexit", layouts=["chain"], precisions=["int8-dynamic"])
    assert graph.manifest.min_sizes["samples"] < 700  # 7 frames of 10 ms, rounded
    assert graph.manifest.speech is not None
    assert graph.manifest.speech.features == SPEECH.features
    policy = edgeexit.fixed_exit(1, 2)
    rng = np.random.default_rng(0)
    wanted = Transcriber(edgeexit.load(host, policy=policy, warmup=0))
    for length in (100, 8000, 9876):  # 100 samples are too few for the network
        sound = (rng.normal(0, 0.1, length) * np.sin(np.arange(length) / 500)).astype(np.float32)
        want = wanted.samples(sound)
        for bundle, layout in ((graph, "chain"), (graph, "fused"), (int8, "chain")):
            found = Transcriber(edgeexit.load(bundle, artifact=layout, policy=policy, warmup=0)).samples(sound)
            assert found.deepest is not None
            assert want.deepest is not None
            assert found.deepest.output.shape == want.deepest.output.shape
            tolerance = 1e-3 if bundle is graph else 1.5
            np.testing.assert_allclose(found.deepest.output, want.deepest.output, atol=tolerance)
