"""Speech chunk by chunk: what is written at a pause is what the network for whole utterances writes."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeexit
from edgeexit.bundle.feature_spec import FeatureSpec
from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.errors import BundleError, DataError, PolicyError
from edgeexit.policy.policies import Threshold, fixed_exit
from edgeexit.records.base import replay
from edgeexit.speech.data import read_speech
from edgeexit.speech.decode import GreedyDecoder
from edgeexit.speech.endpoint import EndpointRules
from edgeexit.speech.features import log_mel
from edgeexit.speech.online import PartialTranscript, StreamTranscriber
from edgeexit.speech.record import record_speech
from speech_nets import write_speech

torch = pytest.importorskip("torch", reason="exports a small network")

RATE = 4000
SPEECH = SpeechSpec(
    FeatureSpec(sample_rate=RATE, bins=8, low_hz=50.0, high_hz=1900.0), ("<blk>", "▁a", "b", "▁c", "d"), 0, (), 0.04
)
ENDLESS = EndpointRules(1000.0, 1000.0, 1000.0)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same network for whole utterances and on a stream."""
    from edgeexit_models.speech.config import ConformerConfig
    from edgeexit_models.speech.conformer import EarlyExitConformer
    from edgeexit_models.speech.streaming import StreamingConformer

    torch.manual_seed(3)
    config = ConformerConfig(
        bins=8, vocab=5, layers=3, width=16, heads=2, feed_forward=16, kernel=3, exits=(1, 2, 3), chunk=4, left=8
    )
    model = EarlyExitConformer(config, SPEECH).eval()
    heard = log_mel(sound(8.0, 9), SPEECH.features)
    model.set_normalisation(torch.from_numpy(heard.mean(0)), torch.from_numpy(heard.std(0)))
    with torch.no_grad():  # random networks say one thing only
        for k, exit in enumerate(model(torch.from_numpy(heard)[None], torch.tensor([len(heard)]))):
            model.heads[k].weight *= 6
            model.heads[k].bias -= 6 * exit["output"].mean((0, 1))
    folder = tmp_path_factory.mktemp("stream")
    for module, name in ((model, "whole"), (StreamingConformer(model), "stream")):
        edgeexit.export(module, folder / f"{name}.edgeexit", layouts=("chain",), task="speech")
    return folder / "whole.edgeexit", folder / "stream.edgeexit"


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * RATE)) / RATE
    tone = np.sin(2 * np.pi * np.cumsum(300 + 900 * (np.sin(5 * t) > 0) + 40 * rng.standard_normal(len(t))) / RATE)
    return (0.3 * tone * (np.sin(2.1 * t) > -0.5)).astype(np.float32)


def hear(transcriber: StreamTranscriber, samples: np.ndarray, piece: int) -> list[PartialTranscript]:
    found = [h for i in range(0, len(samples), piece) for h in transcriber.accept_waveform(samples[i : i + piece])]
    return found + list(transcriber.finish())


def chunks(samples: np.ndarray) -> list[dict[str, np.ndarray]]:
    features = log_mel(samples, SPEECH.features)
    found = []
    for i in range(0, len(features), 16):
        x = np.full((1, 16, 8), np.log(SPEECH.features.log_floor), np.float32)
        x[0, : len(features[i : i + 16])] = features[i : i + 16]
        found.append({"x": x, "x_lens": np.array([len(features[i : i + 16])])})
    return found


def stream_scores(engine: edgeexit.Engine, samples: np.ndarray, k: int) -> list[float]:
    stream = engine.stream()
    return [stream.step(chunk, exit=k).score for chunk in chunks(samples)]


def policies(exits: int) -> list[Threshold]:
    return [
        *(fixed_exit(k, exits, "agreement") for k in range(exits)),
        Threshold((1.0, 1.0), "agreement"),
        Threshold((0.2, 0.12), "ctc_sequence_logprob"),
        Threshold((0.5, 0.5), "entropy"),
    ]


