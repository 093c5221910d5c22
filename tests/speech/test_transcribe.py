"""Samples and files through a real engine: text, exit, times, long and odd audio."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeexit
from edgeexit import BundleError, DataError, fixed_exit
from edgeexit.speech.endpoint import EndpointRules
from edgeexit.speech.live import LiveText, listen
from edgeexit.speech.offline import Transcriber
from edgeexit.speech.transcript import Part
from made_wavs import write
from speech.heard_nets import RATE, SPEECH, said

WORDS = ("low", "high", "high", "low")


@pytest.fixture(params=["fused", "chain"])
def engine(tones: Path, request: pytest.FixtureRequest) -> edgeexit.Engine:
    return edgeexit.load(tones, artifact=request.param, warmup=1)


def test_words_exit_and_times(engine: edgeexit.Engine) -> None:
    heard = Transcriber(engine, all_exits=True).samples(said(*WORDS))
    assert heard.text == "low high high low"
    assert (heard.exit, heard.reason) == (1, "last") and heard.score is not None and 0 < heard.score <= 1
    assert heard.at_exits == ("low low", "low high high low")
    assert [t.symbol for t in heard.tokens] == ["▁low", "▁high", "▁high", "▁low"]
    assert [t.seconds for t in heard.tokens] == pytest.approx([0.4, 1.2, 2.0, 2.8], abs=0.1)
    assert heard.audio_seconds == pytest.approx(3.6)
    assert heard.real_time_factor == pytest.approx(heard.seconds / 3.6)
    (part,) = heard.parts
    assert part.decision is not None and part.decision.output.shape == ((360 - 3) // 4, 4)
    assert part.silent_seconds == pytest.approx(0.4, abs=0.15)
    assert json.loads(json.dumps(heard.to_dict()))["parts"][0]["tokens"][0]["symbol"] == "▁low"


def test_an_early_exit_answers(engine: edgeexit.Engine) -> None:
    engine.policy = fixed_exit(0, 2, engine.artifact.score or "maxprob")
    heard = Transcriber(engine).samples(said(*WORDS))
    assert (heard.text, heard.exit, heard.reason, heard.at_exits) == ("low low", 0, "forced", None)


def test_a_deadline_is_kept_and_told(engine: edgeexit.Engine) -> None:
    heard = Transcriber(engine, deadline_s=1e-9).samples(said("low"))
    assert (heard.exit, heard.reason) == (0, "deadline")
    assert heard.parts[0].decision is not None and heard.parts[0].decision.late


@pytest.mark.parametrize("samples", [0, 1, 39, 40, 120, 300, 560, 600, 800])
def test_short_audio(engine: edgeexit.Engine, samples: int) -> None:
    x = said("low")[:samples]
    heard = Transcriber(engine, all_exits=True).samples(x)
    assert heard.text == ""
    if samples < 40:  # not one frame
        assert (heard.exit, heard.reason, heard.score) == (None, "silence", None)
    else:
        frames = SPEECH.features.frames(samples)
        assert heard.parts[0].decision is not None
        assert len(heard.parts[0].decision.output) == max(0, frames - 3) // 4


def test_silence(engine: edgeexit.Engine) -> None:
    transcriber = Transcriber(engine, all_exits=True)
    for level in (0.0, 0.25):  # digital silence, also where a recorder has an offset: the network is not asked
        heard = transcriber.samples(np.full(RATE, level, np.float32))
        assert (heard.text, heard.exit, heard.reason, heard.at_exits) == ("", None, "silence", ("", ""))
    faint = transcriber.samples(said()[:RATE])
    assert (faint.text, faint.exit) == ("", 1) and faint.parts[0].silent_seconds == faint.audio_seconds
    assert transcriber.samples(np.zeros(0, np.float32)).to_dict()["real_time_factor"] is None


def test_long_audio_goes_in_windows(engine: edgeexit.Engine, tmp_path: Path) -> None:
    words = WORDS * 10
    path = write(tmp_path / "long.wav", said(*words).astype(np.float64))
    seen: list[Part] = []
    heard = Transcriber(engine, longest_s=5.0).file(path, progress=seen.append)
    assert heard.text == " ".join(words)
    assert len(heard.parts) > 6 and all(p.audio_seconds <= 5 for p in heard.parts)
    assert heard.audio_seconds == pytest.approx(40 * 0.8 + 0.4)
    assert [(p.start, p.text) for p in seen] == [(p.start, p.text) for p in heard.parts]
    assert all(p.decision is not None and p.decision.output.shape == (0, 4) for p in heard.parts)  # hours add up
    starts = [t.seconds for t in heard.tokens]
    assert starts == pytest.approx([0.4 + 0.8 * i for i in range(40)], abs=0.1)


def test_an_hour_needs_the_memory_of_a_window(tones: Path, tmp_path: Path) -> None:
    """Twenty minutes, of which an hour is three times; 8-bit and at another rate, as old recorders do."""
    x = np.zeros(1200 * 11025)
    x[11025 * 300 : 11025 * 300 + 5000] = 0.5 * np.sin(2 * np.pi * 300 / 11025 * np.arange(5000))
    path = write(tmp_path / "hour.wav", x, 11025, 8)
    transcriber = Transcriber(edgeexit.load(tones, artifact="chain", warmup=0))
    tracemalloc.start()
    try:
        heard = transcriber.file(path, convert=True, notice=lambda _: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert heard.text == "low" and heard.audio_seconds == pytest.approx(1200)
    assert peak < 20 << 20  # the whole as float32 would be 38 MB at 8 kHz alone


def test_files_say_what_was_done(engine: edgeexit.Engine, tmp_path: Path) -> None:
    stereo = np.stack([said("low", "high", rate=16000)] * 2, 1).astype(np.float64)
    path = write(tmp_path / "a.wav", stereo, 16000)
    told: list[str] = []
    assert Transcriber(engine).file(path, convert=True, notice=told.append).text == "low high"
    assert len(told) == 2 and "mixed down" in told[0] and "resampled" in told[1]
    with pytest.raises(DataError, match="2 channels"):
        Transcriber(engine).file(path)
    with pytest.raises(DataError, match="16000 Hz, the model takes 8000"):
        Transcriber(engine).samples(said("low", rate=16000), 16000)
    assert Transcriber(engine).samples(said("low", rate=16000), 16000, convert=True, notice=told.append).text == "low"


def test_a_network_of_fixed_length(buckets: Path) -> None:
    engine = edgeexit.load(buckets, artifact="chain")
    transcriber = Transcriber(engine)
    assert transcriber.longest_s == 1.0
    words = WORDS * 3
    heard = transcriber.samples(said(*words))
    assert heard.text == " ".join(words) and all(p.audio_seconds <= 1 for p in heard.parts)
    with pytest.raises(DataError, match="'x' takes 100"):
        transcriber.part(said(*words))


def test_odd_samples(engine: edgeexit.Engine) -> None:
    transcriber = Transcriber(engine)
    for x, message in (
        (np.full(1000, np.nan, np.float32), "nan at 0"),
        (np.zeros((100, 2), np.float32), "one channel"),
        (np.zeros(100, np.int16), "one channel of floats"),
    ):
        with pytest.raises(DataError, match=message):
            transcriber.samples(x)


def changed(tones: Path, folder: Path, **parts: Any) -> Path:
    path = Path(shutil.copytree(tones, folder / "b.edgeexit"))
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, **parts}))
    return path


def test_bundles_that_do_not_hear(tones: Path, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no speech model"):
        Transcriber(edgeexit.load(tiny))
    other = {**SPEECH.to_dict(), "features": {**SPEECH.features.to_dict(), "bins": 19}}
    with pytest.raises(BundleError, match="takes 20 bins, its `speech` makes 19"):
        Transcriber(edgeexit.load(changed(tones, tmp_path, speech=other)))


def test_a_window_that_is_none(engine: edgeexit.Engine) -> None:
    for longest_s in (0.0, 0.01, -1.0, float("nan"), 1e9):
        with pytest.raises(DataError, match="longest_s"):
            Transcriber(engine, longest_s=longest_s)


def blocks(x: np.ndarray, size: int = 777) -> list[np.ndarray]:
    return [x[i : i + size] for i in range(0, len(x), size)]


def test_listening(tones: Path) -> None:
    transcriber = Transcriber(edgeexit.load(tones, artifact="chain", warmup=0))
    pause = said(pause=1.6)
    x = np.concatenate([said(pause=3.0), said("low", "high"), pause, said("high"), pause])
    found: list[LiveText] = list(listen(transcriber, blocks(x)))
    final = [(h.part.text, h.end) for h in found if h.end is not None]
    assert final == [("low high", "pause"), ("high", "pause")]
    partial = [h.part.text for h in found if h.end is None]
    assert partial.index("low") < partial.index("low high") < partial.index("high")
    assert found[0].part.tokens[0].seconds == pytest.approx(3.4, abs=0.15)  # on the clock of the whole


def test_a_word_on_the_edge_of_an_utterance_is_heard_once(tones: Path) -> None:
    transcriber = Transcriber(edgeexit.load(tones, artifact="chain", warmup=0))
    for lead in np.arange(2.4, 2.52, 0.01):  # silence ends an utterance at 2.5, in the middle of a short word
        x = np.concatenate([said(pause=lead), said("high", seconds=0.06, pause=0.0), said(pause=2.0)])
        heard = " ".join(h.part.text for h in listen(transcriber, blocks(x)) if h.end is not None)
        assert heard == "high", lead


def test_listening_without_a_pause_or_an_end(tones: Path) -> None:
    transcriber = Transcriber(edgeexit.load(tones, artifact="chain", warmup=0))
    rules = EndpointRules(longest_s=2.0)
    found = [h for h in listen(transcriber, blocks(said(*WORDS)), rules) if h.end is not None]
    assert [h.end for h in found] == ["length", "pause"]
    assert " ".join(h.part.text for h in found).count("high") == 2
    with pytest.raises(DataError, match="must fit"):
        next(listen(transcriber, [], EndpointRules(longest_s=30.0)))
