"""Characters or byte-pair pieces as CTC tokens, learned from texts; U+2581 begins every word.

Texts are encoded greedily, longest piece first, so the tokens alone define the encoding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from edgeexit.errors import DataError

BLANK = "<blk>"
START = "▁"


def learn(texts: Iterable[str], size: int | None = None) -> tuple[str, ...]:
    """Tokens for CTC: the blank, every character of the texts, then the most frequent joined pieces.

    Byte-pair encoding within words (Sennrich et al. 2016): again and again the most frequent pair of neighbouring
    pieces becomes a piece; of equally frequent ones the first in the alphabet.

    Args:
        texts: words with spaces between.
        size: how many tokens at most, the blank included; None = characters only.

    Raises:
        DataError: no texts, or fewer tokens than the blank and the characters need.
    """
    words = Counter(word for text in texts for word in text.split())
    if not words:
        raise DataError("no words to learn tokens from: give texts")
    cut = {word: [START, *word] for word in words}
    tokens = [BLANK, *sorted({piece for pieces in cut.values() for piece in pieces})]
    if size is not None and size < len(tokens):
        raise DataError(f"{size} tokens asked for, the blank and {len(tokens) - 1} characters need {len(tokens)}")
    while size is not None and len(tokens) < size:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, pieces in cut.items():
            for pair in pairwise(pieces):
                pairs[pair] += words[word]
        if not pairs:
            break  # every word is one piece
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if "".join(best) not in tokens:
            tokens.append("".join(best))
        for pieces in cut.values():
            _join(pieces, best)
    return tuple(tokens)


def _join(pieces: list[str], pair: tuple[str, str]) -> None:
    at = 0
    while at + 1 < len(pieces):
        if (pieces[at], pieces[at + 1]) == pair:
            pieces[at : at + 2] = ["".join(pair)]
        at += 1


def encode(text: str, tokens: Sequence[str]) -> tuple[int, ...]:
    """Token numbers of a text, longest piece first.

    >>> encode("ha hat", ("<blk>", "▁", "a", "h", "t", "▁ha"))
    (5, 5, 4)

    Raises:
        DataError: a character that no token has.
    """
    numbers = {token: i for i, token in enumerate(tokens) if token != BLANK}
    longest = max(map(len, numbers), default=0)
    ids = []
    for word in text.split():
        rest = START + word
        while rest:
            piece = next((rest[:n] for n in range(longest, 0, -1) if rest[:n] in numbers), None)
            if piece is None:
                raise DataError(f"no token for {rest[0]!r} in {word!r}: learn tokens from texts that have it")
            ids.append(numbers[piece])
            rest = rest[len(piece) :]
    return tuple(ids)
