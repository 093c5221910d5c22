from __future__ import annotations

import numpy as np
import pytest

from edgeexit.calibrate.metrics.intervals import paired, wilson


def test_wilson_as_in_the_books() -> None:
    # Newcombe 1998, table I: 81 of 263, and none of 20.
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1.0, 20) == pytest.approx((0.8389, 1.0), abs=5e-5)


def test_wilson_covers() -> None:
    rng = np.random.default_rng(0)
    found = [wilson(rng.binomial(200, 0.9) / 200, 200) for _ in range(2000)]
    assert 0.93 < np.mean([low <= 0.9 <= high for low, high in found]) < 0.97


def test_paired_differences_know_their_pairs() -> None:
    rng = np.random.default_rng(0)
    a = (rng.random(5000) < 0.8).astype(np.float32)
    b = a.copy()
    b[:10] = 1 - b[:10]
    mean, half = paired(a, b)
    assert abs(mean) <= 10 / 5000 and half == pytest.approx(1.96 * np.sqrt(11 / 5000 / 5000), rel=0.1)


def test_no_disagreement_among_few_rows_is_not_certainty() -> None:
    mean, half = paired(np.ones(10), np.ones(10))
    assert mean == 0 and half == pytest.approx(0.196, abs=1e-3)
