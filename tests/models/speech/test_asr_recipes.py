"""The speech recipes as users run them, on a few seconds of made-up sound."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import wave
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.errors import BackendMissing, DataError
from edgeexit_models.speech.conformer import conformer_edge, conformer_paper
from edgeexit_models.speech.digits import asr_digits
from edgeexit_models.speech.splitformer import Splitformer
from recipes import debian
from recipes import spoken_digits as digits
from recipes.sentences import load_trained

RECIPES = Path(__file__).parents[3] / "models" / "recipes"


def recipe(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name.replace("-", "_"), RECIPES / name / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, words)])
    module.main()


def noise(seconds: float, rate: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    tone = np.sin(2 * np.pi * (300 + 50 * seed) * np.arange(int(seconds * rate)) / rate)
    return (0.2 * tone + rng.normal(0, 0.02, int(seconds * rate))).astype(np.float32)


def wav_bytes(samples: np.ndarray, rate: int) -> bytes:
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return data.getvalue()


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    """A folder like FSDD's: two takes of ten digits by every speaker."""
    soundfile = pytest.importorskip("soundfile", reason="FSDD lies in a flac file")
    clips, rows = [], []
    for s, speaker in enumerate((*digits.TRAIN, *digits.DEV, *digits.TEST)):
        for digit in range(10):
            for take in range(2):
                clips.append(noise(0.1 + 0.01 * digit, 8000, 20 * s + digit + take))
                rows.append((digit, speaker, len(clips[-1])))
    lengths = np.array([n for *_, n in rows])
    soundfile.write(tmp_path / "audio.flac", np.concatenate(clips), 8000, subtype="PCM_16")
    np.savez(
        tmp_path / "meta.npz", start=np.cumsum(lengths) - lengths, length=lengths,
        y=np.array([d for d, *_ in rows]), speaker=np.array([s for _, s, _ in rows]),
    )  # fmt: skip
    return tmp_path


def test_digits_are_trained_measured_and_written(spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="weights are written as safetensors")
    module, out = recipe("asr-digits-fsdd"), tmp_path / "out"
    monkeypatch.setattr(module, "DEV_WHILE_TRAINING", 2)
    words = ("train", spoken, "--out", out, "--steps", 2, "--evaluate", 3)
    call(module, monkeypatch, *words)
    call(module, monkeypatch, *words, "--resume")
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["speakers"] == {"train": list(digits.TRAIN), "dev": list(digits.DEV), "test": list(digits.TEST)}
    assert set(metrics["digit_error_rate"]) == {"dev hard", "dev clean", "test hard", "test clean"}
    assert len(metrics["digit_error_rate"]["test hard"]["exits"]) == 4
    model = asr_digits()
    model.load_state_dict(safetensors.load_file(out / "asr-digits.safetensors"))
    assert float(model.mean.abs().sum()) > 0
    call(module, monkeypatch, "train", spoken, "--out", tmp_path / "alone", "--alone", 1, "--steps", 1, "--evaluate", 1)
    assert json.loads((tmp_path / "alone" / "metrics.json").read_text())["exits_after_layers"] == [1]
    with pytest.raises(SystemExit, match="resume=True"):
        call(module, monkeypatch, *words)


