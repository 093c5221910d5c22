from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrate.made_rows import fashion_mnist, tiny
from edgeexit.calibrate.search.eero import eero, eero_policy, thresholds_for
from edgeexit.calibrate.search.exit_rates import exit_rates
from edgeexit.errors import DataError, EdgeExitError, Infeasible, PolicyError
from edgeexit.policy.policies import Threshold
from edgeexit.records.classification import exits_taken, outcome, replay

ERROR, COST = [0.4, 0.3, 0.2, 0.1], [1.0, 2.0, 4.0, 8.0]
BUDGETS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 0.9)


def test_unit_vectors() -> None:
    """Exact values for the paper's proposition 3.8, worked out apart from this code."""
    found = exit_rates(ERROR, COST, 4.0, beta=0.04)
    assert found.rates == pytest.approx([0.085234, 0.270163, 0.445596, 0.199007], abs=1e-6)
    assert found.mu == pytest.approx(0.209034, abs=1e-6)
    free = exit_rates(ERROR, COST, 8.0, beta=0.04)
    assert free.rates == pytest.approx([0.003701, 0.022543, 0.137318, 0.836438], abs=1e-6)
    assert free.mu == 0 and free.spent < free.allowed == 1


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=8),
    st.floats(0, 1),
    st.floats(1e-3, 10),
    st.sampled_from(["cost", "uniform"]),
    st.sampled_from(["needed", "all"]),
    st.integers(0, 1000),
)
def test_rates_are_rates_within_the_budget(
    error: list[float], share: float, beta: float, prior: str, spend: str, seed: int
) -> None:
    cost = np.cumsum(np.random.default_rng(seed).uniform(0.01, 1, len(error)))
    budget = cost[0] + share * (cost[-1] - cost[0])
    found = exit_rates(np.array(error), cost, budget, beta=beta, prior=prior, spend=spend)  # type: ignore[arg-type]
    assert found.rates.sum() == pytest.approx(1) and (found.rates >= 0).all()
    assert found.spent <= found.allowed + 1e-9


def test_the_least_objective() -> None:
    """No rates nearby that keep the budget do better at what EERO minimises."""
    found = exit_rates(ERROR, COST, 4.0, beta=0.04)
    b = np.array(COST) / 8
    prior = (1 / b) / (1 / b).sum()

    def objective(e: np.ndarray) -> float:
        return float(e @ ERROR + 0.04 * (e * np.log(e / prior)).sum())

    rng = np.random.default_rng(0)
    tried = 0
    for _ in range(2000):
        e = found.rates + rng.normal(0, 0.01, 4)
        e = np.abs(e) / np.abs(e).sum()
        if e @ b <= 0.5:
            tried += 1
            assert objective(e) >= objective(found.rates) - 1e-12
    assert tried > 100


def test_two_exits_spend_exactly() -> None:
    found = exit_rates([0.3, 0.1], [2.0, 10.0], 4.0, spend="all")
    assert found.rates == pytest.approx([0.75, 0.25]) and found.spent == pytest.approx(0.4)


def test_spending_all() -> None:
    shy, full = (exit_rates(ERROR, COST, 7.8, beta=0.2, spend=s) for s in ("needed", "all"))  # type: ignore[arg-type]
    assert shy.spent < 0.8 and full.spent == pytest.approx(7.8 / 8, abs=1e-3)
    # The first exit is the best one: more cost is no gain, so nothing is thrown out of the window.
    best_first = exit_rates([0.1, 0.2], [1.0, 2.0], 2.0, beta=0.04)
    assert best_first.spent < 0.6


@pytest.mark.parametrize("seed", range(20))
def test_ties_keep_the_budget(seed: int) -> None:
    """Few distinct scores: rows of one score stop together, and in paper mode rather too many than too few."""
    records = tiny(seed, 4, 97, levels=3)
    scores, cost = records.scores("maxprob"), records.relative_cost
    rates = np.random.default_rng(seed).dirichlet(np.ones(4))
    found = thresholds_for(scores, rates, "paper")
    assert all((scores[k] >= np.float32(found[k])).mean() >= np.cumsum(rates)[k] - 1 / 97 for k in range(3))
    taken = exits_taken(Threshold(found), scores, scores)
    assert cost[taken].mean() <= rates @ cost + 1 / 97


def test_survivors_take_the_nearer_side_of_a_tie() -> None:
    scores = np.repeat([[0.9, 0.7, 0.5]], 10, 1).astype(np.float32)
    for rate, reached in ((0.3, 10), (0.4, 10), (0.49, 10), (0.6, 20), (0.1, 0), (0.9, 30)):
        found = thresholds_for(scores, np.array([rate, 1 - rate]), "survivors")
        assert np.count_nonzero(scores[0] >= found[0]) == reached


def test_all_scores_equal() -> None:
    same = np.full((2, 50), 0.7, np.float32)
    assert thresholds_for(same, np.array([0.5, 0.5])) == (-np.inf,)
    assert thresholds_for(same, np.array([0.2, 0.8]), "survivors") == (np.inf,)
    assert thresholds_for(same, np.array([0.8, 0.2]), "survivors") == (-np.inf,)
    assert thresholds_for(same, np.array([0.0, 1.0])) == (np.inf,)


@pytest.mark.parametrize("budget", BUDGETS)
def test_budgets_hold_on_test(budget: float) -> None:
    design, test = fashion_mnist()
    paper, _ = eero_policy(design, budget)
    survivors, rates = eero_policy(design, budget, mode="survivors")
    assert outcome(replay(paper, test), test).cost <= budget * 1.005
    if rates.spent > budget * 0.999:
        assert outcome(replay(survivors, test), test).cost == pytest.approx(budget, rel=0.02)


def test_thirty_percent() -> None:
    """Exit 2 alone costs 0.305 and has 0.856."""
    design, test = fashion_mnist()
    found = outcome(replay(eero_policy(design, 0.3)[0], test), test)
    assert found.accuracy >= 0.865 and found.cost <= 0.3


BAD = {
    "below the first exit": (lambda: exit_rates(ERROR, COST, 0.9), Infeasible, "least feasible budget is 0.125"),
    "a budget of 0": (lambda: exit_rates(ERROR, COST, 0.0), PolicyError, "positive number in the unit of cost"),
    "NaN error": (lambda: exit_rates([np.nan, 0.1], [1, 2], 1.5), PolicyError, "share in"),
    "falling cost": (lambda: exit_rates([0.2, 0.1], [2, 1], 1.5), PolicyError, "positive and growing"),
    "beta": (lambda: exit_rates(ERROR, COST, 4, beta=0), PolicyError, "beta must be a positive"),
    "prior": (lambda: exit_rates(ERROR, COST, 4, prior="flat"), PolicyError, "known: cost, uniform"),  # type: ignore[arg-type]
    "mode": (lambda: thresholds_for(np.ones((1, 5)), np.ones(2) / 2, "x"), PolicyError, "known: paper"),  # type: ignore[arg-type]
    "n = 0": (lambda: thresholds_for(np.ones((1, 0)), np.ones(2) / 2), DataError, "n = 0"),
    "no rows": (lambda: eero(np.ones((2, 0)), np.ones((2, 0)), np.array([1, 2]), 1.5), DataError, "found"),
    "NaN scores": (lambda: thresholds_for(np.full((1, 5), np.nan), np.ones(2) / 2), DataError, "NaN"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message) as found:
        call()
    assert isinstance(found.value, EdgeExitError)
