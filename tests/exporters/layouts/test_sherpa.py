"""Stock sherpa-onnx runs the prefix files of a speech bundle as they are, and spells what EdgeExit does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import edgeexit
from edgeexit.bench.verify import verify
from edgeexit.bundle.codec import from_json, to_json
from edgeexit.bundle.feature_spec import FeatureSpec
from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.errors import ModelError
from edgeexit.speech import ctc
from edgeexit.speech.features import log_mel
from edgeexit.speech.tokens import Tokens
from edgeexit_exporters.analysis.answers import SourceAnswer
from edgeexit_exporters.layouts.sherpa import Contract, contract
from edgeexit_exporters.source.inputs import make_spec

RATE, BINS = 8000, 40
WORDS = ("<blk>", "▁one", "▁two", "▁three", "▁four", "▁five")
SPEECH = SpeechSpec(FeatureSpec(RATE, BINS, high_hz=-400.0), WORDS, blank=0)


class Listener(nn.Module):
    """Two CTC exits behind the usual subsampling by 4; random weights whose answers change from frame to frame."""

    def __init__(self, speech: SpeechSpec = SPEECH, logits: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.speech_spec, self.logits = speech, logits
        self.input_spec = {"x": ("float32", ("batch", "time", BINS)), "x_lens": ("int64", ("batch",))}
        self.first, self.second = nn.Conv1d(BINS, 24, 3, stride=2), nn.Conv1d(24, 24, 3, stride=2)
        self.mix = nn.Conv1d(24, 24, 3, padding=1)
        self.early, self.late = nn.Linear(24, len(WORDS)), nn.Linear(24, len(WORDS))

    def forward(self, x: Tensor, x_lens: Tensor) -> list[dict[str, Tensor]]:
        h = self.second(torch.relu(self.first((0.5 * (x + 6)).transpose(1, 2))))
        lens = torch.div((x_lens - 3).clamp(min=0), 4, rounding_mode="trunc")
        keep = (torch.arange(h.shape[2])[None] < lens[:, None]).to(h.dtype)[:, None]
        g = h + torch.relu(self.mix(h * keep))
        exits = [8 * self.early(h.transpose(1, 2)), 8 * self.late(g.transpose(1, 2))]
        return [{"output": z if self.logits else z.log_softmax(-1), "lengths": lens} for z in exits]


def sounds() -> list[NDArray[np.float32]]:
    """Noise that swells and changes its colour, of three lengths."""
    rng = np.random.default_rng(0)
    found = []
    for n in (8000, 11111, 17003):
        t = np.arange(n) / RATE
        tone = np.sin(2 * np.pi * t * (200 + 900 * (1 + np.sin(2 * np.pi * 1.5 * t))))
        found.append((0.3 * tone + 0.05 * rng.standard_normal(n)).astype(np.float32))
    return found


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> edgeexit.Bundle:
    out = tmp_path_factory.mktemp("sherpa") / "b.edgeexit"
    return edgeexit.export(Listener(), out, layouts=["chain", "prefix"])


def test_sherpa_onnx_decodes_every_exit_as_we_do(bundle: edgeexit.Bundle) -> None:
    sherpa_onnx = pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")
    artifact = bundle.manifest.artifact("onnx-prefix-fp32")
    tokens = next(f for f in artifact.data if f.path.endswith("tokens.txt"))
    engine = edgeexit.load(bundle, artifact="chain", warmup=0)
    spelled: set[str] = set()
    for k, model in enumerate(artifact.models):
        recogniser = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(
            model=str(bundle.file(model)), tokens=str(bundle.file(tokens)), sample_rate=RATE, feature_dim=BINS
        )
        streams = [recogniser.create_stream() for _ in sounds()]
        for stream, sound in zip(streams, sounds(), strict=True):
            stream.accept_waveform(RATE, sound)
        recogniser.decode_streams(streams)  # a batch: the shorter ones are padded
        engine.policy = edgeexit.fixed_exit(k, 2)
        for stream, sound in zip(streams, sounds(), strict=True):
            x = log_mel(sound, SPEECH.features)
            found = engine.run({"x": x[None], "x_lens": np.array([len(x)])})
            ours = Tokens.of(SPEECH).text(ctc.greedy(found.output, SPEECH.blank))
            assert stream.result.text.strip() == ours
            spelled.add(ours)
    assert sum(len(s.split()) > 3 for s in spelled) >= 3  # several, and not one word each


def test_the_files_keep_the_contract_and_our_engine_reads_them(bundle: edgeexit.Bundle) -> None:
    artifact = bundle.manifest.artifact("onnx-prefix-fp32")
    for k, file in enumerate(artifact.models):
        model = onnx.load(bundle.file(file))
        assert [i.name for i in model.graph.input] == ["x", "x_lens"]
        assert [o.name for o in model.graph.output] == ["log_probs", "log_probs_len"]
        told = {p.key: p.value for p in model.metadata_props}
        assert told["model_type"] == "zipformer2_ctc" and told["comment"] == f"b: exit {k}, exit{k}"
        assert (told["vocab_size"], told["subsampling_factor"]) == ("6", "4")
    assert {p.name: p.called for p in artifact.ports} == {
        "exit0": "log_probs", "exit0_lengths": "log_probs_len", "exit1": "log_probs", "exit1_lengths": "log_probs_len",
    }  # fmt: skip
    assert from_json(to_json(bundle.manifest)) == bundle.manifest
    assert bundle.manifest.speech == replace(SPEECH, least_frames=7)
    assert all(v.passed for v in verify(bundle)), verify(bundle)
    x = log_mel(sounds()[0], SPEECH.features)
    answers = []
    for layout in ("prefix", "chain"):
        engine = edgeexit.load(bundle, artifact=layout, policy=edgeexit.fixed_exit(1, 2), warmup=0)
        answers.append(engine.run({"x": x[None], "x_lens": np.array([len(x)])}).output)
    np.testing.assert_allclose(*answers, atol=1e-4)


def test_what_sherpa_onnx_does_otherwise_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    speech = replace(SPEECH, features=FeatureSpec(RATE, BINS), frame_seconds=0.08, drop=(5,))
    made = edgeexit.export(Listener(speech), tmp_path / "b.edgeexit", layouts=["prefix"], progress=said.append)
    (note,) = [s for s in said if s.startswith("note:")]
    for words in ("high_hz -400.0 instead of 0.0", "4 feature frames per answer instead of 8", "tokens to drop"):
        assert words in note
    assert made.manifest.artifacts[0].ports  # it runs there all the same


def test_networks_that_cannot_keep_the_contract_are_told(bundle: edgeexit.Bundle) -> None:
    inputs = [make_spec(t) for t in bundle.manifest.inputs]
    exits = bundle.manifest.exits
    z = np.log(np.full((1, 4, 6), 1 / 6, np.float32))
    answer = SourceAnswer(
        {}, {n: a for e in exits for n, a in ((e.answer.name, z), (e.lengths or "", np.array([3])))}, 1
    )
    assert isinstance(contract("b", SPEECH, inputs, exits, [answer]), Contract)
    logits = replace(answer, outputs={**answer.outputs, "exit1": z + 1})
    for given, words in (
        ((SPEECH, inputs, exits, [logits]), "exit 'exit1' does not: end it with a log_softmax"),
        ((SPEECH, inputs[:1], exits, [answer]), "this network x"),
        ((replace(SPEECH, blank=5), inputs, exits, [answer]), "token 0 (<blk>) for the blank, and that is 5"),
        ((replace(SPEECH, tokens=("a", "b c", *"defg")), inputs, exits, [answer]), "has white space"),
        ((SPEECH, inputs, [replace(e, lengths=None) for e in exits], [answer]), "these exits give none"),
    ):
        found = contract("b", *given)
        assert isinstance(found, str) and words in found
    named = contract("b", replace(SPEECH, tokens=(*"abcdef",)), inputs, exits, [answer])
    assert isinstance(named, Contract) and named.tokens.startswith("<blk> 0")


def test_tokens_that_do_not_fit_the_answers_are_refused(tmp_path: Path) -> None:
    speech = replace(SPEECH, tokens=(*WORDS, "▁six"))
    with pytest.raises(ModelError, match="7 speech tokens for 6 classes"):
        edgeexit.export(Listener(speech), tmp_path / "b.edgeexit")
