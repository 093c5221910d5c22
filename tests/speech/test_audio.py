"""Reading .wav: every encoding that is said to work, and what is wrong with files that do not."""

from __future__ import annotations

import struct
import tracemalloc
import wave
from pathlib import Path

import numpy as np
import pytest

from edgeexit.errors import DataError
from edgeexit.speech.resample import resample
from edgeexit.speech.wav import AudioConverted, WavFile, read_wav
from made_wavs import chunk, wav, write

X = np.sin(np.arange(2001) * 0.05) * 0.9


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize(
    ("bits", "floats"), [(8, False), (16, False), (24, False), (32, False), (32, True), (64, True)]
)
def test_encodings(tmp_path: Path, bits: int, floats: bool, extensible: bool) -> None:
    path = write(tmp_path / "a.wav", X, 11025, bits, floats, extensible, chunk(b"LIST", b"odd"))
    found, rate = read_wav(path)
    assert rate == 11025 and found.dtype == np.float32 and found.shape == X.shape
    assert np.abs(found - X).max() < (1e-6 if floats else 1.6 / 2 ** (bits - 1) + 1e-6)


def test_as_the_standard_library_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((X * 32767).astype("<i2").tobytes())
    found, rate = read_wav(path)
    assert rate == 16000 and np.array_equal(found, (X * 32767).astype("<i2") / np.float32(32768))


def test_another_reader_agrees(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile", reason="another reader to compare with")
    for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT"):
        soundfile.write(tmp_path / "a.wav", X, 16000, subtype=subtype)
        expected, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
        assert np.abs(read_wav(tmp_path / "a.wav")[0] - expected).max() < 1e-6, subtype


def test_stereo_is_mixed_down_only_if_allowed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.stack([X, -0.5 * X], 1))
    with pytest.raises(DataError, match="2 channels; pass one channel, or have it mixed down to one with convert=True"):
        read_wav(path)
    told: list[str] = []
    found, _ = read_wav(path, convert=True, notice=told.append)
    assert np.abs(found - 0.25 * X).max() < 1e-4
    assert told == [f"{path}: 2 channels; mixed down to one"]
    with pytest.warns(AudioConverted, match="mixed down"):
        read_wav(path, convert=True)


def test_another_rate_is_resampled_only_if_allowed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", X, 16000, 32, True)
    with WavFile(path) as file, pytest.raises(DataError, match="16000 Hz, the model takes 8000 Hz; resample it"):
        list(file.blocks(8000))
    told: list[str] = []
    with WavFile(path, convert=True, notice=told.append) as file:
        found = np.concatenate(list(file.blocks(8000)))
    assert np.array_equal(found, resample(X.astype(np.float32), 16000, 8000)) and len(told) == 1


def test_long_files_are_read_in_blocks(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.zeros(8000 * 600), bits=8)
    tracemalloc.start()
    try:
        with WavFile(path, convert=True, notice=lambda _: None) as file:
            assert sum(len(b) for b in file.blocks(16000)) == 16000 * 600
        assert tracemalloc.get_traced_memory()[1] < 16 << 20  # the whole would be 38 MB
    finally:
        tracemalloc.stop()
    with WavFile(path) as file:
        assert (file.seconds, file.channels, file.samples) == (600, 1, 4_800_000)


def test_streamed_files_do_not_know_their_length(tmp_path: Path) -> None:
    data = bytearray(wav(X))
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", 0xFFFFFFFF)
    path = tmp_path / "a.wav"
    path.write_bytes(data + b"\1")
    with pytest.raises(DataError, match="does not say how long"):
        read_wav(path)
    told: list[str] = []
    assert len(read_wav(path, convert=True, notice=told.append)[0]) == len(X) and "read to its end" in told[0]


HEADER = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)


def riff(*chunks: bytes) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


