"""Sample-rate conversion with a windowed-sinc filter, of a whole recording or as the audio arrives."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError
from edgeexit.speech.features import Samples, checked

RATES = (1000, 768000)
"""Samples per second, from and to."""
_ZEROS = 32
"""Zero crossings of the sinc on either side: the filter falls by 80 dB within 16 % of the lower half rate."""
_BETA = 8.0
"""Of the Kaiser window; it sets how much of what is too high comes through, here -80 dB."""
_PASSED = 0.92
"""Middle of the slope, as a fraction of half the lower rate."""
_MOST_TAPS = 1 << 23
_PIECE = 1 << 17


def resample(samples: NDArray[Any], rate: int, new_rate: int) -> Samples:
    """Resample a recording.

    Args:
        samples: float `(N,)`
        rate: samples per second it has.
        new_rate: samples per second that are wanted.

    Returns:
        float32 `(ceil(N * new_rate / rate),)`; sample i stands at the time i / new_rate.

    Raises:
        DataError: not one channel of finite floats, or rates without a common divisor that would make this practical.
    """
    stream = Resampler(rate, new_rate)
    return np.concatenate([stream.accept_waveform(samples), stream.finish()])


class Resampler:
    """`resample` for audio that arrives in pieces; equal to the whole but for rounding."""

    def __init__(self, rate: int, new_rate: int) -> None:
        for value in (rate, new_rate):
            if not RATES[0] <= value <= RATES[1]:
                raise DataError(f"sample rate: expected {RATES[0]} to {RATES[1]} Hz, found {value}")
        self.rate, self.new_rate = rate, new_rate
        self._step, self._outputs_per_step, self._half, self._matrix = _filter(rate, new_rate)
        self._rest: Samples = np.zeros(self._half, np.float32)
        self._samples = self._emitted = 0

    def accept_waveform(self, samples: NDArray[Any]) -> Samples:
        """Add samples; returns the output that is complete by now, which lags by the filter's length.

        Raises:
            DataError: not one channel of finite floats.
        """
        new = checked(samples)
        self._samples += len(new)
        if self.rate == self.new_rate:
            return new
        pieces = [self._work(new[i : i + _PIECE]) for i in range(0, len(new), _PIECE)]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)

    def finish(self) -> Samples:
        """Return the rest of the output, as if silence followed."""
        if self.rate == self.new_rate:
            return np.zeros(0, np.float32)
        left = -(-self._samples * self.new_rate // self.rate) - self._emitted
        # Every step needs `half` samples beyond its own, and the last one may be needed in part only.
        return self._work(np.zeros(self._half + self._step, np.float32))[: max(0, left)]

    def _work(self, new: Samples) -> Samples:
        samples = np.concatenate([self._rest, new])
        steps = max(0, (len(samples) - 2 * self._half) // self._step)
        self._rest = samples[steps * self._step :].copy()
        if not steps:
            return np.zeros(0, np.float32)
        inputs = np.lib.stride_tricks.sliding_window_view(samples, len(self._matrix))[:: self._step][:steps]
        outputs: Samples = (inputs @ self._matrix).ravel()
        self._emitted += len(outputs)
        return outputs


@lru_cache(maxsize=8)
def _filter(rate: int, new_rate: int) -> tuple[int, int, int, NDArray[np.float32]]:
    """Input samples per step, output samples per step, the filter's half length, and `(inputs, outputs)` weights."""
    if rate == new_rate:
        return 1, 1, 0, np.ones((1, 1), np.float32)
    common = math.gcd(rate, new_rate)
    repeat = -(-64 * common // new_rate)  # several periods at once make a matrix worth multiplying with
    step, outputs = rate // common * repeat, new_rate // common * repeat
    cutoff = 0.5 * _PASSED * min(1.0, new_rate / rate)  # cycles per input sample
    half = math.ceil(_ZEROS / (2 * cutoff))
    if (step + 2 * half) * outputs > _MOST_TAPS:
        raise DataError(
            f"{rate} Hz to {new_rate} Hz: rates without a large common divisor; resample with another tool first"
        )
    away = np.arange(outputs) * (rate / new_rate) - np.arange(-half, step + half)[:, None]
    window = np.i0(_BETA * np.sqrt(np.clip(1 - (away / half) ** 2, 0, 1)))
    weights = np.where(np.abs(away) <= half, np.sinc(2 * cutoff * away) * window, 0.0)
    return step, outputs, half, (weights / weights.sum(0)).astype(np.float32)
