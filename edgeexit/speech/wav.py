"""Reading sound files: .wav with whole numbers of 8 to 32 bits or floats, in blocks, so that hours fit."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edgeexit.errors import DataError
from edgeexit.speech.features import Samples, checked
from edgeexit.speech.resample import RATES, Resampler
from edgeexit.speech.resample import resample as resample
from edgeexit.speech.riff import Chunks, Damaged, NoWave, read_chunks

Notice = Callable[[str], None]
"""Is told of what was done to the audio. Without one, nothing is done to it: the audio is refused."""

_BLOCK_SECONDS = 10
_BLOCK_BYTES = 16 << 20
"""At most, whatever the rate and the number of channels."""
_MOST_CHANNELS = 64
_ENCODINGS = {2: "ADPCM", 6: "A-law", 7: "mu-law", 0x11: "ADPCM", 0x31: "GSM", 0x55: "MP3"}
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE


def read_wav(path: Path | str, notice: Notice | None = None) -> tuple[Samples, int]:
    """A whole .wav.

    Args:
        path: the file.
        notice: is told when channels are mixed down, or a file is read to its end whose header was never finished or
            says more than there is; without it, such files are refused.

    Returns:
        float32 `(N,)` in [-1, 1], and samples per second.

    Raises:
        DataError: missing, empty, damaged, of another kind, with NaN; or one that needs a notice.
    """
    with WavFile(path, notice) as file:
        return np.concatenate(list(file.blocks())), file.rate


def audio_blocks(path: Path | str, rate: int, notice: Notice | None = None) -> Iterator[Samples]:
    """A .wav at the given rate, in blocks of about ten seconds.

    Args:
        path: the file.
        rate: samples per second that are wanted.
        notice: as `read_wav`, and of a rate that is changed; without it, such files are refused.

    Raises:
        DataError: as `read_wav`; or another rate.
    """
    with WavFile(path, notice) as file:
        yield from at_rate(file.blocks(), str(file.path), file.rate, rate, notice)


def at_rate(
    blocks: Iterable[Samples], name: str, rate: int, wanted: int, notice: Notice | None = None
) -> Iterator[Samples]:
    """Audio at the rate that is wanted; `name` is for messages.

    Raises:
        DataError: another rate, and no `notice` to be told of it.
    """
    if rate == wanted:
        yield from blocks
        return
    _tell(notice, f"{name}: {rate} Hz, the model hears {wanted} Hz", "resampled", "resample it")
    stream = Resampler(rate, wanted)
    for block in blocks:
        yield stream.accept(block)
    yield stream.finish()


class WavFile:
    """An open .wav; use it in a `with` statement.

    Raises:
        DataError: as `read_wav`, but for what only shows in the samples.
    """

    def __init__(self, path: Path | str, notice: Notice | None = None) -> None:
        self.path = Path(path)
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
                self._read_header(notice)
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

    def blocks(self) -> Iterator[Samples]:
        """Its samples from the beginning, mixed down to one channel.

        Raises:
            DataError: NaN, infinite or absurdly large samples, or the file has become shorter.
        """
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
            found = self._numbers(data).reshape(count, self.channels)
            try:
                yield checked(found[:, 0] if self.channels == 1 else found.mean(axis=1, dtype=np.float32))
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

    def _read_header(self, notice: Notice | None) -> None:
        length = os.fstat(self._stream.fileno()).st_size
        if not length:
            raise DataError(f"{self.path}: the file is empty")
        try:
            chunks = read_chunks(self._stream, length, self._read_format)
        except NoWave as e:
            raise DataError(f"{self.path}: {e}") from e
        except Damaged as e:
            raise self._damaged(str(e)) from e
        self._find_samples(chunks, notice)

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

    def _find_samples(self, chunks: Chunks, notice: Notice | None) -> None:
        each = self.channels * self._bits // 8
        self._start, self.samples = chunks.start, chunks.size // each
        if not self.samples:
            raise DataError(f"{self.path}: a .wav without a sample in it")
        if chunks.unfinished is not None:
            _tell(notice, f"{self.path}: {chunks.unfinished}", "read to its end", "copy or record it again")
        elif left := chunks.size % each:
            what = f"{self.path}: its {chunks.size} bytes of samples end in the middle of one"
            _tell(notice, what, f"read without the last {left} bytes", "copy or record it again")
        if self.channels > 1:
            _tell(notice, f"{self.path}: {self.channels} channels", "mixed down to one", "pass one channel")

    def _damaged(self, what: str) -> DataError:
        return DataError(f"{self.path}: a damaged .wav: {what}; copy or record it again")


def _tell(notice: Notice | None, found: str, done: str, instead: str) -> None:
    if notice is None:
        raise DataError(f"{found}; {instead}, or allow it to be {done}")
    notice(f"{found}; {done}")
