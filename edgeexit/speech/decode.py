"""Greedy CTC decoder for log-probabilities that arrive in pieces."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from edgeexit.speech.ctc import greedy_timed
from edgeexit.speech.tokens import Tokens


class GreedyDecoder:
    """Decodes log-probabilities, whole or in pieces; `text` is the transcript so far.

    ::

        decoder = GreedyDecoder(Tokens.of(spec))
        for log_probs in chunks:          # (frames, classes) each
            if decoder.accept(log_probs):
                print(decoder.text)
    """

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.ids: list[int] = []
        """Classes so far, without blanks."""
        self.frames: list[int] = []
        """The frame in which each began."""
        self.seen = 0
        """Frames so far."""
        self.trailing_blanks = 0
        """Blank frames since the last other class, or since the beginning."""
        self._before: int | None = None

    def accept(self, log_probs: NDArray[Any]) -> bool:
        """Decode the next frames `(t, V)`; logits serve as well. Returns whether `text` has grown.

        Raises:
            DataError: arrays that are not log-probabilities.
        """
        decoded = greedy_timed(log_probs, self.tokens.blank, self._before)
        path = log_probs.argmax(-1)
        self.ids += decoded.ids.tolist()
        self.frames += (decoded.frames + self.seen).tolist()
        self.seen += len(path)
        if len(path):
            self._before = int(path[-1])
            spoken = (path != self.tokens.blank).nonzero()[0]
            self.trailing_blanks = len(path) - 1 - int(spoken[-1]) if len(spoken) else self.trailing_blanks + len(path)
        return len(decoded.ids) > 0

    @property
    def text(self) -> str:
        return self.tokens.text(self.ids)
