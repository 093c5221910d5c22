"""`edgeexit transcribe`: text and exit, JSON, and one line for everything that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgeexit
from edgeexit.errors import BackendMissing
from made_wavs import write
from speech import heard_nets
from speech.heard_nets import SPEECH, said


@pytest.fixture(scope="module")
def tones() -> Path:
    pytest.importorskip("onnxruntime", reason="an engine runs the network")
    return heard_nets.tones()


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return write(tmp_path / "said.wav", said("low", "high").astype(np.float64))


def test_text(cli: Callable[..., object], tones: Path, sound: Path) -> None:
    found = cli("transcribe", tones, sound)
    text, summary, used = found.out.splitlines()
    assert found.code == 0 and text == "low high"
    assert "exit 1 of 0..1 (last), score 0." in summary and "2.00 s in " in summary and "real-time factor 0." in summary
    assert "no operating point" in used


def test_exits_files_and_notices(cli: Callable[..., object], tones: Path, sound: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.wav", said("low", rate=16000).astype(np.float64), 16000)
    found = cli("transcribe", tones, sound, other, "--exit", 0, "--all-exits", "--artifact", "chain")
    assert found.code == 0
    assert f"{sound}: low\n" in found.out and f"{other}: low\n" in found.out
    assert "exit 0: low\n  exit 1: low high\n" in found.out and "(forced)" in found.out
    assert "the model takes 8000 Hz; resampled" in found.err


def test_a_header_is_read_once(
    cli: Callable[..., object], tones: Path, sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeexit.speech import wav

    calls, original = [], wav.read_chunks

    def counted(*arguments: object) -> object:
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(wav, "read_chunks", counted)
    assert cli("transcribe", tones, sound).code == 0 and len(calls) == 1
    assert cli("transcribe", tones, sound, "--json").code == 0 and len(calls) == 2


def test_json(cli: Callable[..., object], tones: Path, sound: Path) -> None:
    found = cli("transcribe", tones, sound, "--json", "--deadline-ms", 1000).json
    (heard,) = found["files"]
    assert heard["text"] == "low high" and heard["exit"] == 1 and heard["parts"][0]["late"] is False
    assert [t["symbol"] for t in heard["parts"][0]["tokens"]] == ["▁low", "▁high"]
    assert found["artifact"] == "onnx-chain-fp32"


def test_parts(cli: Callable[..., object], tones: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "long.wav", np.concatenate([said(*["low"] * 5), np.zeros(40000)]).astype(np.float64))
    found = cli("transcribe", tones, path, "--window-s", 3)
    lines = found.out.splitlines()
    assert lines[0] == "     0.00 s  low low low  (exit 1, last)"
    assert lines[-3].endswith("s    (silence)") and "exit 1 of 0..1" in lines[-2]
    assert " ".join(lines).count("low") == 5
    json = cli("transcribe", tones, path, path, "--window-s", 3, "--json").json
    assert [f["text"] for f in json["files"]] == ["low low low low low"] * 2


def test_silence(cli: Callable[..., object], tones: Path, tmp_path: Path) -> None:
    found = cli("transcribe", tones, write(tmp_path / "a.wav", np.zeros(8000)))
    assert found.out.startswith("\n  silence, the network was not run; 1.00 s in ")


def test_refused(cli: Callable[..., object], tones: Path, tiny: Path, sound: Path, tmp_path: Path) -> None:
    empty, text = tmp_path / "empty.wav", tmp_path / "text.wav"
    empty.write_bytes(b"")
    text.write_text("no sound")
    for arguments, message in (
        ((tones,), "takes FILE.wav..., or --mic"),
        ((tones, sound, "--mic"), "takes FILE.wav..., or --mic"),
        ((tones, tmp_path / "none.wav"), "none.wav: no such file"),
        ((tones, empty), "empty.wav: the file is empty"),
        ((tones, text), "expected a RIFF .wav"),
        ((tones, sound, "--window-s", "nan"), "longest_s"),
        ((tones, sound, "--exit", 0, "--budget", 0.5), "exclude each other"),
        ((tiny, sound), "is no speech model"),
    ):
        assert message in cli("transcribe", *arguments).error


def test_inspect_tells_what_it_hears(cli: Callable[..., object], tones: Path) -> None:
    found = cli("inspect", tones).out
    assert f"hears 8000 Hz in 20 bands from 20 to 3600 Hz (features {SPEECH.features.digest}), writes 4 tokens" in found


def test_a_bare_onnx_file_is_told_how_it_hears(
    cli: Callable[..., object], tones: Path, sound: Path, tmp_path: Path
) -> None:
    known = edgeexit.Bundle.open(tones)
    network = known.file(known.manifest.artifact("onnx-all-fp32").models[0])
    exits = [e.answer.name for e in known.manifest.exits]
    lengths = ",".join(e.lengths or "" for e in known.manifest.exits)
    told, out = tmp_path / "speech.json", tmp_path / "bare.edgeexit"
    told.write_text(json.dumps(SPEECH.to_dict()))
    wanted = ("export", network, "--exits", ",".join(exits), "--lengths", lengths, "--layouts", "chain", "-o", out)
    assert cli(*wanted, "--speech", told).code == 0
    assert cli("transcribe", out, sound).out.startswith("low high\n")
    assert "tones: transcription" in cli("inspect", tones).out
    told.write_text(json.dumps({**SPEECH.to_dict(), "blank": 9}))
    error = cli(*wanted, "--speech", told, "--overwrite").error
    assert "speech.json.blank: expected one of the 4 tokens, found 9" in error


def test_no_microphone() -> None:
    from edgeexit.speech.live import microphone

    try:
        import sounddevice  # noqa: F401
    except (ImportError, OSError):
        with pytest.raises(BackendMissing, match=r"pip install 'edgeexit\[mic\]'"):
            next(microphone(8000))
    else:
        pytest.skip("sounddevice is installed here")
