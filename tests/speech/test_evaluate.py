"""`edgeexit evaluate`, and calibrating and sweeping on speech."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="runs ONNX models")
pytest.importorskip("torch", reason="exports a torch model")
pytest.importorskip("onnxscript", reason="exports a torch model")
pytest.importorskip("jiwer", reason="counts errors")

import jiwer

from edgeexit.engine.loading import load
from edgeexit.errors import BackendMissing, DataError, PolicyError
from edgeexit.records.base import replay
from edgeexit.records.transcripts import SequenceRecords
from edgeexit.speech.data import read_speech
from edgeexit.speech.evaluate import count_errors, evaluate
from edgeexit.speech.offline import Transcriber
from edgeexit.speech.record import Recording, record_speech
from speech_nets import EXITS, sounds, speech_bundle, write_speech

N = 40


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Recording]:
    """A bundle, and sound that its last exit mostly writes down as it is said."""
    folder = tmp_path_factory.mktemp("evaluate")
    bundle = speech_bundle()
    sound = sounds(N, 5)
    engine = load(bundle, warmup=0)
    blank = read_speech(write_speech(folder / "blank.npz", sound, ["one"] * N))
    rng = np.random.default_rng(0)
    texts = [
        " ".join(w for w in text.split() if rng.random() > 0.05) or "one"
        for text in record_speech(engine, blank, scores=("agreement",)).texts[-1]
    ]
    data = write_speech(folder / "data.npz", sound, texts)
    return bundle.path, data, record_speech(engine, read_speech(data))


def test_errors_are_jiwers(made: tuple[Path, Path, Recording]) -> None:
    recording = made[2]
    for k, texts in enumerate(recording.texts):
        found = count_errors(recording.references, texts)
        assert abs(found.wer - jiwer.wer(list(recording.references), list(texts))) < 1e-12
        assert abs(found.wer - (1 - recording.rows.correct[k].mean())) < 1e-12
        assert found.wer * found.words == pytest.approx(found.substitutions + found.deletions + found.insertions)


def test_silence_as_a_reference_counts_what_was_heard() -> None:
    found = count_errors(["one two", "", " "], ["one", "three", ""])
    assert (found.words, found.deletions, found.insertions) == (2, 1, 1) and found.wer == 1.0
    assert found.cer == pytest.approx((4 + 5) / 7)
    with pytest.raises(DataError, match="no reference has a word"):
        count_errors(["", " "], ["one", ""])


def test_what_is_evaluated(made: tuple[Path, Path, Recording]) -> None:
    design, held_out = made[2].split(0.5, 0)
    assert set(design.references + held_out.references) == set(made[2].references)
    found = evaluate(design.rows, held_out, alphas=(), policies=("agreement", "fixed"), drop=0.02)
    rows = held_out.rows
    by_name = {t.name: t for t in found.taken}
    last, oracle = by_name[f"exit {EXITS - 1} always"], by_name["oracle"]
    assert last.cost == 1.0 and last.more == 0 and last.depth == EXITS
    assert last.error == pytest.approx(found.exits[-1].wer)
    assert rows.edits is not None and rows.units is not None
    assert oracle.error == pytest.approx(rows.edits.min(0).sum() / rows.units.sum())
    assert oracle.policy is None and oracle.error <= min(e.wer for e in found.exits)
    default = by_name["agreement, not calibrated"]
    assert default.policy is not None and default.policy["thresholds"] == [1.0, 1.0]
    assert default.exit_rates[0] == 0 and default.more == pytest.approx(default.error - last.error)
    assert rows.seconds is not None and rows.audio is not None
    assert last.real_time_factor == pytest.approx(rows.seconds[-1].sum() / rows.audio.sum())
    with pytest.raises(PolicyError, match="a drop is a fraction"):
        evaluate(design.rows, held_out, drop=-1)


def test_the_command(cli: Callable[..., Any], made: tuple[Path, Path, Recording], tmp_path: Path) -> None:
    bundle, data, recording = made
    ran = cli("evaluate", bundle, data, "--policies", "agreement,fixed", "--save", tmp_path / "rows.npz")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[0].startswith(("Adaptive exits", "Whether adaptive"))
    for word in ("WER", "CER", "oracle", "agreement, not calibrated", "real-time", "AUROC", "20 utterances"):
        assert word in ran.out, word
    kept = SequenceRecords.load(tmp_path / "rows.npz")
    assert kept.edits is not None and (kept.edits == recording.rows.edits).all()
    ran = cli("evaluate", bundle, data, "--policies", "fixed", "--error", "cer", "--json")
    document = ran.json
    assert document["error"] == "CER" and len(document["exits"]) == EXITS and document["n"] == N // 2
    assert document["taken"][0]["error"] == pytest.approx(document["exits"][-1]["cer"])
    assert document["verdict"] == document["sweep"]["verdict"]["text"]


def test_the_command_draws(cli: Callable[..., Any], made: tuple[Path, Path, Recording], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="draws figures")
    bundle, data, _ = made
    ran = cli("evaluate", bundle, data, "--policies", "agreement", "--plot", tmp_path / "wer.png")
    assert ran.code == 0 and (tmp_path / "wer.png").read_bytes().startswith(b"\x89PNG")


def test_without_jiwer(made: tuple[Path, Path, Recording], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(BackendMissing, match=r"jiwer: pip install 'edgeexit\[speech\]'"):
        count_errors(["one"], ["two"])


def test_calibrating_on_speech(cli: Callable[..., Any], made: tuple[Path, Path, Recording], tmp_path: Path) -> None:
    path, data, recording = made
    bundle = shutil.copytree(path, tmp_path / path.name)
    ran = cli("calibrate", bundle, "--data", data, "--accuracy-drop", "0.05", "--name", "half")
    assert ran.code == 0 and "expected WER" in ran.out and "ctc_sequence_logprob" in ran.out
    engine = load(bundle, policy="half", warmup=0)
    taken = replay(engine.policy, recording.rows)
    transcriber = Transcriber(engine)
    for i, said in enumerate(read_speech(data)):
        heard = transcriber.samples(said.samples)
        assert (heard.exit, heard.text) == (taken[i], recording.texts[taken[i]][i])
    budget = cli("calibrate", bundle, "--data", data, "--policy", "eero", "--budget", "0.8", "--name", "eero", "--json")
    assert budget.json["policy"]["score"] == "ctc_sequence_logprob" and "WER" in budget.json["expected"]
    shown = cli("inspect", bundle).out
    assert "WER" in shown and "error rate" in shown
    ran = cli("calibrate", bundle, "--data", data, "--guarantee", "wer_gap<=0.01@0.95")
    assert "needs at least" in ran.error
    ran = cli("calibrate", bundle, "--data", data, "--temperature", "--budget", "0.8")
    assert "speech has texts" in ran.error


def test_saved_rows_are_swept_and_calibrated(
    cli: Callable[..., Any], made: tuple[Path, Path, Recording], tmp_path: Path
) -> None:
    made[2].rows.save(tmp_path / "rows.npz")
    ran = cli("calibrate", "--records", tmp_path / "rows.npz", "--budget", "0.8", "--json")
    assert ran.json["policy"]["score"] == "ctc_sequence_logprob" and "WER" in ran.json["expected"]


def test_on_the_device_budgets_are_solved_again(made: tuple[Path, Path, Recording], tmp_path: Path) -> None:
    from edgeexit.calibrate.on_bundle import store_calibration
    from edgeexit.calibrate.on_device import solve_budget

    engine = load(shutil.copytree(made[0], tmp_path / "b.edgeexit"), warmup=0)
    changed = store_calibration(engine, made[2].rows)
    policy = solve_budget(load(changed, warmup=0), 0.8)
    assert policy.score == "ctc_sequence_logprob" and len(policy.thresholds) == EXITS - 1


def test_refusals(cli: Callable[..., Any], made: tuple[Path, Path, Recording], tmp_path: Path, tiny: Path) -> None:
    bundle, data, _ = made
    assert "is no speech model" in cli("evaluate", tiny, data).error
    assert "no such file" in cli("evaluate", bundle, tmp_path / "absent.npz").error
    assert "no 'samples'" in cli("evaluate", bundle, _other(tmp_path / "x.npz")).error


def _other(path: Path) -> Path:
    np.savez(path, x=np.zeros(3))
    return path
