from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.calibrate.metrics.uncertainty import accuracy_drop, auroc
from edgeexit.errors import DataError

Rows = list[tuple[int, bool]]


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_auroc_counts_pairs(rows: Rows) -> None:
    score, kind = np.array([s for s, _ in rows]), np.array([k for _, k in rows])
    pairs = [float(p > n) + (p == n) / 2 for p in score[kind] for n in score[~kind]]
    if pairs:
        assert auroc(score, kind) == pytest.approx(np.mean(pairs))
    else:
        with pytest.raises(DataError, match="positive"):
            auroc(score, kind)


def test_by_hand() -> None:
    score = np.float32([0.9, 0.8, 0.8, 0.1])
    assert auroc(score, np.array([1, 1, 0, 0])) == pytest.approx((1 + 1 + 0.5 + 1) / 4)


def test_scores_that_cannot_be_ranked_are_refused() -> None:
    with pytest.raises(DataError, match="NaN"):
        auroc(np.array([0.1, math.nan]), np.array([0, 1]))
    with pytest.raises(DataError, match="both"):
        auroc(np.zeros(2), np.zeros(3))
    with pytest.raises(DataError, match="0 or 1"):
        auroc(np.zeros(2), np.array([0, 2]))
    with pytest.raises(DataError, match="found none"):
        auroc(np.zeros(2), np.zeros(2))


def stream(n: int, accuracy: float, confidence: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Correct at random with the share `accuracy`, one confidence for all."""
    return np.full(n, confidence), np.random.default_rng(seed).random(n) < accuracy


def test_confidence_that_falls_with_accuracy_is_found_and_one_that_stays_is_not() -> None:
    clean = stream(2000, 0.95, 0.97, 0)
    honest = accuracy_drop(clean, [stream(2000, 0.4, 0.3, 1)])
    deaf = accuracy_drop(clean, [stream(2000, 0.4, 0.97, 1)])
    assert honest.auprc > 0.95
    # confidence below 1 is all that the deaf one can say: every position alarms, also the clean ones
    assert deaf.auprc == pytest.approx(deaf.precision[-1]) and 0.45 < deaf.auprc < 0.55
    assert honest.rho == pytest.approx(np.arange(11) / 10)
    assert (honest.precision[0], honest.recall[0]) == (1, 0)
    assert honest.recall[-1] == 1


def test_the_counts_are_those_of_the_protocol() -> None:
    rng = np.random.default_rng(5)
    clean, bad = [(rng.random(40) * 0.5 + 0.5, rng.random(40) < share) for share in (0.95, 0.2)]
    found = accuracy_drop(clean, [bad], window=5, sigmas=1)
    usual = [clean[1][i : i + 5].mean() for i in range(36)]
    bound = np.mean(usual) - np.std(usual)
    c, a = np.concatenate([clean[0], bad[0]]), np.concatenate([clean[1], bad[1]])
    for rho, precision, recall in zip(found.rho, found.precision, found.recall, strict=True):
        tp = fp = fn = 0
        for i in range(76):
            alarm, low = c[i : i + 5].mean() < rho, a[i : i + 5].mean() <= bound
            tp, fp, fn = tp + (alarm and low), fp + (alarm and not low), fn + (low and not alarm)
        assert precision == pytest.approx(tp / (tp + fp) if tp + fp else 1)
        assert recall == pytest.approx(tp / (tp + fn))
    assert found.bound == pytest.approx(bound)


def test_streams_without_a_drop_are_left_out_and_counted() -> None:
    clean, same, bad = stream(500, 0.95, 0.9, 0), (np.full(200, 0.9), np.ones(200)), stream(500, 0.2, 0.3, 2)
    assert accuracy_drop(clean, [same, bad]).undropped == 1
    assert accuracy_drop(clean, [same, bad]).auprc == accuracy_drop(clean, [bad]).auprc
    with pytest.raises(DataError, match="nothing to detect"):
        accuracy_drop(clean, [same])
    with pytest.raises(DataError, match="does not fit"):
        accuracy_drop(stream(50, 1, 1, 0), [bad])
    with pytest.raises(DataError, match="confidence and correct"):
        accuracy_drop((np.zeros(200), np.zeros(199)), [bad])
