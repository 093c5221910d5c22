"""Sound files made byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def coded(samples: NDArray[np.float64], bits: int, floats: bool) -> bytes:
    """Samples in [-1, 1] as little-endian numbers."""
    if floats:
        return samples.astype(f"<f{bits // 8}").tobytes()
    whole = np.round(samples * (2 ** (bits - 1) - 1)).astype(np.int64)
    if bits == 8:
        return (whole + 128).astype(np.uint8).tobytes()
    wide = whole.astype("<i4" if bits > 16 else "<i2")
    return wide.view(np.uint8).reshape(-1, 4)[:, :3].tobytes() if bits == 24 else wide.tobytes()


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def wav(
    samples: NDArray[np.float64],
    rate: int = 8000,
    bits: int = 16,
    floats: bool = False,
    extensible: bool = False,
    extra: bytes = b"",
) -> bytes:
    """A file of samples `(n,)` or `(n, channels)`; `extra` chunks stand before them."""
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    each, kind = channels * bits // 8, 3 if floats else 1
    form = struct.pack("<HHIIHH", 0xFFFE if extensible else kind, channels, rate, rate * each, each, bits)
    if extensible:
        tail = b"\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"
        form += struct.pack("<HHIH", 22, bits, 0, kind) + tail
    body = b"WAVE" + chunk(b"fmt ", form) + extra + chunk(b"data", coded(samples.ravel(), bits, floats))
    return b"RIFF" + struct.pack("<I", len(body)) + body


def write(path: Path, *args: object, **options: object) -> Path:
    path.write_bytes(wav(*args, **options))  # type: ignore[arg-type]
    return path
