"""Calibration text: pieces of it as token ids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError

Ids = NDArray[np.int64]

MOST_TOKENIZER = 64 << 20


@dataclass(frozen=True)
class LmText:
    """A text cut into pieces of one length; every eighth is held out of what is fitted."""

    fitted: Ids
    """`(pieces, length)`."""
    held: Ids
    """`(pieces, length)`."""
    counts: NDArray[np.int64]
    """`(vocab,)`: how often each token stands in the whole text, without the held-out pieces."""

    @property
    def tokens(self) -> int:
        """In both parts."""
        return self.fitted.size + self.held.size

    @property
    def stream(self) -> Ids:
        """The fitted pieces one after another, and one token more, as `fit_maps` wants it."""
        return np.append(self.fitted.reshape(-1), self.fitted[:1, 0])


def read_bytes(path: Path, what: str, most: int) -> bytes:
    """A file of bounded size.

    Raises:
        DataError: missing, unreadable or larger.
    """
    try:
        if (size := path.stat().st_size) > most:
            raise DataError(f"{path}: {size} bytes of {what}, at most {most} are read")
        return path.read_bytes()
    except OSError as e:
        raise DataError(f"{path}: no {what} to read: {e.strerror or e}") from e


def cut(ids: Ids, vocab: int, length: int, most: int) -> LmText:
    """Pieces of the text, spread evenly over it.

    Args:
        ids: `(tokens,)`, all of it.
        vocab: number of tokens the model knows.
        length: of a piece.
        most: tokens in all pieces together.

    Raises:
        DataError: ids that the model does not know, or a text shorter than two pieces.
    """
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or (len(ids) and not 0 <= ids.min() <= ids.max() < vocab):
        raise DataError(f"calibration text: expected token ids 0 to {vocab - 1} in one row, found {ids.dtype} "
                        f"{ids.shape}{f' up to {ids.max()}' if ids.size else ''}")  # fmt: skip
    there = len(ids) // length
    if there < 2:
        raise DataError(f"calibration text: {len(ids)} tokens are fewer than two pieces of {length}: give more text")
    count = min(there, max(2, most // length))
    starts = np.linspace(0, there - 1, count).round().astype(np.int64) * length
    pieces = np.stack([np.asarray(ids[s : s + length], np.int64) for s in starts])
    held = np.arange(count) % 8 == min(7, count - 1)
    counts = np.bincount(ids, minlength=vocab) - np.bincount(pieces[held].reshape(-1), minlength=vocab)
    return LmText(pieces[~held], pieces[held], counts)


def shortlist(text: LmText, size: int, ends: tuple[int, ...]) -> Ids:
    """The most frequent tokens, rising, with those that end an answer.

    Raises:
        DataError: not fewer than there are tokens, or no room for the ends.
    """
    vocab = len(text.counts)
    if not len(ends) < size < vocab:
        raise DataError(f"a short list of {size} tokens: expected {len(ends) + 1} to {vocab - 1}")
    counts = text.counts.copy()
    counts[list(ends)] = np.iinfo(np.int64).max
    order = np.argsort(-counts, kind="stable")
    return np.sort(order[:size]).astype(np.int64)
