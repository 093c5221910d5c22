"""Scores of sequences: in [0, 1], monotone where they promise to be, and right on cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeexit.errors import DataError
from edgeexit.policy.scores import score
from edgeexit.speech import scores
from edgeexit.speech.ctc import greedy, normalised, prefix_beam, sequence_logprob

OF_FRAMES = [
    scores.ctc_sequence_logprob,
    scores.frame_entropy,
    scores.frame_entropy_nonblank,
    scores.greedy_path,
    scores.nbest_posterior,
]


@pytest.mark.parametrize("function", OF_FRAMES)
def test_between_0_and_1_and_higher_when_sharper(function: scores.OfFrames) -> None:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((50, 12))
    found = [function(normalised(z * sharp).astype(np.float32), 0) for sharp in (0.1, 3.0, 10.0, 2000.0)]
    assert all(0 <= s <= 1 for s in found)
    assert found[0] < 0.2 < 0.9 < found[-1] and found[1] < found[2] < found[3]
    assert function(normalised(z[:0]), 0) == 1.0


def test_sequence_logprob_is_monotone_in_the_probability() -> None:
    rng = np.random.default_rng(1)
    rows = [normalised(rng.standard_normal((20, 5)) * s) for s in rng.uniform(0.5, 8, 30)]
    exact = [sequence_logprob(r, greedy(r, 0), 0) for r in rows]
    found = [scores.ctc_sequence_logprob(r, 0) for r in rows]
    assert np.array_equal(np.argsort(exact), np.argsort(found))
    assert found == pytest.approx([1 / (1 - e) for e in exact])


def test_frame_entropy_is_the_core_score() -> None:
    lp = normalised(np.random.default_rng(2).standard_normal((30, 7))).astype(np.float32)
    assert scores.frame_entropy(lp, 0) == pytest.approx(float(score(lp[None], "entropy")[0]), abs=1e-6)
    assert scores.greedy_path(lp, 0) == pytest.approx(float(score(lp[None], "maxprob")[0]), abs=1e-6)


def test_nonblank_frames_only() -> None:
    sure_blank = np.log([0.98, 0.01, 0.01])
    doubtful = np.log([0.1, 0.5, 0.4])
    lp = np.stack([sure_blank] * 9 + [doubtful])
    assert scores.frame_entropy_nonblank(lp, 0) == pytest.approx(scores.frame_entropy(lp[-1:], 0))
    assert scores.frame_entropy(lp, 0) > 0.7 > scores.frame_entropy_nonblank(lp, 0)
    assert scores.frame_entropy_nonblank(lp[:9], 0) == scores.frame_entropy(lp[:9], 0)


def test_certainties_with_impossible_classes() -> None:
    lp = np.array([[0.0, -np.inf, -np.inf]])
    for function in OF_FRAMES:
        assert function(lp, 0) == pytest.approx(1.0)


def test_nbest_posterior_by_hand() -> None:
    lp = np.log([[0.6, 0.4], [0.6, 0.4]])
    assert scores.nbest_posterior(lp, 0, beam=2) == pytest.approx(0.64)
    three = normalised(np.random.default_rng(3).standard_normal((6, 3)))
    found = np.exp([p for _, p in prefix_beam(three, 0, 5)])
    assert scores.nbest_posterior(three, 0, beam=5) == pytest.approx(found.max() / found.sum())
    with pytest.raises(DataError, match="at least 2"):
        scores.nbest_posterior(lp, 0, beam=1)


def test_hypotheses_of_one_text_are_one() -> None:
    lp = np.log([[0.1, 0.5, 0.4]])  # "a" or "</s>", which is not written
    assert scores.nbest_posterior(lp, 0, beam=8) == pytest.approx(0.5)
    assert scores.nbest_posterior(lp, 0, beam=8, drop=[2]) == pytest.approx(0.5)
    lp = np.log([[0.3, 0.3, 0.4]])
    assert scores.nbest_posterior(lp, 0, beam=8, drop=[2]) == pytest.approx(0.7)


def _levenshtein(a: list[int], b: list[int]) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(_levenshtein(a[1:], b) + 1, _levenshtein(a, b[1:]) + 1, _levenshtein(a[1:], b[1:]) + (a[0] != b[0]))


def test_edit_distance() -> None:
    rng = np.random.default_rng(4)
    for _ in range(60):
        a, b = (rng.integers(1, 4, rng.integers(0, 7)).tolist() for _ in range(2))
        assert scores.edit_distance(a, b) == _levenshtein(a, b), (a, b)


def test_agreement() -> None:
    assert scores.agreement([1, 2, 3], None) == 0
    assert scores.agreement([], []) == 1
    assert scores.agreement([1, 2, 3], [1, 2, 3]) == 1
    assert scores.agreement([1, 2, 3], []) == 0
    assert math.isclose(scores.agreement([1, 2, 3], [1, 2]), 2 / 3)
