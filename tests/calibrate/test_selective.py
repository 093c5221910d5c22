from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrate.curves import coverage_at_risk, risk_at_coverage
from calibrate.made_rows import fashion_mnist, tiny
from edgeexit.calibrate.rejection.selective import (
    answered,
    aurc,
    risk_coverage,
    selected,
)
from edgeexit.errors import DataError, PolicyError
from edgeexit.policy.policies import Patience, Threshold, fixed_exit
from edgeexit.records.classification import Records

SCORE = np.float32([0.9, 0.8, 0.8, 0.7, 0.6])
CORRECT = np.array([1, 1, 0, 1, 0])


def test_by_hand() -> None:
    curve = risk_coverage(SCORE, CORRECT)
    assert curve.coverage == pytest.approx([0.2, 0.6, 0.8, 1])
    assert curve.risk == pytest.approx([0, 1 / 3, 1 / 4, 2 / 5])
    assert curve.threshold == pytest.approx([0.85, 0.75, 0.65, -math.inf])
    # Within the tie, half an error each: risks 0, 1/4, 1/3, 1/4, 2/5.
    assert aurc(SCORE, CORRECT) == pytest.approx((0 + 1 / 4 + 1 / 3 + 1 / 4 + 2 / 5) / 5)
    assert coverage_at_risk(SCORE, CORRECT, 0.25) == pytest.approx(0.8)  # past the block of risk 1/3
    assert coverage_at_risk(SCORE, CORRECT, 0.2) == pytest.approx(0.2)
    assert risk_at_coverage(SCORE, CORRECT, 0.3) == pytest.approx(1 / 3)  # the tie comes whole
    assert coverage_at_risk(SCORE, 1 - CORRECT, 0.1) == 0


def test_fashion_mnist() -> None:
    """Values worked out apart from this code, x 1000."""
    _, test = fashion_mnist()
    for name, expected in (("maxprob", [130.6, 69.8, 31.2, 23.4]), ("margin", [132.9, 71.4, 31.9, 23.8])):
        found = [1000 * aurc(s, c) for s, c in zip(test.scores(name), test.correct, strict=True)]
        assert found == pytest.approx(expected, abs=0.1)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 12))
def test_the_order_of_the_rows_does_not_matter(seed: int, n: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    score, correct = np.float32(rng.integers(0, levels, n) / 8), rng.random(n).round(1)
    order = rng.permutation(n)
    curve, again = risk_coverage(score, correct), risk_coverage(score[order], correct[order])
    np.testing.assert_allclose(again.risk, curve.risk)
    assert aurc(score[order], correct[order]) == pytest.approx(aurc(score, correct))
    for threshold, coverage, risk in zip(curve.threshold, curve.coverage, curve.risk, strict=True):
        accepted = score >= threshold
        assert accepted.mean() == pytest.approx(coverage)
        assert 1 - correct[accepted].mean() == pytest.approx(risk)


def test_aurc_is_the_mean_over_all_orders_of_ties() -> None:
    rng = np.random.default_rng(0)
    orders = [rng.permutation(5) for _ in range(4000)]
    least = np.float32(1e-4)
    parted = [aurc(SCORE + least * o, CORRECT) for o in orders]
    assert np.mean(parted) == pytest.approx(aurc(SCORE, CORRECT), abs=2e-3)


def test_ties_everywhere() -> None:
    curve = risk_coverage(np.full(5, 0.5), CORRECT)
    assert curve.coverage.tolist() == [1] and curve.risk == pytest.approx([0.4])
    assert aurc(np.full(5, 0.5), CORRECT) == pytest.approx(0.4)


def test_all_right_and_all_wrong() -> None:
    assert aurc(SCORE, np.ones(5)) == 0
    assert aurc(SCORE, np.zeros(5)) == 1


def test_saturated_scores_are_ties_as_on_the_device() -> None:
    assert len(risk_coverage(1 - np.array([1e-9, 1e-12]), np.ones(2)).risk) == 1


def test_selected_counts_what_an_application_sees() -> None:
    records = tiny(3, 3, 50)
    policy = Threshold((0.8, 0.7))
    score, correct = answered(policy, records)
    found = selected(policy, records, 0.75)
    accepted = score >= np.float32(0.75)
    assert found.coverage == accepted.mean() and found.risk == pytest.approx(1 - correct[accepted].mean())
    assert found.accuracy == pytest.approx(correct.mean())
    assert selected(policy, records, 2.0).risk is None
    np.testing.assert_array_equal(answered(fixed_exit(1, 3), records)[0], records.scores("maxprob")[1])


@pytest.mark.parametrize(
    ("score", "correct", "words"),
    [
        ([], [], r"\(n >= 1,\), found \(0,\)"),
        ([0.5, 0.6], [1], r"found \(2,\) and \(1,\)"),
        ([[0.5]], [[1]], r"found \(1, 1\)"),
        ([0.5, math.nan], [1, 0], "NaN or infinity"),
        ([0.5, math.inf], [1, 0], "NaN or infinity"),
        ([0.5, 0.6], [1, math.nan], r"correct must lie in \[0, 1\]"),
        ([0.5, 0.6], [1, 2], r"correct must lie in \[0, 1\], found 1.0 to 2.0"),
    ],
)
def test_bad_rows(score: list[float], correct: list[float], words: str) -> None:
    for metric in (risk_coverage, aurc):
        with pytest.raises(DataError, match=words):
            metric(np.array(score), np.array(correct))


@pytest.mark.parametrize("share", [0, 1, -0.1, 2, math.nan, True])
def test_shares(share: float) -> None:
    with pytest.raises(PolicyError, match=r"a risk is a fraction in \(0, 1\)"):
        coverage_at_risk(SCORE, CORRECT, share)
    with pytest.raises(PolicyError, match=r"a coverage is a fraction in \(0, 1\)"):
        risk_at_coverage(SCORE, CORRECT, share)


def test_refused() -> None:
    records = tiny(3, 3, 50)
    with pytest.raises(PolicyError, match="'patience' compares no score"):
        answered(Patience(1), records)
    unlabelled = Records(records.outputs, records.cost, kind="probs", name="field")
    with pytest.raises(DataError, match="field: risk and coverage need labels"):
        selected(Threshold((0.8, 0.7)), unlabelled, 0.5)
