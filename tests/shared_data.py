"""The data pack for tests: found, loaded, or the test is skipped with the reason.

The pack is never part of the repository. It is looked for in the folder that the environment variable
EDGEEXIT_DATA names, else in `../shared/data` beside the repository.
"""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

_RATE = 16_000
_FFT = 512


def data_dir() -> Path:
    """The pack's folder; skips the test when there is none."""
    named = os.environ.get("EDGEEXIT_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no data pack at {folder}: set EDGEEXIT_DATA to its folder")
    return folder


def _file(*parts: str) -> Path:
    path = data_dir().joinpath(*parts)
    if not path.is_file():
        pytest.skip(f"{path} is not in the data pack")
    return path


@cache
def optdigits() -> tuple[Bytes, Labels, Bytes, Labels]:
    """UCI optdigits, official split: train pictures (3823, 1, 8, 8) 0..16, labels; test, labels."""
    z = np.load(_file("optdigits", "optdigits.npz"), allow_pickle=False)
    x_train, x_test = z["x_train"][:, None], z["x_test"][:, None]
    return x_train, z["y_train"].astype(np.int64), x_test, z["y_test"].astype(np.int64)


@cache
def cifar10_test() -> tuple[Bytes, Labels]:
    """The official 10,000 test pictures, (n, 3, 32, 32) uint8, and labels (n,)."""
    image = pytest.importorskip("PIL.Image")
    labels = np.load(_file("cifar10", "labels.npz"), allow_pickle=False)["y_test"].astype(np.int64)
    mosaic = np.asarray(image.open(_file("cifar10", "test.webp")).convert("RGB"))  # 100 x 100 pictures
    x = mosaic.reshape(100, 32, 100, 32, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, 32, 32)
    return x, labels


def gsc12_test_features() -> tuple[Floats, Labels]:
    """Speech Commands' test clips as MFCCs (4890, 1, 49, 10) and labels 0..11; cached in the temp folder."""
    labels = np.load(_file("gsc_v2_test", "meta.npz"), allow_pickle=False)["y"].astype(np.int64)
    cached = Path(tempfile.gettempdir()) / "edgeexit-gsc12-test-mfcc.npy"
    if cached.is_file():
        features: Floats = np.load(cached, allow_pickle=False)
        if features.shape == (len(labels), 1, 49, 10):
            return features, labels
    soundfile = pytest.importorskip("soundfile")
    clips = soundfile.read(_file("gsc_v2_test", "audio.flac"), dtype="int16")[0].reshape(-1, _RATE)
    features = np.stack([mfcc(clip) for clip in clips])[:, None]
    temporary = cached.with_name(f"{cached.stem}.{os.getpid()}.npy")
    np.save(temporary, features)
    temporary.replace(cached)
    return features, labels


def trecx_weights(name: str) -> Path:
    """Path of T-RECX's weights: `name` is "resnet8" or "dscnn"."""
    return _file("trecx", f"{_TRECX[name]}_weights.npz")


def trecx_probs(name: str) -> tuple[Floats, Labels]:
    """T-RECX's softmax outputs on the official test set, (exits, n, classes), and labels (n,)."""
    z = np.load(_file("trecx", f"{_TRECX[name]}_test_probs.npz"), allow_pickle=False)
    return z["probs"], z["y"].astype(np.int64)


_TRECX = {"resnet8": "resnet8_sdn3_cifar10", "dscnn": "dscnn_sdn4_gsc12"}


def mfcc(clip: npt.NDArray[np.int16]) -> Floats:
    """One second at 16 kHz, (16000,) int16 -> MLPerf Tiny's keyword features (49, 10) float32.

    Frames of 30 ms every 20 ms, Hann window, 40 mel bands from 20 to 4000 Hz, log, 10 DCT coefficients.
    The clip is divided by its largest (not its largest absolute) sample, as the reference does.
    """
    x = clip.astype(np.float32)
    peak = x.max()
    x = x / peak if peak != 0 else np.zeros_like(x)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(480) / 480)).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(x, 480)[::320] * window
    bands, cosines = _mfcc_tables()
    energies = np.abs(np.fft.rfft(frames, _FFT)) @ bands
    coefficients: Floats = (np.log(energies + 1e-6) @ cosines).astype(np.float32)
    return coefficients


@cache
def _mfcc_tables() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mel filters (257, 40) and DCT-II (40, 10)."""

    def mel(hertz: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return np.asarray(1127.0 * np.log1p(np.asarray(hertz, dtype=np.float64) / 700.0))

    bins = mel(np.linspace(0, _RATE / 2, _FFT // 2 + 1)[1:])[:, None]  # the constant's bin takes part in no band
    edges = np.linspace(float(mel(20.0)), float(mel(4000.0)), 42)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    bands = np.vstack([np.zeros((1, 40)), np.maximum(0.0, np.minimum(rising, falling))])
    order, band = np.arange(10), np.arange(40)
    cosines = np.cos(np.pi * order * (2 * band[:, None] + 1) / 80) * 2 / np.sqrt(80)
    return bands, cosines
