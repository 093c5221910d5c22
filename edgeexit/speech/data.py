"""Utterances with reference texts, read one by one from an .npz, a list of .wav files, or a folder of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeexit.common.files import read_npz
from edgeexit.errors import DataError
from edgeexit.speech.wav import Notice, read_wav, warn

_MOST_BYTES = 64 << 20
"""Of a list of files."""
_FORMS = (
    "an .npz with samples, starts, texts and sample_rate; a list with one 'file.wav<TAB>text' per line; "
    "or a folder of .wav files, each with its .txt"
)


@dataclass(frozen=True, eq=False)
class Utterance:
    """Sound and its text."""

    name: str
    samples: NDArray[np.float32]
    """`(N,)` in [-1, 1]."""
    rate: int
    """Samples per second."""
    text: str
    """Reference transcript."""


@dataclass(frozen=True)
class SpeechData:
    """A data set of utterances; iterate for `Utterance`s. Sound is read on demand."""

    name: str
    texts: tuple[str, ...]
    """Reference transcripts."""
    _read: Callable[[int], Utterance]

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[Utterance]:
        return (self._read(i) for i in range(len(self)))


def is_speech_data(path: Path) -> bool:
    """Test whether a path looks like one of the forms that `read_speech` reads."""
    if path.suffix != ".npz":
        return path.is_dir() or path.suffix in (".tsv", ".txt", ".lst")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return "samples" in arrays.files
    except Exception:  # whatever it is, the reader of other data files says so
        return False


def read_speech(path: Path | str, *, convert: bool = False, notice: Notice = warn) -> SpeechData:
    """Utterances of a data file.

    Args:
        path: an ``.npz`` with `samples` (all utterances in a row, float in [-1, 1] or int16), `starts` (n + 1,) where
            each begins, `texts` (n,) and `sample_rate`; or a list, UTF-8, with a .wav (relative to the list) and its
            text on every line, a tab between; or a folder of .wav files, each with a .txt of the same name.
        convert: see `read_wav`.
        notice: called with every conversion.

    Raises:
        DataError: none of these, nothing in it, or in another form; the message names the line or the array.
    """
    path = Path(path)
    if path.is_dir():
        return _of_files(path.name, _pairs(path), convert, notice)
    if path.suffix == ".npz":
        return _of_arrays(path)
    return _of_files(path.name, _listed(path), convert, notice)


def _of_arrays(path: Path) -> SpeechData:
    arrays = read_npz(path)
    if lacking := [n for n in ("samples", "starts", "texts", "sample_rate") if n not in arrays]:
        raise DataError(f"{path}: no {lacking[0]!r}; speech data are {_FORMS}")
    samples, starts, texts, rate = (arrays[n] for n in ("samples", "starts", "texts", "sample_rate"))
    n = len(texts) if texts.ndim == 1 else 0
    if texts.dtype.kind != "U" or not n:
        raise DataError(
            f"{path}: texts must be (n,) texts of at least one utterance, found {texts.dtype} {texts.shape}"
        )
    if samples.ndim != 1 or samples.dtype not in (np.float32, np.float64, np.int16):
        raise DataError(f"{path}: samples must be float or int16 (N,), found {samples.dtype} {samples.shape}")
    rising = (
        starts.dtype.kind in "iu" and starts.shape == (n + 1,) and bool((np.diff(starts.astype(np.int64)) > 0).all())
    )
    if not rising or starts[0] < 0 or starts[-1] > len(samples):
        raise DataError(f"{path}: starts must be {n + 1} rising places in {len(samples)} samples, found {starts.shape}")
    if rate.dtype.kind not in "iu" or rate.size != 1 or not 0 < int(rate.item()) < 1 << 20:
        raise DataError(f"{path}: sample_rate must be one whole number of samples per second, found {rate!r:.60}")
    scale = np.float32(1 / 32768 if samples.dtype == np.int16 else 1)

    def read(i: int) -> Utterance:
        piece = samples[int(starts[i]) : int(starts[i + 1])].astype(np.float32) * scale
        return Utterance(f"{path.name}, utterance {i}", piece, int(rate.item()), str(texts[i]))

    return SpeechData(path.name, tuple(str(t) for t in texts), read)


def _of_files(name: str, files: list[tuple[Path, str]], convert: bool, notice: Notice) -> SpeechData:
    def read(i: int) -> Utterance:
        path, text = files[i]
        return Utterance(str(path), *read_wav(path, convert=convert, notice=notice), text)

    return SpeechData(name, tuple(text for _, text in files), read)


def _listed(path: Path) -> list[tuple[Path, str]]:
    files = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        file, tab, text = line.rstrip("\r").partition("\t")
        if not tab or not file.strip():
            raise DataError(f"{path}: line {number}: expected 'file.wav<TAB>text', found {line!r:.60}")
        files.append((path.parent / file.strip(), " ".join(text.split())))
    if not files:
        raise DataError(f"{path}: no utterances; speech data are {_FORMS}")
    return files


def _pairs(folder: Path) -> list[tuple[Path, str]]:
    files = []
    for path in sorted(folder.glob("*.wav")):
        if not (beside := path.with_suffix(".txt")).is_file():
            raise DataError(f"{path}: no {beside.name} beside it with its transcript; speech data are {_FORMS}")
        files.append((path, " ".join(_text(beside).split())))
    if not files:
        raise DataError(f"{folder}: no .wav files; speech data are {_FORMS}")
    return files


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise DataError(f"{path}: more than {_MOST_BYTES} bytes of text; speech data are {_FORMS}")
        return data.decode("utf-8-sig")
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror or e}") from e
    except UnicodeDecodeError as e:
        raise DataError(f"{path}: not UTF-8: {e.reason} at byte {e.start}; speech data are {_FORMS}") from e
