"""Reader of .wav files: integers of 8 to 32 bits or floats, block by block in bounded memory."""

from __future__ import annotations

import contextlib
import os
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edgeexit.errors import DataError
from edgeexit.speech.features import Samples, checked
from edgeexit.speech.resample import RATES, Resampler
from edgeexit.speech.riff import Chunks, Damaged, NoWave, read_chunks


class AudioConverted(UserWarning):
    """Audio was changed as `convert=True` allows; the text says how."""


def warn(text: str) -> None:
    """Report a conversion as a Python warning: the default where `notice` is not passed."""
    warnings.warn(text, AudioConverted, stacklevel=2)


Notice = Callable[[str], None]
"""Called with one sentence for every conversion of the audio."""

_BLOCK_SECONDS = 10
_BLOCK_BYTES = 16 << 20
"""Upper bound, whatever the rate and the number of channels."""
_MOST_CHANNELS = 64
_ENCODINGS = {2: "ADPCM", 6: "A-law", 7: "mu-law", 0x11: "ADPCM", 0x31: "GSM", 0x55: "MP3"}
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE


def read_wav(path: Path | str, *, convert: bool = False, notice: Notice = warn) -> tuple[Samples, int]:
    """Read a whole .wav.

    Args:
        path: the file.
        convert: mix channels down, and read a file to its end whose header was never finished or claims more than
            there is; otherwise such files are refused.
        notice: called with every conversion.

    Returns:
        float32 `(N,)` in [-1, 1], and samples per second.

    Raises:
        DataError: missing, empty, damaged, of another kind, with NaN; or one that needs a conversion.
    """
    with WavFile(path, convert=convert, notice=notice) as file:
        return np.concatenate(list(file.blocks())), file.rate


def at_rate(
    blocks: Iterable[Samples], name: str, rate: int, new_rate: int, *, convert: bool = False, notice: Notice = warn
) -> Iterator[Samples]:
    """Audio at another rate.

    Args:
        blocks: float32 `(n,)` each.
        name: of the audio, for messages.
        rate: samples per second it has.
        new_rate: samples per second that are wanted.
        convert: resample; otherwise another rate is refused.
        notice: called with the conversion.

    Raises:
        DataError: another rate, and `convert` is false.
    """
    if rate == new_rate:
        yield from blocks
        return
    _converting(convert, notice, f"{name}: {rate} Hz, the model takes {new_rate} Hz", "resampled", "resample it")
    resampler = Resampler(rate, new_rate)
    for block in blocks:
        yield resampler.accept_waveform(block)
    yield resampler.finish()