DAMAGED = {
    "empty": (b"", "the file is empty"),
    "short": (b"RIFF", "expected a RIFF .wav"),
    "text": (b"hello, I am no sound at all", "begins with b'hell'"),
    "ogg": (b"OggS" + b"\0" * 60, "begins with b'OggS'"),
    "big": (b"RF64" + wav(X)[4:], "RF64"),
    "big-endian": (b"RIFX" + wav(X)[4:], "big-endian"),
    "header only": (riff(), "no description of its format"),
    "no data": (riff(chunk(b"fmt ", HEADER)), "has no samples"),
    "no samples": (riff(chunk(b"fmt ", HEADER), chunk(b"data", b"")), "without a sample"),
    "format cut": (riff(chunk(b"fmt ", HEADER[:10])), "cut short"),
    "chunk cut": (riff(chunk(b"fmt ", HEADER), b"dat"), "cut short"),
    "data first": (riff(chunk(b"data", b"\0\0"), chunk(b"fmt ", HEADER)), "stand before"),
    "RF64 cut": (b"RF64" + riff(chunk(b"ds64", b"\0" * 9), chunk(b"fmt ", HEADER), chunk(b"data", b"ab"))[4:], "ds64"),
    "not one sample": (riff(chunk(b"fmt ", HEADER), chunk(b"data", b"a")), "without a sample"),
    "empty, then chunks": (
        riff(chunk(b"fmt ", HEADER), chunk(b"data", b""), chunk(b"LIST", b"odd")),
        "without a sample",
    ),
    "two parts less a byte": (riff(chunk(b"fmt ", HEADER)) + b"LIST\3\0\0\0abc", "has no samples"),
    "mu-law": (riff(chunk(b"fmt ", struct.pack("<HHIIHH", 7, 1, 8000, 8000, 1, 8))), "8-bit mu-law"),
    "unknown": (riff(chunk(b"fmt ", struct.pack("<HHIIHH", 99, 1, 8000, 8000, 1, 8))), "encoding 99"),
    "12 bits": (riff(chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 8000, 8000, 2, 12))), "12-bit PCM"),
    "no channels": (riff(chunk(b"fmt ", struct.pack("<HHIIHH", 1, 0, 8000, 0, 0, 16))), "0 channels"),
    "no rate": (riff(chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 0, 0, 2, 16))), "at 0 Hz"),
    "odd size": (riff(chunk(b"fmt ", struct.pack("<HHIIHH", 1, 2, 8000, 16000, 2, 16))), "2 bytes for 2"),
    "many parts": (riff(*[chunk(b"junk", b"")] * 5000), "more than 4096 parts"),
    "extensible cut": (riff(chunk(b"fmt ", struct.pack("<HHIIHH", 0xFFFE, 1, 8000, 16000, 2, 16))), "cut short"),
}


def declared(data: bytes, riff_size: int | None = None, size: int | None = None) -> bytes:
    """A file whose header says other sizes."""
    out = bytearray(data)
    if riff_size is not None:
        out[4:8] = struct.pack("<I", riff_size)
    at = data.index(b"data") + 4
    if size is not None:
        out[at : at + 4] = struct.pack("<I", size)
    return bytes(out)


def rf64(samples: bytes, ds64: int, size: int = 0xFFFFFFFF, kind: bytes = b"RF64") -> bytes:
    sizes = chunk(b"ds64", struct.pack("<QQQI", 0, ds64, 0, 0))
    return kind + declared(riff(sizes, chunk(b"fmt ", HEADER), chunk(b"data", samples)), 0xFFFFFFFF, size)[4:]


WHOLE = wav(X)
BYTES = WHOLE[WHOLE.index(b"data") + 8 :]
UNPADDED = riff(chunk(b"fmt ", HEADER), chunk(b"LIST", b"INFOabc")[:-1], chunk(b"data", BYTES))
UNFINISHED = {
    # what a killed or streaming recorder leaves: the file, the notice, samples that are lost
    "sizes of 0": (declared(WHOLE, 0, 0), "says 0 bytes of samples, 4002 follow: the recording was never finished", 0),
    "size of the header": (declared(WHOLE, 36, 0), "says 0 bytes of samples, 4002 follow", 0),
    "all ones": (declared(WHOLE, 0xFFFFFFFF, 0xFFFFFFFF), "does not say how long it is", 0),
    "nearly all ones": (declared(WHOLE, 0x7FFFF024, 0x7FFFF000), "does not say how long it is", 0),
    "too large": (declared(WHOLE, None, 5000), "says 5000 bytes of samples, 4002 are there: it is cut short", 0),
    "cut off": (WHOLE[:-100], "says 4002 bytes of samples, 3902 are there", 50),
    "cut off within a sample": (WHOLE[:-101], "says 4002 bytes of samples, 3901 are there", 51),
    "0 within a sample": (declared(WHOLE, 0, 0)[:-1], "4001 follow", 1),
    "odd": (
        riff(chunk(b"fmt ", HEADER), chunk(b"data", BYTES[:-1])),
        "end in the middle of one; read without the last 1",
        1,
    ),
    "RF64, 0": (rf64(BYTES, 0), "says 0 bytes of samples", 0),
    "RF64, all ones": (rf64(BYTES, (1 << 64) - 1), "does not say how long it is", 0),
}


