"""Scores against slow references in float64, written from docs/bundle-format.md."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from edgeexit.errors import PolicyError
from edgeexit.policy.scores import ANSWER_SCORES, probabilities, score


def softmax(z: list[float]) -> list[float]:
    top = max(z)
    e = [math.exp(v - top) for v in z]
    return [v / sum(e) for v in e]


def reference(row: list[float], name: str, kind: str, temperature: float) -> float:
    """One position's score, number by number."""
    z = [math.log(max(v, 1e-30)) if kind == "probs" else v for v in row]
    p = softmax([v / temperature for v in z])
    if name == "maxprob":
        return max(p)
    if name == "entropy":
        return 1 + sum(v * math.log(v) for v in p if v > 0) / math.log(len(p))
    first, second = sorted(p)[-1], sorted(p)[-2]
    return first - second


def logits(classes: int, n: int = 200) -> Any:
    """Ordinary, tiny, large, equal and nearly equal logits."""
    rng = np.random.default_rng(classes)
    scale = rng.choice([1e-3, 1, 5, 40, 300], (n, 1))
    z = rng.standard_normal((n, classes)) * scale
    z[:3] = [[7.0] * classes, [0.0] * classes, [-50.0] * classes]
    z[3] = np.eye(classes)[0] * 1000
    z[4] = z[5] + 64
    return z.astype(np.float32)


@pytest.mark.parametrize("temperature", [1.0, 0.3, 4.0])
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
@pytest.mark.parametrize("name", ANSWER_SCORES)
def test_against_the_reference(name: str, classes: int, temperature: float) -> None:
    z = logits(classes, 60 if classes == 1000 else 200)
    found = score(z, name, temperature=temperature)
    expected = [reference([float(v) for v in row], name, "logits", temperature) for row in z]
    assert found.dtype == np.float32 and found.shape == (len(z),)
    np.testing.assert_allclose(found, expected, atol=3e-5)  # dividing large logits rounds
    assert (found >= -2e-6).all() and (found <= 1 + 2e-6).all()


@pytest.mark.parametrize("name", ANSWER_SCORES)
def test_probabilities_score_like_their_logits(name: str) -> None:
    z = logits(5)
    p = probabilities(z)
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(score(p, name, kind="probs"), score(z, name), atol=2e-5)
    rows = np.array([[1, 0, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5]], np.float32)  # with zeros, whose logarithm is floored
    for t in (1.0, 2.0):
        expected = [reference([float(v) for v in r], name, "probs", t) for r in rows]
        np.testing.assert_allclose(score(rows, name, kind="probs", temperature=t), expected, atol=1e-5)


@pytest.mark.parametrize("name", ANSWER_SCORES)
def test_sure_and_clueless(name: str) -> None:
    for classes in (2, 7):
        assert score(np.eye(classes, dtype=np.float32) * 500, name) == pytest.approx(1, abs=1e-6)
        clueless = score(np.zeros((1, classes), np.float32), name)[0]
        assert clueless == pytest.approx(1 / classes if name == "maxprob" else 0, abs=1e-6)


def test_two_classes() -> None:
    z = logits(2)
    np.testing.assert_allclose(score(z, "margin"), 2 * score(z, "maxprob") - 1, atol=1e-6)


@pytest.mark.parametrize("name", ANSWER_SCORES)
def test_not_a_number(name: str) -> None:
    z = logits(4, 8)
    z[0, 1] = np.nan
    z[1] = np.nan
    z[2, 3] = np.inf  # infinity less infinity is no number either
    found = score(z, name)
    assert np.isnan(found[:3]).all()
    assert not np.isnan(found[3:]).any()
    z[4, 0] = -np.inf  # a class that is ruled out is fine
    assert not np.isnan(score(z, name)[4])
    assert np.isnan(score(np.array([[0.5, np.nan]], np.float32), name, kind="probs")).all()


@pytest.mark.parametrize("name", ANSWER_SCORES)
def test_sequences_are_means_over_positions(name: str) -> None:
    z = logits(5, 24)
    one = score(z, name)
    np.testing.assert_allclose(score(z.reshape(6, 4, 5), name), one.reshape(6, 4).mean(1), atol=1e-6)
    np.testing.assert_allclose(score(z.reshape(3, 4, 2, 5), name), one.reshape(3, 8).mean(1), atol=1e-6)
    z[5] = np.nan
    assert np.isnan(score(z.reshape(6, 4, 5), name)).tolist() == [False, True, *[False] * 4]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("name", ANSWER_SCORES)
def test_other_precisions_are_scored_in_float32(name: str, dtype: Any) -> None:
    z = np.array([[1.5, -2.25, 0.125]], dtype)
    found = score(z, name, temperature=0.5)
    assert found.dtype == np.float32
    assert found == score(z.astype(np.float32), name, temperature=0.5)


@pytest.mark.parametrize("name", ANSWER_SCORES)
def test_a_higher_temperature_is_less_sure(name: str) -> None:
    z = np.array([[2.0, 1.0, -1.0]], np.float32)
    found = [score(z, name, temperature=t)[0] for t in (0.5, 1.0, 2.0, 8.0)]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == 4


def test_a_batch_scores_like_its_rows() -> None:
    z = logits(10)
    for name in ANSWER_SCORES:
        rows = np.concatenate([score(r[None], name) for r in z])
        np.testing.assert_allclose(score(z, name), rows, atol=1e-6)


def test_refused() -> None:
    with pytest.raises(PolicyError, match="unknown score 'luck'; known: maxprob, "):
        score(np.zeros((1, 3), np.float32), "luck")
    with pytest.raises(PolicyError, match="at least 2 classes"):
        score(np.zeros((4, 1), np.float32))