@pytest.mark.parametrize("which", range(6))
def test_an_utterance_is_decided_as_a_whole(bundles: tuple[Path, Path], which: int) -> None:
    whole, stream = (edgeexit.load(b, artifact="chain") for b in bundles)
    samples = sound(3.3, which)
    whole.policy = stream.policy = policies(3)[which]
    features = log_mel(samples, SPEECH.features)
    expected = whole.run({"x": features[None], "x_lens": np.array([len(features)])})
    decoder = GreedyDecoder(StreamTranscriber(stream).tokens)
    decoder.accept(expected.output)
    found = hear(StreamTranscriber(stream, rules=ENDLESS), samples, 700)[-1]
    assert found.final
    assert (found.exit, found.reason, found.text) == (expected.exit, expected.reason, decoder.text)
    assert len(decoder.text) > 4, "a network that says nothing tests nothing"
    assert found.score == pytest.approx(expected.score, abs=1e-5)
    assert found.end == pytest.approx(len(features) // 4 * 0.04)
    assert sum(found.exits) == -(-len(features) // 16)


@pytest.mark.parametrize("per", ["utterance", "chunk"])
def test_the_size_of_pieces_changes_nothing(bundles: tuple[Path, Path], per: str) -> None:
    engine = edgeexit.load(bundles[1], artifact="chain", policy=Threshold((0.3, 0.3), "greedy_path"))
    samples = sound(4.0)
    rules = EndpointRules(0.5, 0.3, 1.5)
    runs = [hear(StreamTranscriber(engine, exit_per=per, rules=rules), samples, n) for n in (1, 333, 100_000)]
    told = [[(h.text, h.final, h.start, h.end, h.exit, h.exits) for h in run] for run in runs]
    assert told[0] == told[1] == told[2]
    finals = [h for h in runs[0] if h.final]
    assert len(finals) > 1
    assert all(a.end == b.start for a, b in itertools.pairwise(finals)), "every second is in one utterance"
    assert all(h.end - h.start <= 1.5 + 0.16 for h in finals)


def test_chunks_that_skip_stages_catch_up(bundles: tuple[Path, Path]) -> None:
    """What deep chunks write does not depend on how deep the ones before went."""
    engine = edgeexit.load(bundles[1], artifact="chain")
    samples = sound(3.0)
    engine.policy = fixed_exit(2, 3)
    deep = hear(StreamTranscriber(engine, exit_per="chunk", rules=ENDLESS), samples, 500)[-1]
    assert deep.exits == (0, 0, sum(deep.exits))
    middle = [float(np.median(stream_scores(engine, samples, k))) for k in range(2)]
    engine.policy = Threshold(tuple(middle), "maxprob")
    mixed = hear(StreamTranscriber(engine, exit_per="chunk", rules=ENDLESS), samples, 500)[-1]
    assert sum(mixed.exits) == sum(deep.exits)
    assert sum(n > 0 for n in mixed.exits) > 1
    assert mixed.score is None
    stream, decoder = engine.stream(), GreedyDecoder(StreamTranscriber(engine).tokens)
    for chunk in chunks(samples):
        decoder.accept(stream.step(chunk).output)
    assert decoder.text == mixed.text


def test_nothing_and_silence(bundles: tuple[Path, Path]) -> None:
    engine = edgeexit.load(bundles[1], artifact="chain")
    assert hear(StreamTranscriber(engine), np.zeros(0, np.float32), 100) == []
    found = hear(StreamTranscriber(engine), np.zeros(RATE * 3, np.float32), 1000)
    assert all(np.isfinite(h.seconds) for h in found)
    ear = StreamTranscriber(engine, rules=ENDLESS)
    first, again = hear(ear, sound(2.0), 900)[-1], hear(ear, sound(2.0), 900)[-1]
    assert (first.text, first.start, first.end) == (again.text, again.start, again.end), "finish() begins anew"


def test_networks_that_cannot_are_named(bundles: tuple[Path, Path], tiny: Path) -> None:
    with pytest.raises(BundleError, match="no states"):
        StreamTranscriber(edgeexit.load(bundles[0], artifact="chain"))
    with pytest.raises(BundleError, match="no `speech`"):
        StreamTranscriber(edgeexit.load(tiny, artifact="chain"))
    with pytest.raises(PolicyError, match="0"):
        edgeexit.load(bundles[1], artifact="chain").stream(limit=0)


def utterances(folder: Path) -> Path:
    """Sound of different lengths, the last shorter than a chunk."""
    heard = [sound(s, i) for i, s in enumerate((3.3, 1.7, 2.6, 4.1, 2.2, 3.0, 1.1, 2.9, 3.7, 0.1))]
    return write_speech(folder / "said.npz", heard, ["a b c"] * len(heard), RATE)


def test_rows_are_those_of_whole_utterances(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    data = read_speech(utterances(tmp_path))
    whole, stream = (record_speech(edgeexit.load(b, artifact="chain"), data) for b in bundles)
    assert stream.texts == whole.texts and len(set(stream.texts[0])) > 4
    np.testing.assert_array_equal(stream.rows.edits, whole.rows.edits)
    for name in whole.rows.score_names:
        np.testing.assert_allclose(stream.rows.scores(name), whole.rows.scores(name), atol=1e-4, err_msg=name)
    assert stream.rows.seconds is not None and (np.diff(stream.rows.seconds, axis=0) > 0).all()


def test_a_stream_decides_as_the_replay_of_its_rows(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    engine, data = edgeexit.load(bundles[1], artifact="chain"), read_speech(utterances(tmp_path))
    rows, seen = record_speech(engine, data).rows, set()
    for policy in policies(3)[:-1]:
        engine.policy, taken = policy, replay(policy, rows)
        for said, exit in zip(data, taken, strict=True):
            found = hear(StreamTranscriber(engine, rules=ENDLESS), said.samples, 400)[-1]
            assert found.exit == exit, (policy, said.name)
        seen |= {*taken.tolist()}
    assert seen == {0, 1, 2}


def test_sound_that_is_no_utterance(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    ear = StreamTranscriber(edgeexit.load(bundles[1], artifact="chain"), rules=EndpointRules(longest_s=2.0))
    for samples, says in ((np.zeros(10, np.float32), "0.0025 s"), (sound(2.5), "2.5 s of sound; .* at most 2 s")):
        with pytest.raises(DataError, match=says):
            ear.every_exit(samples)
    assert len(ear.every_exit(sound(1.0))) == 3
    data = read_speech(write_speech(tmp_path / "short.npz", [sound(1.0), np.zeros(10, np.float32)], ["a", "b"], RATE))
    with pytest.raises(DataError, match=r"short.npz.*: 0.0025 s of sound; expected more than a frame"):
        record_speech(ear.engine, data)


def test_a_streaming_bundle_is_calibrated_and_evaluated(
    bundles: tuple[Path, Path], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    pytest.importorskip("jiwer", reason="counts errors")
    bundle, data = shutil.copytree(bundles[1], tmp_path / "stream.edgeexit"), utterances(tmp_path)
    assert len(cli("evaluate", bundle, data, "--json").json["exits"]) == 3
    many = [sound(1.1 + i % 5 / 3, i) for i in range(44)]
    data = write_speech(tmp_path / "many.npz", many, ["a b c"] * len(many), RATE)
    assert cli("calibrate", bundle, "--data", data, "--accuracy-drop", "0.05", "--name", "near").code == 0
    assert edgeexit.load(bundle, policy="near").policy == edgeexit.Bundle.open(bundle).operating_point("near").policy
