"""Resampling: tones keep their shape, what is too high disappears, pieces give the whole."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.errors import DataError
from edgeexit.speech.resample import Resampler, resample

PAIRS = [(44100, 16000), (48000, 16000), (8000, 16000), (16000, 8000), (22050, 8000), (11025, 16000), (8000, 8000)]


def tone(hz: float, rate: int, samples: int) -> NDArray[np.float32]:
    return np.sin(2 * np.pi * hz / rate * np.arange(samples)).astype(np.float32)


@pytest.mark.parametrize(("rate", "new"), PAIRS)
def test_tones(rate: int, new: int) -> None:
    half = min(rate, new) / 2
    for hz in (50.0, 0.3 * half, 0.82 * half):
        found = resample(tone(hz, rate, rate), rate, new)
        expected = tone(hz, new, len(found))
        inner = slice(new // 8, -new // 8)
        assert np.abs(found - expected)[inner].max() < 1e-4, hz
    if new < rate:  # would come back as another tone
        assert np.abs(resample(tone(1.02 * half, rate, rate), rate, new))[new // 8 : -new // 8].max() < 1e-3


@pytest.mark.parametrize(("rate", "new"), PAIRS)
def test_scipy_agrees(rate: int, new: int) -> None:
    signal = pytest.importorskip("scipy.signal", reason="another resampler to compare with")
    rng = np.random.default_rng(0)
    slow = np.interp(np.arange(rate) / rate * 400, np.arange(401), rng.standard_normal(401))  # far below both limits
    slow = signal.resample_poly(slow, 1, 1) * np.hanning(rate)
    found = resample(slow.astype(np.float32), rate, new)
    expected = signal.resample_poly(slow, new, rate)
    assert found.shape == expected.shape and np.abs(found - expected).max() < 0.02


@pytest.mark.parametrize(("rate", "new"), PAIRS)
def test_pieces_and_lengths(rate: int, new: int) -> None:
    rng = np.random.default_rng(1)
    for n in (0, 1, 5, 1000, 9999):
        x = rng.standard_normal(n).astype(np.float32)
        whole = resample(x, rate, new)
        assert len(whole) == -(-n * new // rate)
        for size in (1, 137, 5000):
            if size * 2000 < n:
                continue
            stream = Resampler(rate, new)
            found = [stream.accept_waveform(x[i : i + size]) for i in range(0, n, size)]
            assert np.abs(np.concatenate([*found, stream.finish()]) - whole).max(initial=0) < 1e-5


def test_a_constant_stays_one() -> None:
    assert np.allclose(resample(np.ones(44100, np.float32), 44100, 16000)[2000:-2000], 1, atol=1e-6)


def test_refused() -> None:
    with pytest.raises(DataError, match="expected finite"):
        resample(np.array([np.nan], np.float32), 16000, 8000)
    with pytest.raises(DataError, match="sample rate"):
        resample(np.zeros(3, np.float32), 0, 8000)
    with pytest.raises(DataError, match="resample with another tool"):
        resample(np.zeros(3, np.float32), 44101, 16000)
