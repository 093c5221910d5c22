"""Runs decide on what exits write exactly as a replay of their recorded rows does."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="runs ONNX models")
pytest.importorskip("torch", reason="exports a torch model")
pytest.importorskip("onnxscript", reason="exports a torch model")

from edgeexit.engine.engine import Engine
from edgeexit.engine.loading import load
from edgeexit.errors import DataError, PolicyError
from edgeexit.policy.policies import Patience, Policy, QExit, Threshold, fixed_exit
from edgeexit.policy.scores import TEXT_SCORES
from edgeexit.records.base import replay
from edgeexit.records.transcripts import SequenceRecords, text_number
from edgeexit.speech.data import SpeechData, is_speech_data, read_speech
from edgeexit.speech.offline import Transcriber
from edgeexit.speech.record import Recording, record_speech
from edgeexit.speech.scorer import Scorer
from speech_nets import EXITS, SPEECH, sounds, speech_bundle, write_speech

N = 24
SOUND = sounds(N)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load(speech_bundle(), warmup=0)


@pytest.fixture(scope="module")
def data(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> SpeechData:
    path = tmp_path_factory.mktemp("sound") / "sound.npz"
    texts = ["one two", "", "three three four", "four"] * (N // 4)
    return read_speech(write_speech(path, SOUND, texts))


@pytest.fixture(scope="module")
def recording(engine: Engine, data: SpeechData) -> Recording:
    return record_speech(engine, data)


def heard(engine: Engine, i: int) -> dict[str, np.ndarray]:
    return Transcriber(engine).inputs(SOUND[i])


def policies(rows: SequenceRecords) -> list[Policy]:
    middle = [Threshold(tuple(np.median(rows.scores(s)[:-1], 1).tolist()), s) for s in TEXT_SCORES]
    return [*middle, Threshold((1.0, 1.0), "agreement"), Patience(1), Patience(2), QExit(0.9, "greedy_path")]


def test_the_default_needs_no_calibration(engine: Engine) -> None:
    assert engine.policy == Threshold((1.0,) * (EXITS - 1), "agreement")
    assert engine.default_score == "ctc_sequence_logprob"


def test_engine_decides_as_the_replay(engine: Engine, recording: Recording) -> None:
    rows = recording.rows
    assert rows.n == N and rows.score_names == TEXT_SCORES and rows.measure == "WER"
    assert len({len(s) for s in SOUND}) > N // 2
    spread = set()
    for policy in policies(rows):
        engine.policy = policy
        taken = replay(policy, rows)
        spread.add(tuple(np.bincount(taken, minlength=EXITS).tolist()))
        for i in range(N):
            found = engine.run(heard(engine, i))
            assert found.exit == taken[i], (policy, i)
            if policy.score is not None:
                assert found.score == rows.scores(policy.score)[found.exit, i]
    assert len(spread) > 4  # these policies do not all do the same


def test_a_batch_with_padding_decides_as_each_alone(engine: Engine, recording: Recording) -> None:
    each = [heard(engine, i) for i in range(N)]
    longest = max(e["x"].shape[1] for e in each)
    x = np.full((N, longest, each[0]["x"].shape[2]), 7.0, np.float32)  # padding may hold anything
    for i, e in enumerate(each):
        x[i, : e["x"].shape[1]] = e["x"][0]
    batch = {"x": x, "x_lens": np.concatenate([e["x_lens"] for e in each])}
    for policy in policies(recording.rows):
        engine.policy = policy
        many = engine.run_batch(batch)
        assert many.exits.tolist() == replay(policy, recording.rows).tolist()
        assert many.lengths is not None
        if policy.score is not None:
            alone = recording.rows.scores(policy.score)[many.exits, np.arange(N)]
            np.testing.assert_allclose(many.scores, alone, atol=1e-4)


def test_scores_ignore_what_stands_in_the_padding() -> None:
    rng = np.random.default_rng(0)
    z = 2 * rng.standard_normal((5, 30, len(SPEECH.tokens))).astype(np.float32)
    lengths = np.array([30, 17, 1, 0, 9])
    padded = z.copy()
    for i, n in enumerate(lengths):
        padded[i, n:] = 1e4 * rng.standard_normal((30 - n, len(SPEECH.tokens)))
    found, alone = Scorer(SPEECH), [Scorer(SPEECH) for _ in lengths]
    for shift in (0.0, 0.7):  # two exits, so that agreement has something to compare
        found.see(padded + np.float32(shift) * padded[:, :, ::-1], lengths)
        for i, n in enumerate(lengths):
            alone[i].see(z[i : i + 1, :n] + np.float32(shift) * z[i : i + 1, :n, ::-1], None)
    for name in TEXT_SCORES:
        expected = np.concatenate([a.score(name) for a in alone])
        np.testing.assert_allclose(found.score(name), expected, rtol=1e-6, err_msg=name)
        assert ((expected >= 0) & (expected <= 1)).all()
    assert found.labels().tolist() == [str(a.labels()[0]) for a in alone]


def test_an_answer_with_nan_never_stops() -> None:
    z = np.zeros((1, 4, len(SPEECH.tokens)), np.float32)
    z[0, 2, 1] = np.nan
    scorer = Scorer(SPEECH)
    scorer.see(z, None)
    first = scorer.labels()
    scorer.see(z, None)
    assert all(math.isnan(scorer.score(name)[0]) for name in TEXT_SCORES)
    assert not Patience(1).stop([], [first, scorer.labels()]).any()


def test_logits_and_probabilities_are_normalised() -> None:
    z = np.random.default_rng(1).standard_normal((2, 9, len(SPEECH.tokens))).astype(np.float32)
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    forms = [Scorer(SPEECH) for _ in range(4)]
    forms[0].see(z, None)
    forms[1].see(np.log(p), None)
    forms[2].see(p, None, "probs")
    forms[3].see(2 * z, None, temperature=2.0)
    for name in TEXT_SCORES:
        for other in forms[1:]:
            np.testing.assert_allclose(forms[0].score(name), other.score(name), rtol=1e-4)


def test_dropped_classes_are_not_written() -> None:
    z = np.full((1, 5, len(SPEECH.tokens)), -9.0, np.float32)
    z[0, np.arange(5), [1, 2, 0, 1, 3]] = 9.0
    scorer = Scorer(SPEECH)
    scorer.see(z, None)
    assert scorer.labels().tolist() == ["one two"]
    z[0, 3] = z[0, 2]  # without the dropped class
    scorer.see(z, None)
    assert scorer.score("agreement").tolist() == [1.0]


def test_what_exits_wrote_is_counted(recording: Recording) -> None:
    rows = recording.rows
    assert rows.edits is not None and rows.units is not None
    assert rows.units.tolist() == [2, 0, 3, 1] * (N // 4)
    assert [[text_number(t) for t in texts] for texts in recording.texts] == rows.answers.tolist()
    silent = [i for i in range(N) if not recording.references[i]]
    assert [rows.edits[0, i] for i in silent] == [len(recording.texts[0][i].split()) for i in silent]
    assert rows.seconds is not None and (np.diff(rows.seconds, axis=0) > 0).all()
    assert rows.audio is not None and rows.audio.tolist() == [len(s) / 8000 for s in SOUND]


def test_prefixes_score_but_have_no_exit_before(engine: Engine, recording: Recording) -> None:
    alone = load(engine.bundle, artifact="prefix", warmup=0, policy=fixed_exit(1, EXITS, "greedy_path"))
    found = alone.run(heard(engine, 0))
    assert abs(found.score - recording.rows.scores("greedy_path")[1, 0]) < 1e-5
    with pytest.raises(PolicyError, match="agreement compares two exits, and layout prefix runs one"):
        alone.policy = fixed_exit(1, EXITS, "agreement")


def test_scores_of_transcripts_need_speech(engine: Engine, tmp_path: Path) -> None:
    manifest = replace(engine.bundle.manifest, speech=None)
    driver = type(engine.driver)(manifest, engine.artifact, engine.driver.models, engine.clock)  # type: ignore[attr-defined, call-arg]
    with pytest.raises(PolicyError, match="'agreement' is of transcripts"):
        driver.fits(Threshold((1.0, 1.0), "agreement"))


def test_data_of_other_forms(tmp_path: Path, data: SpeechData) -> None:
    import wave

    for i in range(3):
        with wave.open(str(tmp_path / f"{i}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(np.round(SOUND[i] * 32767).astype("<i2").tobytes())
        (tmp_path / f"{i}.txt").write_text(f" said  {i}\n")
    (tmp_path / "list.tsv").write_text("0.wav\tsaid 0\n\n1.wav\tsaid 1\r\n2.wav\tsaid 2\n")
    for form in (tmp_path, tmp_path / "list.tsv"):
        assert is_speech_data(form)
        found = list(read_speech(form))
        assert [u.text for u in found] == ["said 0", "said 1", "said 2"]
        assert all(np.abs(u.samples - SOUND[i]).max() < 1e-4 and u.rate == 8000 for i, u in enumerate(found))
    (tmp_path / "list.tsv").write_text("0.wav said 0\n")
    with pytest.raises(DataError, match=r"list\.tsv: line 1: expected 'file\.wav<TAB>text'"):
        read_speech(tmp_path / "list.tsv")
    (tmp_path / "2.txt").unlink()
    with pytest.raises(DataError, match=r"no 2\.txt beside it"):
        read_speech(tmp_path)
    with pytest.raises(DataError, match=r"no such file|cannot be read"):
        read_speech(tmp_path / "absent.tsv")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"texts": np.arange(2)}, "texts must be"),
        ({"starts": np.array([0, 9, 5])}, "starts must be 3 rising places"),
        ({"starts": np.array([0, 5, 1000])}, "starts must be 3 rising places"),
        ({"samples": np.zeros((2, 3))}, "samples must be float or int16"),
        ({"sample_rate": np.array(0)}, "sample_rate must be one whole number"),
    ],
)
def test_damaged_data(tmp_path: Path, changed: dict[str, np.ndarray], message: str) -> None:
    good = {
        "samples": np.zeros(100, np.float32),
        "starts": np.array([0, 50, 100]),
        "texts": np.array(["a", "b"]),
        "sample_rate": np.array(8000),
    }
    np.savez(tmp_path / "d.npz", **{**good, **changed})
    with pytest.raises(DataError, match=message):
        read_speech(tmp_path / "d.npz")


def test_another_rate_is_resampled_if_allowed(engine: Engine, tmp_path: Path) -> None:
    path = write_speech(tmp_path / "d.npz", SOUND[:2], ["one", "two"])
    arrays = dict(np.load(path))
    np.savez(path, **{**arrays, "sample_rate": np.int64(16000)})
    with pytest.raises(DataError, match="16000 Hz, the model takes 8000 Hz; resample it"):
        record_speech(engine, read_speech(path))
    said: list[str] = []
    rows = record_speech(engine, read_speech(path), convert=True, notice=said.append).rows
    assert rows.n == 2 and len(said) == 1 and "resampled" in said[0]