def test_digits_that_others_test_on_are_written(spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = recipe("asr-digits-fsdd")
    call(module, monkeypatch, "data", spoken, "--part", "test", "--count", 3, "--out", tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz", allow_pickle=False) as z:
        assert len(z["texts"]) == 3
        assert z["starts"][-1] == len(z["samples"])
    call(module, monkeypatch, "wav", spoken, "--out", tmp_path / "wavs")
    said = digits.fixed_set(digits.load(spoken), "test", 1)[0]
    with wave.open(str(tmp_path / "wavs" / "george-hard-0.wav")) as file:
        assert file.getnframes() == len(said.samples)
    assert (tmp_path / "wavs" / "george-hard-0.txt").read_text().strip() == said.text
    with pytest.raises(SystemExit, match="need audio"):
        call(module, monkeypatch, "wav", tmp_path / "nothing", "--out", tmp_path / "wavs")


def test_texts_are_read_where_they_say_what_the_voice_says() -> None:
    assert debian.prompt_words("Don't press 1, press *.") == "don't press one press star"
    assert debian.prompt_words("Press 1, or 2.") == "press one or two"
    for unclear in ("(silence)", "[beep]", "dial 500", "28.8 kilobit", "", "..."):
        assert debian.prompt_words(unclear) is None
    assert debian.stamp_words("L\u2019e\u0301toile  DE mer!") == "l'étoile de mer"
    assert debian.stamp_words("Морска звезда.") == "морска звезда"
    for unclear in ("5 cents", "un chien (Canis)", "", "?"):
        assert debian.stamp_words(unclear) is None


def test_prompts_are_trained_and_written_with_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("safetensors.torch", reason="weights are written as safetensors")
    folder, lines = tmp_path / "sounds", []
    (folder / "digits").mkdir(parents=True)
    for i in range(24):
        name = ["vm-intro", "digits/1"][i] if i < 2 else f"p{i}"
        (folder / f"{name}.wav").write_bytes(wav_bytes(noise(0.5, 8000, i), 8000))
        lines.append(f"{name}: Say {'abcdefghijklmnopqrstuvwxyz'[i]}.")
    (tmp_path / "texts.txt").write_text("\n".join([*lines, "; no text", "p99: not there"]))
    module = recipe("asr-sentences")
    words = ("asterisk", folder, tmp_path / "texts.txt", "--out", tmp_path / "out", "--steps", 2, "--seconds", 2)
    call(module, monkeypatch, *words)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["training"]["recordings"] + sum(p["recordings"] for p in metrics["parts"].values()) == 24
    speech = SpeechSpec.from_dict(json.loads((tmp_path / "out" / "speech.json").read_text()))
    assert speech.tokens[0] == "<blk>"
    assert (tmp_path / "out" / "tokens.txt").read_text().splitlines()[0] == "<blk> 0"
    with pytest.raises(SystemExit, match="too few recordings with a text"):
        call(module, monkeypatch, "asterisk", tmp_path / "out", *words[2:])


def test_stamps_are_trained_in_the_languages_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile = pytest.importorskip("soundfile", reason="the stamps are .ogg files")
    pytest.importorskip("safetensors.torch", reason="weights are written as safetensors")
    folder = tmp_path / "stamps"
    folder.mkdir()
    for i, letter in enumerate("abcdefghijklmnopqrst"):
        (folder / f"{letter}.txt").write_text(f"A {letter}.\nfr.utf8=Le {letter}é.\nru.utf8=5 {letter}\n")
        for ending in ("", "_fr", "_ru"):
            both = np.stack([noise(0.4, 22050, i)] * 2, axis=1)
            soundfile.write(folder / f"{letter}_desc{ending}.ogg", both, 22050, format="OGG", subtype="VORBIS")
    (folder / "a.txt").unlink()  # a sound without a text
    module, words = recipe("asr-sentences"), ("--out", tmp_path / "out", "--steps", 2, "--seconds", 2)
    call(module, monkeypatch, "tuxpaint", folder, "--languages", "fr", "en", *words)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["training"]["recordings"] + sum(p["recordings"] for p in metrics["parts"].values()) == 38
    speech = SpeechSpec.from_dict(json.loads((tmp_path / "out" / "speech.json").read_text()))
    model = load_trained(tmp_path / "out")
    assert model.speech_spec == speech
    assert not model.training
    with pytest.raises(DataError, match=r"speech\.json: cannot be read"):
        load_trained(folder)
    assert "é" in speech.tokens
    assert speech.features.sample_rate == 16000
    with pytest.raises(SystemExit, match=r"too few recordings .*train 0, dev 0, test 0"):
        call(module, monkeypatch, "tuxpaint", folder, "--languages", "ru", *words)
    with pytest.raises(SystemExit, match=r"\*_desc_xx.ogg; languages there: .*'fr', 'ru'"):
        call(module, monkeypatch, "tuxpaint", folder, "--languages", "xx", *words)
    (folder / "b_desc_fr.ogg").write_bytes(b"OggS but no more")
    with pytest.raises(SystemExit, match=r"b_desc_fr\.ogg: not readable as sound"):
        call(module, monkeypatch, "tuxpaint", folder, *words)


class Rows:
    """What the recipe uses of a `datasets.Dataset`."""

    column_names = ("audio", "text")

    def __init__(self, rate: int) -> None:
        self.audio = [{"bytes": wav_bytes(noise(0.4 + 0.1 * i, rate, i), rate), "path": f"{i}.wav"} for i in range(8)]
        self.text = [f"{'A LITTLE TEXT ' * (1 + i % 2)}" for i in range(8)]

    def __getitem__(self, key: Any) -> Any:
        return self.text if key == "text" else {"audio": self.audio[key], "text": self.text[key]}


def test_the_librispeech_recipe_runs_the_same_code_on_a_few_recordings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("soundfile", reason="decodes the recordings")
    module = recipe("asr-librispeech")
    monkeypatch.setattr(
        module, "load", lambda split, local: module.Recordings(Rows(8000 if "other" in split else 16000))
    )
    call(
        module, monkeypatch, "--out", tmp_path / "out", "--model", "edge", "--steps", 2, "--tokens", 16,
        "--batch-seconds", 2, "--warm-up", 1, "--report-every", 1,
    )  # fmt: skip
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(metrics["parts"]) == ["validation.clean", "test.clean", "test.other"]
    assert metrics["parts"]["test.other"]["words"] == 36
    assert len((tmp_path / "out" / "tokens.txt").read_text().splitlines()) == 16
    rows = module.Recordings(Rows(8000))
    assert len(rows.samples(0)) == 6400  # resampled to 16 kHz
    with pytest.raises(DataError, match="text missing"):
        without = Rows(8000)
        without.column_names = ("audio",)  # type: ignore[assignment]
        module.Recordings(without)


def test_the_librispeech_networks_are_the_papers() -> None:
    module = recipe("asr-librispeech")
    speech = SpeechSpec(module.FEATURES, ("<blk>", *map(chr, range(0x4E00, 0x4E00 + 255))), 0)
    with torch.device("meta"):
        paper, split = module.build("paper", speech), module.build("splitformer", speech)
        assert sum(p.numel() for p in paper.parameters()) == sum(p.numel() for p in conformer_paper().parameters())
    assert isinstance(split, Splitformer)
    assert paper.speech_spec is split.speech_spec is speech
    assert module.build("edge", speech).config == conformer_edge(256, 80).config


def test_a_missing_library_or_network_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = recipe("asr-librispeech")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BackendMissing, match="pip install datasets"):
        module.load("test.clean", None)

    class Offline(ModuleType):
        @staticmethod
        def load_dataset(*_: object, **__: object) -> None:
            raise ConnectionError("no route to host")

        @staticmethod
        def load_from_disk(path: str) -> None:
            raise FileNotFoundError(f"{path} is not there")

    monkeypatch.setitem(sys.modules, "datasets", Offline("datasets"))
    pytest.importorskip("soundfile", reason="is asked for before the data")
    with pytest.raises(DataError, match=r"no route to host.*--local"):
        module.load("test.clean", None)
    with pytest.raises(DataError, match="is not there"):
        module.load("test.clean", tmp_path / "x")
