from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrate.made_rows import fashion_mnist
from edgeexit.bandit import SIGMA_PER_MEAN_ERROR, SigmaTable, best_candidate, recorded
from edgeexit.errors import DataError, Infeasible, PolicyError

COST = np.array([1.0, 2.0, 4.0])


def test_by_hand() -> None:
    values = np.array([[0.5, 0.6, 0.1], [0.9, 0.2, 0.3], [0.8, 0.7, 0.4]])
    sigmas = np.array([[0.3, 0.1, 0.1], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    asked: list[tuple[int, int]] = []

    def step(i: int, k: int) -> tuple[float, float]:
        asked.append((i, k))
        return float(values[k, i]), float(sigmas[k, i])

    # All to exit 0 costs 3; then 0 (0.5 + 0.3) to exit 1; its last step fits no more, 1 (0.6 + 0.1) has a cheaper one.
    found = best_candidate(step, 3, COST, 7.5 / 21)
    assert asked == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1)]
    assert (found.candidate, found.value, found.reached, found.cost) == (0, 0.9, (1, 1, 0), 7.0)
    asked.clear()
    assert best_candidate(step, 3, COST, 5 / 21, gamma=0).reached == (0, 1, 0)
    everything = best_candidate(step, 3, COST, 1)
    assert everything.reached == (2, 2, 2) and everything.candidate == 0 and everything.cost == 21


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 8),
    st.integers(1, 5),
    st.floats(0, 1),
    st.floats(0, 3),
    st.integers(0, 4),
)
def test_keeps_the_budget(seed: int, candidates: int, exits: int, share: float, gamma: float, start: int) -> None:
    rng = np.random.default_rng(seed)
    cost, start = rng.uniform(0.1, 2, exits), min(start, exits - 1)
    least = cost[: start + 1].sum() / cost.sum()
    budget = min(1.0, least + share * (1 - least))
    values, sigmas = rng.random((2, exits, candidates)).round(1)
    found = best_candidate(recorded(values, sigmas), candidates, cost, budget, gamma=gamma, start=start)
    total = budget * candidates * cost.sum()
    assert found.cost <= total * (1 + 1e-9)
    assert found.cost == pytest.approx(sum(cost[: k + 1].sum() for k in found.reached))
    dear = [cost[k + 1] for k in found.reached if k + 1 < exits]
    assert all(found.cost + c > total * (1 - 1e-9) for c in dear)  # nothing that fits is left undone
    assert min(found.reached) >= start
    current = [values[k, i] for i, k in enumerate(found.reached)]
    assert found.value == max(current) and found.candidate == current.index(max(current))


def test_fashion_mnist() -> None:
    """40 candidates, value = p(class), 5 % of the cost; what counts is the last exit's value of the chosen one.

    The estimate at an early exit must not count: over-estimates would pass as successes.
    """
    design, test = fashion_mnist()
    p = np.stack([test.probabilities(k) for k in range(4)])
    table = SigmaTable.learn(np.stack([design.probabilities(k).ravel() for k in range(4)]))
    costs = np.diff(test.cost, prepend=0)
    rng = np.random.default_rng(0)
    best, value = np.zeros(2), np.zeros(2)
    for _ in range(300):
        rows = rng.choice(test.n, 40, replace=False)
        v = p[:, rows, rng.integers(10)]
        sigmas = np.stack([table(v[k], k) for k in range(4)])
        chosen = best_candidate(recorded(v, sigmas), 40, costs, 0.05).candidate
        lucky = rng.choice(40, 2, replace=False)  # what the same budget scores fully
        for j, i in enumerate((chosen, lucky[v[3, lucky].argmax()])):
            best[j] += v[3, i] == v[3].max()
            value[j] += v[3, i]
    assert best[0] / 300 >= 0.55 and best[1] / 300 <= 0.10
    assert value[0] / 300 >= 0.88 and value[1] / 300 <= 0.30


def test_sigma_table() -> None:
    values = np.array([[0.0, 0.1, 0.9, 1.0], [0.2, 0.1, 0.9, 0.4]])
    table = SigmaTable.learn(values, bins=3)
    per = SIGMA_PER_MEAN_ERROR
    assert table(np.array([-1, 0.2, 0.95, 2.0]), 0) == pytest.approx([0.1 * per, 0.1 * per, 0.3 * per, 0.3 * per])
    assert table(0.5, 0) == pytest.approx(0.2 * per)  # no rows there: that of the whole exit
    assert (table.sigma[-1] == 0).all()
    assert SigmaTable.learn(np.ones((2, 3))).sigma.max() == 0
    assert SigmaTable.learn(values, bins=1)(0.5, 0) == pytest.approx(0.2 * per)


def test_too_small_a_budget_names_the_least() -> None:
    step = recorded(np.ones((3, 4)), np.zeros((3, 4)))
    with pytest.raises(Infeasible, match=r"does not take 4 candidates to exit 0; the least feasible budget is 0\.1429"):
        best_candidate(step, 4, COST, 0.1)
    assert best_candidate(step, 4, COST, 0.1429).reached == (0, 0, 0, 0)
    assert best_candidate(step, 4, COST, 1 / 7).cost == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"candidates": 0}, "at least 1 candidate, found 0"),
        ({"step_cost": []}, "positive numbers, one per exit"),
        ({"step_cost": [1, 0]}, "positive numbers, one per exit"),
        ({"step_cost": [1, math.nan]}, "positive numbers, one per exit"),
        ({"budget": 0}, r"in \(0, 1\], found 0"),
        ({"budget": math.nan}, r"in \(0, 1\], found nan"),
        ({"gamma": -1}, "gamma must be"),
        ({"gamma": math.nan}, "gamma must be"),
        ({"start": 3}, "no exit 3 to start at; the costs are for exits 0 to 2"),
    ],
)
def test_refused(change: dict[str, Any], words: str) -> None:
    options: dict[str, Any] = {"candidates": 2, "step_cost": COST, "budget": 1.0} | change
    with pytest.raises(PolicyError, match=words):
        best_candidate(recorded(np.ones((3, 2)), np.zeros((3, 2))), **options)


def test_bad_values() -> None:
    for value, sigma in ((math.nan, 0.1), (0.5, math.nan), (0.5, -0.1), (math.inf, 0.0)):
        with pytest.raises(DataError, match=r"candidate 0, exit 0: value .* both must be finite"):
            best_candidate(lambda i, k, v=value, s=sigma: (v, s), 2, COST, 1.0)  # type: ignore[misc]
    with pytest.raises(DataError, match=r"found \(3, 2\) and \(2, 3\)"):
        recorded(np.ones((3, 2)), np.ones((2, 3)))
    for wrong in (np.ones(3), np.ones((2, 0)), np.array([[0.1, math.nan]])):
        with pytest.raises(DataError, match=r"must be finite and \(exits, n >= 1\)"):
            SigmaTable.learn(wrong)
    with pytest.raises(PolicyError, match="at least 1 bin, found 0"):
        SigmaTable.learn(np.ones((2, 3)), bins=0)
