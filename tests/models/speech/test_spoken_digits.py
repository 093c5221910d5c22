"""Connected digits: fixed sets repeat, speakers stay apart, levels are what they say."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeexit.errors import DataError
from recipes import spoken_digits as digits
from shared_data import data_dir


def voice(hertz: float) -> digits.Voice:
    """Ten digits, two takes each: tones whose length tells the digit."""
    return [
        [np.sin(2 * np.pi * hertz * np.arange(600 + 100 * d + t) / 8000).astype(np.float32) * 0.1 for t in (0, 7)]
        for d in range(10)
    ]


VOICES = {name: voice(200 + 170 * i) for i, name in enumerate((*digits.TRAIN, *digits.DEV, *digits.TEST))}


def hears(samples: np.ndarray, hertz: float) -> bool:
    """Whether there is a peak at that frequency."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    at = round(hertz * len(samples) / 8000)
    return bool(power[at - 3 : at + 4].max() > 0.01 * power.max())


def test_speakers_of_the_parts_are_disjoint() -> None:
    for a, b in itertools.combinations((digits.TRAIN, digits.DEV, digits.TEST), 2):
        assert not set(a) & set(b)


def test_a_fixed_set_is_fixed_and_longer_ones_begin_with_it() -> None:
    a, b = digits.fixed_set(VOICES, "test", 4), digits.fixed_set(VOICES, "test", 6)
    for x, y in zip(a, b[:4], strict=True):
        assert (x.samples == y.samples).all()
        assert (x.digits, x.babble_db) == (y.digits, y.babble_db)
    other = digits.fixed_set(VOICES, "test", 4, seed=1)
    assert any(x.digits != y.digits for x, y in zip(a, other, strict=True))
    with pytest.raises(DataError, match="dev or test"):
        digits.fixed_set(VOICES, "train", 1)


def test_nothing_of_a_training_speaker_is_in_the_test_set_and_the_reverse() -> None:
    quiet = replace(digits.HARD, noise_db=(60, 60), babble_db=(0, 0), digits=(4, 7))
    pitch = {name: 200 + 170 * i for i, name in enumerate(VOICES)}
    for said in digits.fixed_set(VOICES, "test", 5, m=quiet):
        assert {n for n in pitch if hears(said.samples, pitch[n])} == {*digits.TEST, *digits.DEV}
    for said in digits.fixed_set(VOICES, "dev", 5, m=quiet):
        heard = {n for n in pitch if hears(said.samples, pitch[n])}
        assert set(digits.DEV) < heard <= {*digits.DEV, *digits.TRAIN}


def test_utterances_have_the_mixture_they_name() -> None:
    for said in digits.fixed_set(VOICES, "dev", 12):
        assert 1 <= len(said.digits) <= 7
        assert said.samples.dtype == np.float32
        assert np.abs(said.samples).max() <= 1
        assert -33 < 10 * np.log10(np.mean(said.samples**2)) < -15
        assert said.babble_db is not None
        assert 0 <= said.babble_db <= 25
        assert -5 <= said.noise_db <= 30
        assert said.tokens == tuple(d + 1 for d in said.digits)
        assert [digits.SPEECH.tokens[t][1:] for t in said.tokens] == said.text.split()
    clean = digits.fixed_set(VOICES, "dev", 3, m=digits.CLEAN)
    assert all(u.babble_db is None and u.noise_db >= 25 for u in clean)


def test_training_steps_repeat_by_seed_and_number() -> None:
    voices = digits.training_voices({name: VOICES[name] for name in digits.TRAIN})
    a, b, c = (digits.training_utterances(voices, 0, step, digits=9) for step in (5, 5, 6))
    assert all((x.samples == y.samples).all() for x, y in zip(a, b, strict=True))
    assert [x.digits for x in a] != [x.digits for x in c]
    assert len({len(x.digits) for x in a}) == 1
    assert all(u.speaker.split(" x")[0] in digits.TRAIN for u in (*a, *c))


def test_speed_moves_pitch_and_length_together() -> None:
    tone = np.sin(2 * np.pi * 500 * np.arange(4000) / 8000).astype(np.float32)
    fast = digits.at_speed(tone, 1.25)
    assert len(fast) == 3200
    assert np.argmax(np.abs(np.fft.rfft(fast))) * 8000 / 3200 == pytest.approx(625, abs=3)
    assert np.abs(fast).max() == pytest.approx(1, abs=0.05)


def test_what_is_saved_is_what_was_made(tmp_path: Path) -> None:
    said = [*digits.fixed_set(VOICES, "test", 2), *digits.fixed_set(VOICES, "test", 1, m=digits.CLEAN)]
    digits.save(tmp_path / "x.npz", said)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as z:
        assert z["texts"].tolist() == [u.text for u in said]
        assert int(z["sample_rate"]) == 8000
        for i, u in enumerate(said):
            assert (z["samples"][z["starts"][i] : z["starts"][i + 1]] == u.samples).all()
        assert np.isnan(z["babble_db"]).tolist() == [False, False, True]


def test_the_data_set_is_read_and_a_damaged_one_refused(tmp_path: Path) -> None:
    pytest.importorskip("soundfile", reason="reads the flac file")
    folder = data_dir() / "fsdd"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not in the data pack")
    voices = digits.load(folder)
    assert {name: [len(clips) for clips in v] for name, v in voices.items()} == {
        name: [50] * 10 for name in (*digits.TRAIN, *digits.DEV, *digits.TEST)
    }
    with pytest.raises(DataError, match=r"need audio\.flac and meta\.npz"):
        digits.load(tmp_path)
    np.savez(tmp_path / "meta.npz", start=1)
    with pytest.raises(DataError, match=r"need audio\.flac and meta\.npz"):
        digits.load(tmp_path)
