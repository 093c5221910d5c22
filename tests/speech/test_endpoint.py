"""Ends of utterances, and cuts through long audio."""

from __future__ import annotations

import numpy as np
import pytest

from edgeexit.errors import DataError
from edgeexit.speech.endpoint import EndpointRules, windows


def test_rules() -> None:
    rules = EndpointRules()
    assert rules.ended(2.3, 2.3, False) is None
    assert rules.ended(2.4, 2.4, False) == "nothing said"
    assert rules.ended(3.0, 1.1, True) is None
    assert rules.ended(3.0, 1.2, True) == "pause"
    assert rules.ended(19.9, 0.1, True) is None
    assert rules.ended(20.0, 0.1, True) == "length"
    with pytest.raises(DataError, match="pause_s"):
        EndpointRules(pause_s=0)


def spoken(seconds: float, rate: int = 1000) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(int(seconds * rate)).astype(np.float32) * 0.1


@pytest.mark.parametrize("size", [1, 300, 2500, 100_000])
def test_cuts_are_made_in_pauses(size: int) -> None:
    x = spoken(30)
    for at in (6.0, 13.0, 17.0, 24.0):
        x[int(at * 1000) : int((at + 0.3) * 1000)] *= 0.01
    found = list(windows((x[i : i + size] for i in range(0, len(x), size)), 1000, 8.0))
    assert np.array_equal(np.concatenate([w for _, w in found]), x)
    starts = [start for start, _ in found]
    assert starts == pytest.approx([0, 6.15, 13.15, 17.15, 24.15], abs=0.12)
    assert all(len(w) <= 8000 for _, w in found)


def test_without_a_pause() -> None:
    x = spoken(30)
    found = list(windows([x], 1000, 8.0))
    assert np.array_equal(np.concatenate([w for _, w in found]), x)
    assert all(4000 <= len(w) <= 8000 for _, w in found[:-1])


def test_short_and_nothing() -> None:
    x = spoken(1)
    ((start, window),) = windows([x, x[:0]], 1000, 8.0)
    assert start == 0 and np.array_equal(window, x)
    assert list(windows([], 1000)) == list(windows([x[:0]], 1000)) == []
    with pytest.raises(DataError, match="longest_s"):
        list(windows([x], 1000, 0.0))
