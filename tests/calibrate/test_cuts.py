from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.calibrate.search.thresholds import place_cuts, reached

scores32 = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40).map(lambda v: np.array(v, np.float32))


@given(scores32, st.integers(1, 50))
def test_reached_is_what_comparing_says(scores: np.ndarray, limit: int) -> None:
    cuts = place_cuts(scores, limit)
    rank = reached(scores, cuts)
    assert ((scores[:, None] >= cuts) == (rank[:, None] > np.arange(len(cuts)))).all()
    assert cuts[0] == -np.inf and cuts[-1] == np.inf and len(cuts) <= limit + 2
    assert (np.diff(cuts) > 0).all()


@given(scores32)
def test_every_split_of_distinct_scores_is_offered_and_no_tie_is_split(scores: np.ndarray) -> None:
    cuts = place_cuts(scores, 1000)
    assert sorted(int((scores >= c).sum()) for c in cuts) == sorted(
        {0, *(int((scores >= v).sum()) for v in np.unique(scores))}
    )


def test_a_cut_lies_half_way() -> None:
    assert place_cuts(np.array([0.25, 0.75], np.float32), 9).tolist() == [-np.inf, 0.5, np.inf]


def test_between_adjacent_floats_the_upper_one_parts_them() -> None:
    low = np.float32(0.9)
    high = np.nextafter(low, np.float32(1))
    cuts = place_cuts(np.array([low, high]), 9)
    assert cuts[1] == high and reached(np.array([low, high]), cuts).tolist() == [1, 2]


def test_limited_cuts_lie_at_even_ranks() -> None:
    scores = np.linspace(0, 1, 1001, dtype=np.float32) ** 4
    shares = [(scores >= c).mean() for c in place_cuts(scores, 9)]
    assert np.allclose(shares, np.linspace(1, 0, 11), atol=0.01)


def test_nan_scores_never_stop_and_make_no_cut() -> None:
    scores = np.array([np.nan, 0.2, 0.8], np.float32)
    cuts = place_cuts(scores, 9)
    assert not np.isnan(cuts).any()
    assert reached(scores, cuts).tolist() == [0, 1, 2]