@pytest.mark.parametrize("case", UNFINISHED)
def test_headers_that_were_never_finished(tmp_path: Path, case: str) -> None:
    content, message, lost = UNFINISHED[case]
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"or have it read .* with convert=True") as caught:
        read_wav(path)
    assert message.partition(";")[0] in str(caught.value)
    told: list[str] = []
    samples, _ = read_wav(path, convert=True, notice=told.append)
    assert np.array_equal(samples, read_wav(write(tmp_path / "whole.wav", X))[0][: len(X) - lost])
    assert len(told) == 1 and message in told[0] and str(path) in told[0]


ODD = {
    "RF64": rf64(BYTES, len(BYTES)),
    "BW64": rf64(BYTES, len(BYTES), kind=b"BW64"),
    "RF64 that is short": rf64(BYTES, 0, len(BYTES)),
    "no pad byte": UNPADDED,
    "no pad byte, unknown chunk": riff(chunk(b"fmt ", HEADER), b"Xtra\3\0\0\0abc", chunk(b"data", BYTES)),
    "pad byte, unknown chunk": riff(chunk(b"fmt ", HEADER), chunk(b"Xtra", b"abc"), chunk(b"data", BYTES)),
    "pad byte that is no 0": riff(chunk(b"fmt ", HEADER), b"LIST\3\0\0\0abc ", chunk(b"data", BYTES)),
    "no pad byte, then an unknown chunk": riff(
        chunk(b"fmt ", HEADER), b"LIST\3\0\0\0abc", chunk(b"Xtra", b"ab"), chunk(b"data", BYTES)
    ),
    "chunks behind": wav(X) + chunk(b"LIST", b"odd") + chunk(b"id3 ", b"x" * 999),
    "garbage behind": wav(X) + b"\xff" * 77,
    "RIFF size of 0": declared(WHOLE, 0),
    "RIFF size too large": declared(WHOLE, 0xFFFFFFF0),
    "format chunk of 18 bytes": riff(chunk(b"fmt ", HEADER + b"\0\0"), chunk(b"data", BYTES)),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_files_that_are_whole(tmp_path: Path, case: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(ODD[case])
    assert np.array_equal(read_wav(path)[0], read_wav(write(tmp_path / "whole.wav", X))[0])


def test_lengths_that_wrapped(tmp_path: Path) -> None:
    """More than 4 GiB of samples, whose count the 32 bits of a RIFF header cut."""
    path = tmp_path / "a.wav"
    with path.open("wb") as file:
        file.write(declared(riff(chunk(b"fmt ", HEADER), chunk(b"data", b"")), None, 2000))
        start = file.tell()
        file.truncate(start + (1 << 32) + 2000)  # zeros that take no room on the disk
    with WavFile(path, convert=True, notice=lambda _: None) as wav_file:
        assert wav_file.samples == (1 << 31) + 1000
    with pytest.raises(DataError, match="does not say how long"):
        WavFile(path)


def test_blocks_of_many_channels_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    form = struct.pack("<HHIIHH", 3, 64, 768000, 768000 * 512, 512, 64)
    with path.open("wb") as file:
        file.write(declared(riff(chunk(b"fmt ", form), chunk(b"data", b"")), None, 1 << 30))
        file.truncate(file.tell() + (1 << 30))
    tracemalloc.start()
    try:
        with WavFile(path, convert=True, notice=lambda _: None) as wav_file:
            assert len(next(wav_file.blocks())) == (16 << 20) // 512
        assert tracemalloc.get_traced_memory()[1] < 64 << 20  # ten seconds would be 3.9 GB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged(tmp_path: Path, case: str) -> None:
    content, message = DAMAGED[case]
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_wav(path, convert=True, notice=lambda _: None)
    assert str(path) in str(caught.value)


def test_every_cut_and_many_changes_are_one_clear_error(tmp_path: Path) -> None:
    whole = wav(X[:50], extensible=True)
    path = tmp_path / "a.wav"
    rng = np.random.default_rng(0)
    refused = 0
    for i in range(len(whole) + 300):
        data = bytearray(whole[:i] if i < len(whole) else whole)
        if i >= len(whole):
            data[rng.integers(0, 72)] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            read_wav(path, convert=True, notice=lambda _: None)
        except DataError as e:
            refused += 1
            assert str(path) in str(e)
    assert refused > len(whole)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_no_sound(tmp_path: Path, value: float) -> None:
    x = X.copy()
    x[1234] = value
    path = write(tmp_path / "a.wav", x, bits=64, floats=True)
    with pytest.raises(DataError, match="at 1234; expected finite") as caught:
        read_wav(path)
    assert str(path) in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none.wav", "no such file"), (tmp_path, "folder")):
        with pytest.raises(DataError, match=message):
            read_wav(path)
