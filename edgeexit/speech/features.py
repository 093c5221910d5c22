"""Log-mel filter-bank features as Kaldi's `fbank` computes them, of a whole recording or as the audio arrives.

These numbers are the model's input: another upper edge of the mel range alone moved a digit error rate from 0.3 % to
10 %. So the specification is stored in the bundle, and training and device call this same code.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.feature_spec import FeatureSpec
from edgeexit.errors import DataError

LOUDEST = 1e6
"""Samples beyond this are refused: squared and summed they would leave float32."""
_BLOCK = 256
"""Frames worked on at once: what stays in a small cache, and what a long file needs in memory."""

Samples = NDArray[np.float32]
"""`(N,)`, usually in [-1, 1]"""
Frames = NDArray[np.float32]
"""`(frames, bins)`"""


def log_mel(samples: NDArray[Any], spec: FeatureSpec) -> Frames:
    """The features of a whole recording.

    Args:
        samples: float `(N,)`, in [-1, 1], at `spec.sample_rate`.

    Returns:
        float32 `(spec.frames(N), bins)`; natural logarithms.

    Raises:
        DataError: not one channel of floats, NaN or infinite samples, or more bands than the window can tell apart.
    """
    stream = FeatureStream(spec)
    return np.concatenate([stream.accept_waveform(samples), stream.finish()])


class FeatureStream:
    """`log_mel` for audio that arrives in pieces: the same frames, to the last bit, however it is cut.

    ::

        stream = FeatureStream(spec)
        for samples in microphone:
            frames = stream.accept_waveform(samples)   # those that are complete by now, perhaps none
        frames = stream.finish()              # those that needed the end
    """

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec = spec
        self._bank = _bank(spec)
        # Samples that frames to come still need, behind what mirrors the beginning once enough has come to mirror.
        self._rest: Samples = np.zeros(0, np.float32)
        self._lead = 0 if spec.snip_edges else spec.window_samples // 2 - spec.shift_samples // 2
        self._started = spec.snip_edges
        self._samples = self._emitted = 0
        self._finished = False

    def accept_waveform(self, samples: NDArray[Any]) -> Frames:
        """Add samples; returns the frames that they complete.

        Raises:
            DataError: as `log_mel`; or the stream has finished.
        """
        if self._finished:
            raise DataError("this feature stream has finished; start another for more audio")
        new = checked(samples)
        self._samples += len(new)
        self._rest = np.concatenate([self._rest, new])
        window, shift = self.spec.window_samples, self.spec.shift_samples
        if not self._started:
            if len(self._rest) < window - self._lead:  # the first frame needs no less, and its mirror image no more
                return self._none()
            self._rest = np.concatenate([self._rest[: self._lead][::-1], self._rest])
            self._started = True
        count = max(0, 1 + (len(self._rest) - window) // shift)
        frames = self._work(self._rest, count)
        self._rest = self._rest[count * shift :].copy()
        return frames

    def finish(self) -> Frames:
        """Return the last frames, the end mirrored if the specification says so; no more samples are accepted."""
        self._finished = True
        count = self.spec.frames(self._samples) - self._emitted
        if count <= 0:
            return self._none()
        before = 0 if self._started else self._lead
        length = (count - 1) * self.spec.shift_samples + self.spec.window_samples
        padded = np.pad(self._rest, (before, max(0, length - before - len(self._rest))), "symmetric")
        return self._work(padded, count)

    def _work(self, samples: Samples, count: int) -> Frames:
        frames = np.empty((count, self.spec.bins), np.float32)
        window, shift = self.spec.window_samples, self.spec.shift_samples
        for i in range(0, count, _BLOCK):
            part = samples[i * shift : (min(i + _BLOCK, count) - 1) * shift + window]
            frames[i : i + _BLOCK] = self._bank.of(np.lib.stride_tricks.sliding_window_view(part, window)[::shift])
        self._emitted += count
        return frames

    def _none(self) -> Frames:
        return np.zeros((0, self.spec.bins), np.float32)


def checked(samples: NDArray[Any]) -> Samples:
    """One channel of float32 samples.

    Raises:
        DataError: anything else, or a sample that is NaN, infinite or absurdly large.
    """
    array = np.asarray(samples)
    if array.ndim != 1 or array.dtype.kind != "f":
        raise DataError(f"samples: expected one channel of floats (N,), found {array.dtype} {array.shape}")
    peak = np.abs(array).max(initial=0)
    if not peak <= LOUDEST:  # a NaN is not
        at = int(np.flatnonzero(~(np.abs(array) <= LOUDEST))[0])
        raise DataError(f"samples: {array[at]} at {at}; expected finite numbers, usually in [-1, 1]")
    return array.astype(np.float32, copy=False)


class _Bank(NamedTuple):
    """Filter bank of a specification, ready for use."""

    spec: FeatureSpec
    window: NDArray[np.float32]
    size: int
    """Of the Fourier transform: the window filled up to a power of two."""
    places: NDArray[np.intp]
    """The frequencies of band 0, then those of band 1, ...; `(P,)`"""
    weights: NDArray[np.float32]
    """`(P,)`"""
    starts: NDArray[np.intp]
    """Index among them at which each band begins; `(bins,)`"""

    def of(self, windows: NDArray[np.float32]) -> Frames:
        """`(n, window_samples)` -> `(n, bins)`."""
        spec = self.spec
        # Copied before it is worked on: the rows overlap in memory.
        x = windows * np.float32(spec.sample_scale)
        if spec.remove_dc:
            x -= x.mean(axis=1, keepdims=True)
        if spec.preemphasis:
            x[:, 1:] -= np.float32(spec.preemphasis) * x[:, :-1]
            x[:, 0] *= np.float32(1 - spec.preemphasis)
        x *= self.window
        spectrum = np.fft.rfft(x, self.size, axis=1)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32, copy=False)
        # A matrix product would be shorter, but its last bits depend on how many rows there are.
        bands = np.add.reduceat(power[:, self.places] * self.weights, self.starts, axis=1)
        return np.log(np.maximum(bands, np.float32(spec.log_floor)))


def mel_weights(spec: FeatureSpec) -> tuple[NDArray[np.float64], int]:
    """The triangles of the filter bank over the frequencies of the Fourier transform.

    Returns:
        `(size // 2 + 1, bins)`, and the transform's size: the window filled up to a power of two.

    Raises:
        DataError: more bands than the window can tell apart.
    """
    size = 1 << (spec.window_samples - 1).bit_length()

    def mel(hz: Any) -> NDArray[np.float64]:
        return np.asarray(1127.0 * np.log1p(np.asarray(hz, np.float64) / 700.0))

    edges = np.linspace(mel(spec.low_hz), mel(spec.top_hz), spec.bins + 2)
    at = mel(np.arange(size // 2) * (spec.sample_rate / size))[:, None]  # half the sample rate takes part in none
    left, middle, right = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (at - left) / (middle - left), (right - at) / (right - middle)
    weights = np.concatenate([np.clip(np.minimum(rising, falling), 0, None), np.zeros((1, spec.bins))])
    if len(silent := np.flatnonzero(~weights.any(axis=0))):
        raise DataError(
            f"bins: {spec.bins} bands are too many for a transform of {size} samples at {spec.sample_rate} Hz: "
            f"no frequency lies in band {silent[0]}; ask for fewer bands or a longer window"
        )
    return weights, size


def window_weights(spec: FeatureSpec) -> NDArray[np.float64]:
    """`(window_samples,)`"""
    turn = np.cos(2 * math.pi * np.arange(spec.window_samples) / (spec.window_samples - 1))
    if spec.window == "rectangular":
        return np.ones(spec.window_samples)
    if spec.window == "hamming":
        return np.asarray(0.54 - 0.46 * turn)
    return np.asarray((0.5 - 0.5 * turn) ** (0.85 if spec.window == "povey" else 1.0))


@lru_cache(maxsize=8)
def _bank(spec: FeatureSpec) -> _Bank:
    weights, size = mel_weights(spec)
    band, place = np.nonzero(weights.T)
    return _Bank(
        spec,
        window_weights(spec).astype(np.float32),
        size,
        place,
        weights.T[band, place].astype(np.float32),
        np.searchsorted(band, np.arange(spec.bins)),
    )
