"""Decoding in pieces gives what decoding at once gives."""

from __future__ import annotations

import numpy as np
import pytest

from edgeexit.errors import DataError
from edgeexit.speech.ctc import greedy, greedy_timed, normalised
from edgeexit.speech.decode import GreedyDecoder
from edgeexit.speech.tokens import Tokens

TOKENS = Tokens(("<blk>", "▁one", "▁two", "</s>"), 0, (3,))


def of_path(path: list[int]) -> np.ndarray:
    return np.log(np.eye(4)[path] * 0.9 + 0.025).astype(np.float32)


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_any_pieces(size: int) -> None:
    lp = normalised(np.random.default_rng(0).standard_normal((80, 4)) * 2)
    decoder = GreedyDecoder(TOKENS)
    for i in range(0, 80, size):
        decoder.accept(lp[i : i + size])
    whole = greedy_timed(lp, 0)
    assert decoder.ids == greedy(lp, 0) and decoder.frames == whole.frames.tolist()
    assert decoder.seen == 80 and decoder.text == TOKENS.text(decoder.ids)


def test_partial_text_and_silence() -> None:
    decoder = GreedyDecoder(TOKENS)
    assert decoder.text == ""
    assert not decoder.accept(of_path([0, 0])) and decoder.trailing_blanks == 2
    assert decoder.accept(of_path([1, 1])) and decoder.text == "one" and decoder.trailing_blanks == 0
    assert not decoder.accept(of_path([1, 0])) and decoder.trailing_blanks == 1  # the same word goes on
    assert decoder.accept(of_path([1, 2, 3, 0])) and decoder.text == "one one two"
    assert not decoder.accept(of_path([0] * 5)) and decoder.trailing_blanks == 6
    assert not decoder.accept(np.zeros((0, 4), np.float32)) and decoder.trailing_blanks == 6
    assert decoder.frames == [2, 6, 7, 8]


def test_damaged_output() -> None:
    with pytest.raises(DataError, match="NaN"):
        GreedyDecoder(TOKENS).accept(np.full((2, 4), np.nan, np.float32))
