"""Log-mel features: Kaldi's numbers, the same however the audio arrives."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.bundle.feature_spec import FeatureSpec
from edgeexit.errors import BundleError, DataError
from edgeexit.speech.features import FeatureStream, log_mel

SPECS = {
    "8k-40": FeatureSpec(8000, 40),
    "8k-40-below": FeatureSpec(8000, 40, high_hz=-400),
    "16k-80": FeatureSpec(16000, 80),
    "16k-80-sherpa": FeatureSpec(16000, 80, high_hz=-400),
    "16k-80-whole-windows": FeatureSpec(16000, 80, snip_edges=True),
    "16k-64-hamming": FeatureSpec(16000, 64, window="hamming", sample_scale=32768.0, low_hz=0),
    "8k-20-plain": FeatureSpec(8000, 20, window="hanning", preemphasis=0, remove_dc=False, window_ms=32, shift_ms=16),
    "8k-20-rectangular": FeatureSpec(8000, 20, window="rectangular", high_hz=3000),
}
LENGTHS = (0, 1, 39, 40, 79, 80, 81, 120, 199, 200, 201, 300, 399, 400, 401, 1000, 16001)


def sound(samples: int, seed: int = 0) -> NDArray[np.float32]:
    """Noise whose loudness wanders, with a tone in it."""
    rng = np.random.default_rng(seed)
    loudness = np.exp(np.cumsum(rng.standard_normal(samples)) * 0.01)
    found = rng.standard_normal(samples) * loudness * 0.05 + 0.1 * np.sin(np.arange(samples) * 0.3)
    return np.clip(found, -1, 1).astype(np.float32)


def kaldi(samples: NDArray[np.float32], spec: FeatureSpec) -> NDArray[np.float32]:
    knf = pytest.importorskip("kaldi_native_fbank", reason="kaldi-native-fbank has the numbers to compare with")
    options = knf.FbankOptions()
    frame, mel = options.frame_opts, options.mel_opts
    frame.samp_freq, frame.dither = spec.sample_rate, 0
    frame.frame_length_ms, frame.frame_shift_ms = spec.window_ms, spec.shift_ms
    frame.window_type, frame.preemph_coeff = spec.window, spec.preemphasis
    frame.remove_dc_offset, frame.snip_edges = spec.remove_dc, spec.snip_edges
    mel.num_bins, mel.low_freq, mel.high_freq = spec.bins, spec.low_hz, spec.high_hz
    bank = knf.OnlineFbank(options)
    bank.accept_waveform(spec.sample_rate, (samples * np.float32(spec.sample_scale)).tolist())
    bank.input_finished()
    rows = [bank.get_frame(i) for i in range(bank.num_frames_ready)]
    return np.array(rows, np.float32).reshape(-1, spec.bins)


@pytest.mark.parametrize("name", SPECS)
def test_kaldi_gives_the_same(name: str) -> None:
    spec = SPECS[name]
    for n in LENGTHS:
        expected, found = kaldi(sound(n), spec), log_mel(sound(n), spec)
        assert found.shape == expected.shape == (spec.frames(n), spec.bins), n
        assert np.abs(found - expected).max(initial=0) <= 1e-3, n


def test_another_range_would_be_noticed() -> None:
    found = log_mel(sound(16001), SPECS["16k-80"]) - log_mel(sound(16001), SPECS["16k-80-sherpa"])
    assert np.abs(found).max() > 0.1


@pytest.mark.parametrize("name", SPECS)
def test_pieces_give_the_whole_to_the_last_bit(name: str) -> None:
    spec = SPECS[name]
    rng = np.random.default_rng(1)
    for n in (*LENGTHS, 40000):
        x = sound(n)
        whole = log_mel(x, spec)
        for largest in (1, 7, 90, 3000):
            if n / largest > 2000:
                continue
            stream, at, found = FeatureStream(spec), 0, []
            while at < n:
                size = int(rng.integers(0, largest + 1))
                found.append(stream.accept_waveform(x[at : at + size]))
                at += size
            found.append(stream.finish())
            assert np.array_equal(np.concatenate(found), whole), (n, largest)


def test_frames_come_as_soon_as_they_are_complete() -> None:
    spec = SPECS["16k-80"]
    stream = FeatureStream(spec)
    assert len(stream.accept_waveform(sound(279))) == 0  # the first window ends at sample 280
    assert len(stream.accept_waveform(sound(1))) == 1
    assert len(stream.accept_waveform(sound(160))) == 1


def test_long_audio_needs_no_more_memory_than_its_pieces() -> None:
    stream = FeatureStream(SPECS["16k-80"])
    for _ in range(20):
        stream.accept_waveform(sound(16000))
    assert stream._rest.nbytes < 4 * SPECS["16k-80"].window_samples * 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e20])
def test_samples_that_are_no_sound(value: float) -> None:
    x = sound(1000)
    x[123] = value
    with pytest.raises(DataError, match="at 123; expected finite numbers"):
        log_mel(x, SPECS["8k-40"])


@pytest.mark.parametrize("x", [np.zeros((10, 2), np.float32), np.zeros(10, np.int16), np.zeros(3, complex)])
def test_arrays_that_are_no_samples(x: NDArray[Any]) -> None:
    with pytest.raises(DataError, match="one channel of floats"):
        log_mel(x, SPECS["8k-40"])


def test_silence_is_the_floor() -> None:
    spec = SPECS["8k-40"]
    assert np.allclose(log_mel(np.zeros(800, np.float32), spec), np.log(spec.log_floor))


def test_finished_is_finished() -> None:
    stream = FeatureStream(SPECS["8k-40"])
    stream.finish()
    with pytest.raises(DataError, match="has finished"):
        stream.accept_waveform(sound(10))


def test_round_trip_and_digest() -> None:
    for spec in SPECS.values():
        assert FeatureSpec.from_dict(spec.to_dict()) == spec
    assert len({s.digest for s in SPECS.values()}) == len(SPECS)
    same = FeatureSpec.from_dict({**SPECS["8k-40"].to_dict(), "window_ms": 25})
    assert same.digest == SPECS["8k-40"].digest
    for name in ("low_hz", "high_hz", "preemphasis", "log_floor", "sample_scale"):
        other = dataclasses.replace(SPECS["8k-40"], **{name: -0.5 if name == "high_hz" else 0.5})
        assert other.digest != SPECS["8k-40"].digest, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dither": 1.0}, "unknown field 'dither'; known: sample_rate"),
        ({"bins": None}, "bins: expected a whole number"),
        ({"bins": 40.0}, "bins: expected a whole number"),
        ({"bins": 10**400}, "bins: expected a whole number"),
        ({"sample_rate": True}, "sample_rate: expected"),
        ({"sample_rate": 7}, "sample_rate: expected"),
        ({"window_ms": 0.1}, "window_ms: .* 2 to"),
        ({"window_ms": float("nan")}, "window_ms: expected"),
        ({"shift_ms": 30}, "shift_ms: expected"),
        ({"shift_ms": 0}, "shift_ms: expected"),
        ({"high_hz": 4001.0}, "high_hz: .* within"),
        ({"high_hz": -3990.0}, "high_hz: .* within"),
        ({"window": "kaiser"}, "window: expected one of"),
        ({"window": []}, "window: expected one of"),
        ({"remove_dc": 1}, "remove_dc: expected true or false"),
        ({"log_floor": 0}, "log_floor: expected"),
        ({"sample_scale": "1"}, "sample_scale: expected"),
    ],
)
def test_strange_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        FeatureSpec.from_dict({**SPECS["8k-40"].to_dict(), **change})


def test_not_a_specification() -> None:
    with pytest.raises(BundleError, match="expected an object"):
        FeatureSpec.from_dict([])
    whole = SPECS["8k-40"].to_dict()
    del whole["window"]
    with pytest.raises(BundleError, match=r"features\.window: missing; expected one of povey"):
        FeatureSpec.from_dict(whole)


def test_more_bands_than_frequencies() -> None:
    with pytest.raises(DataError, match="ask for fewer bands"):
        log_mel(sound(1000), FeatureSpec(8000, 128))
