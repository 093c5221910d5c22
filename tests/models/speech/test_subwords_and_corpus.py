"""Characters and byte pairs as tokens; recordings as batches that repeat by step."""

from __future__ import annotations

import numpy as np
import pytest

from edgeexit.bundle.feature_spec import FeatureSpec
from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.errors import DataError
from edgeexit.speech.tokens import Tokens
from edgeexit_models.speech.corpus import Batches, InMemory
from edgeexit_models.speech.subwords import encode, learn

TEXTS = ["low lower lowest", "new newer newest", "low new"]


def test_characters_are_the_tokens_when_no_size_is_given() -> None:
    assert learn(["ab ba", "c"]) == ("<blk>", "a", "b", "c", "▁")


def test_pieces_grow_by_frequency() -> None:
    characters = learn(TEXTS)
    tokens = learn(TEXTS, len(characters) + 4)
    assert tokens[: len(characters)] == characters
    assert len(tokens) == len(characters) + 4
    assert {"▁low", "▁new"} <= set(learn(TEXTS, 30))
    assert len(learn(["a"], 100)) == 4  # blank, the start of a word, a, and both joined: there is no more to join


@pytest.mark.parametrize("size", [None, 12, 30])
def test_texts_survive_encoding(size: int | None) -> None:
    tokens = learn(TEXTS, size)
    for text in TEXTS:
        numbers = encode(text, tokens)
        assert 0 not in numbers
        assert Tokens(tokens, 0).text(numbers) == text


def test_bad_texts_and_sizes_are_refused() -> None:
    with pytest.raises(DataError, match="no token for 'z' in 'lazy'"):
        encode("lazy", learn(["lay"]))
    with pytest.raises(DataError, match="3 tokens asked for, the blank and 9 characters need 10"):
        learn(TEXTS, 3)
    with pytest.raises(DataError, match="no words"):
        learn([" "])


def recordings() -> tuple[InMemory, SpeechSpec]:
    rng = np.random.default_rng(0)
    audio = [rng.normal(0, 0.1, int(8000 * s)).astype(np.float32) for s in np.linspace(0.2, 4, 40)]
    texts = ["ab " * (1 + i // 8) for i in range(40)]
    return InMemory(audio, texts), SpeechSpec(FeatureSpec(sample_rate=8000, bins=10), learn(texts), 0)


def test_batches_repeat_by_step_and_hold_recordings_of_like_length() -> None:
    corpus, speech = recordings()
    a, b, other = (Batches(corpus, speech, seed=seed, seconds=8.0) for seed in (1, 1, 2))
    spread = []
    for step in range(6):
        x, y, z = a(step), b(step), other(step)
        assert bool((x.x == y.x).all())
        assert x.targets.tolist() == y.targets.tolist()
        assert x.x.shape != z.x.shape or not bool((x.x == z.x).all())
        assert 7 < float(x.x_lens.sum()) / 100 < 13
        spread.append(float(x.x_lens.float().mean()))
    assert max(spread) > 1.5 * min(spread)
    assert a.mean.shape == (10,)


def test_nothing_to_train_on_is_refused() -> None:
    _, speech = recordings()
    with pytest.raises(DataError, match="no recordings"):
        Batches(InMemory([], []), speech, 0)