class WavFile:
    """An open .wav whose header was read; use it in a `with` statement. Arguments as `read_wav`.

    Raises:
        DataError: as `read_wav`, except for what only shows in the samples.
    """

    def __init__(self, path: Path | str, *, convert: bool = False, notice: Notice = warn) -> None:
        self.path, self.convert, self.notice = Path(path), convert, notice
        try:
            if not self.path.exists():
                raise DataError(f"{self.path}: no such file")
            if not self.path.is_file():
                raise DataError(f"{self.path}: not a file of samples but a folder or device")
            self._stream: BinaryIO = self.path.open("rb")
        except OSError as e:
            raise DataError(f"{self.path}: cannot be read: {e.strerror or e}") from e
        with contextlib.ExitStack() as undo:
            undo.callback(self._stream.close)
            try:
                self._read_header()
            except struct.error as e:
                raise self._damaged(f"its header is cut short ({e})") from e
            except OSError as e:
                raise DataError(f"{self.path}: cannot be read: {e.strerror or e}") from e
            undo.pop_all()

    channels: int
    rate: int
    """Samples per second."""
    samples: int
    """Of each channel."""

    def __enter__(self) -> WavFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    @property
    def seconds(self) -> float:
        return self.samples / self.rate

    def blocks(self, rate: int | None = None) -> Iterator[Samples]:
        """Samples from the beginning, mixed down to one channel, in blocks of about ten seconds.

        Args:
            rate: samples per second that are wanted; None = as in the file.

        Raises:
            DataError: NaN, infinite or absurdly large samples, the file has become shorter, or another rate without
                `convert`.
        """
        wanted = self.rate if rate is None else rate
        return at_rate(self._blocks(), str(self.path), self.rate, wanted, convert=self.convert, notice=self.notice)

    def _blocks(self) -> Iterator[Samples]:
        size = self._bits // 8 * self.channels
        most = min(_BLOCK_SECONDS * self.rate, max(1, _BLOCK_BYTES // size))
        for first in range(0, self.samples, most):
            count = min(most, self.samples - first)
            try:
                self._stream.seek(self._start + first * size)
                data = self._stream.read(count * size)
            except OSError as e:
                raise DataError(f"{self.path}: cannot be read: {e.strerror or e}") from e
            if len(data) != count * size:
                raise self._damaged("it became shorter while it was read")
            samples = self._numbers(data).reshape(count, self.channels)
            try:
                yield checked(samples[:, 0] if self.channels == 1 else samples.mean(axis=1, dtype=np.float32))
            except DataError as e:
                raise DataError(f"{self.path}: block at {first / self.rate:g} s: {e}") from e

    def _numbers(self, data: bytes) -> Samples:
        if self._float:
            with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
                return np.frombuffer(data, f"<f{self._bits // 8}").astype(np.float32)
        if self._bits == 8:  # the only size without a sign
            return np.asarray((np.frombuffer(data, np.uint8).astype(np.float32) - 128) / np.float32(128))
        if self._bits == 24:
            wide = np.zeros((len(data) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            return np.asarray(wide.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31))
        whole = np.frombuffer(data, f"<i{self._bits // 8}").astype(np.float32)
        return np.asarray(whole / np.float32(2 ** (self._bits - 1)))

    def _read_header(self) -> None:
        length = os.fstat(self._stream.fileno()).st_size
        if not length:
            raise DataError(f"{self.path}: the file is empty")
        try:
            chunks = read_chunks(self._stream, length, self._read_format)
        except NoWave as e:
            raise DataError(f"{self.path}: {e}") from e
        except Damaged as e:
            raise self._damaged(str(e)) from e
        self._find_samples(chunks)

    def _read_format(self, data: bytes) -> None:
        encoding, self.channels, self.rate, _, size, self._bits = struct.unpack("<HHIIHH", data[:16])
        if encoding == _EXTENSIBLE:
            (encoding,) = struct.unpack("<H", data[24:26])
        self._float = encoding == _FLOAT
        if encoding not in (_PCM, _FLOAT) or self._bits not in ((32, 64) if self._float else (8, 16, 24, 32)):
            name = {_PCM: "PCM", _FLOAT: "float"}.get(encoding) or _ENCODINGS.get(encoding, f"encoding {encoding}")
            raise DataError(
                f"{self.path}: {self._bits}-bit {name}; expected PCM of 8, 16, 24 or 32 bits, or floats of 32 or 64: "
                "convert it to a 16-bit PCM .wav first"
            )
        if not 1 <= self.channels <= _MOST_CHANNELS or not RATES[0] <= self.rate <= RATES[1]:
            raise self._damaged(f"its header says {self.channels} channels at {self.rate} Hz")
        if size != self.channels * self._bits // 8:
            raise self._damaged(f"its header says {size} bytes for {self.channels} samples of {self._bits} bits")

    def _find_samples(self, chunks: Chunks) -> None:
        each = self.channels * self._bits // 8
        self._start, self.samples = chunks.start, chunks.size // each
        if not self.samples:
            raise DataError(f"{self.path}: a .wav without a sample in it")
        if chunks.unfinished is not None:
            self._converting(chunks.unfinished, "read to its end", "copy or record it again")
        elif left := chunks.size % each:
            problem = f"its {chunks.size} bytes of samples end in the middle of one"
            self._converting(problem, f"read without the last {left} bytes", "copy or record it again")
        if self.channels > 1:
            self._converting(f"{self.channels} channels", "mixed down to one", "pass one channel")

    def _converting(self, problem: str, done: str, instead: str) -> None:
        _converting(self.convert, self.notice, f"{self.path}: {problem}", done, instead)

    def _damaged(self, what: str) -> DataError:
        return DataError(f"{self.path}: a damaged .wav: {what}; copy or record it again")


def _converting(convert: bool, notice: Notice, problem: str, done: str, instead: str) -> None:
    """Report a conversion, or refuse it."""
    if not convert:
        raise DataError(f"{problem}; {instead}, or have it {done} with convert=True")
    notice(f"{problem}; {done}")
