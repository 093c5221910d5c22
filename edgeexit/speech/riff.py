"""Chunks of RIFF and RF64 files: the place of the samples, also behind headers that were never finished."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

KINDS = (b"RIFF", b"RF64", b"BW64")
_MOST_CHUNKS = 4096
_FORMAT_BYTES = 64
_UNKNOWN_BYTES = 0x7FFFF000
"""Programs that write into a pipe cannot know the length and write this or more."""
_ALL_ONES, _WRAPS = 0xFFFFFFFF, 1 << 32
_NAMES = frozenset(
    b"fmt |data|LIST|fact|JUNK|junk|bext|iXML|axml|chna|cue |smpl|inst|PEAK|plst|note|labl|id3 |ID3 |PAD |FLLR|cart|"
    b"DISP|ds64|minf|elm1|regn|umid|_PMX|aXML|wamd|guan|levl|link|acid|strc".split(b"|")
)
"""Chunks that .wav files are known to have."""


class Chunks(NamedTuple):
    """Place and size of the samples."""

    start: int
    """First byte of the samples."""
    size: int
    """Bytes of samples there are to read."""
    unfinished: str | None
    """Why `size` is the way to the file's end and not what the header says; None = it is what the header says."""


class Damaged(Exception):
    """The chunks are damaged; the message says how."""


class NoWave(Damaged):
    """The file is of another kind."""


def read_chunks(stream: BinaryIO, length: int, read_format: Callable[[bytes], None]) -> Chunks:
    """Walk from chunk to chunk up to the samples.

    Args:
        stream: at its beginning.
        length: bytes of the whole file.
        read_format: takes the beginning of the chunk `fmt `.

    Raises:
        NoWave: not a .wav that begins as one.
        Damaged: no samples, no format before them, too many chunks, or a header that is cut off.
        OSError: it cannot be read.
    """
    kind, _, form = struct.unpack("<4sI4s", stream.read(12).ljust(12, b"\0"))
    if kind not in KINDS or form != b"WAVE":
        what = "RIFX, which is big-endian" if kind == b"RIFX" else f"a file that begins with {kind!r}"
        raise NoWave(f"expected a RIFF .wav, found {what}; convert it to a 16-bit PCM .wav first")
    known = False
    long_size: int | None = None
    for _ in range(_MOST_CHUNKS):
        header = stream.read(8)
        if not header:
            raise Damaged("it has no samples" if known else "it has no description of its format")
        if len(header) < 8:
            raise Damaged("its header is cut short")
        name, size = struct.unpack("<4sI", header)
        at = stream.tell()
        if name == b"ds64":
            sizes = stream.read(min(size, 16))
            long_size = struct.unpack("<QQ", sizes)[1] if len(sizes) == 16 else None
        elif name == b"fmt ":
            read_format(stream.read(min(size, _FORMAT_BYTES)))
            known = True
        elif name == b"data":
            if not known:
                raise Damaged("its samples stand before the description of their format")
            if kind != b"RIFF":
                if long_size is None:
                    raise Damaged(f"{kind.decode()} without the chunk ds64, which says how long it is")
                size = long_size if size == _ALL_ONES else size
            return Chunks(at, *_size(stream, at, size, length - at, kind == b"RIFF"))
        stream.seek(at + size + (size % 2 and _padded(stream, at + size)))
    raise Damaged(f"it has more than {_MOST_CHUNKS} parts")


def _size(stream: BinaryIO, at: int, size: int, there: int, narrow: bool) -> tuple[int, str | None]:
    """Bytes to read, and why they are not what the header says.

    Players read to the end where a header was never finished; so do we.
    """
    endless = size >= _UNKNOWN_BYTES and size > there
    if endless or (narrow and (size == _ALL_ONES or (there >= _WRAPS and size == there % _WRAPS))):
        return there, "was streamed and does not say how long it is"
    if size > there:
        return (
            there,
            f"its header says {size} bytes of samples, {there} are there: it is cut short or was never finished",
        )
    if size == 0 and there and not _only_chunks(stream, at, at + there):
        return there, f"its header says 0 bytes of samples, {there} follow: the recording was never finished"
    return size, None


def _padded(stream: BinaryIO, end: int) -> int:
    """Count the pad bytes of a chunk of odd length: 1, or 0 where a program left it out."""
    stream.seek(end)
    ahead = stream.read(5)
    without, behind = ahead[:4], ahead[1:]
    if behind in _NAMES or without not in _NAMES:
        # Of two unknown names the one behind the pad byte, unless it is none and the other one could be.
        return 0 if behind not in _NAMES and ahead[:1] != b"\0" and _named(without) and not _named(behind) else 1
    return 0


def _only_chunks(stream: BinaryIO, at: int, end: int) -> bool:
    """Test whether only chunks follow up to the end, so that there are no samples."""
    for _ in range(_MOST_CHUNKS):
        if at >= end:
            return True
        stream.seek(at)
        header = stream.read(8)
        if len(header) < 8 or not _named(header[:4]):
            return False
        at += 8 + struct.unpack("<I", header[4:])[0]
        if at > end:
            return False
        at += at % 2  # chunks begin at even places
    return False


def _named(name: bytes) -> bool:
    return len(name) == 4 and all(0x20 <= byte < 0x7F for byte in name)
