from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrate.curves import coverage_at_risk, risk_at_coverage
from calibrate.made_rows import fashion_mnist, from_scores, graded
from edgeexit.calibrate.rejection.selective import answered, parse_target, selected
from edgeexit.calibrate.rejection.window import window_policy
from edgeexit.calibrate.search.thresholds import cut_at
from edgeexit.errors import DataError, EdgeExitError, Infeasible, PolicyError
from edgeexit.policy.policies import Threshold
from edgeexit.records.classification import Records, outcome, replay

INF = math.inf
ROWS = graded(2000, 0)


@pytest.mark.parametrize("pass_rate", [0.1, 0.2, 0.3])
def test_beats_a_threshold_at_its_own_metric(pass_rate: float) -> None:
    """Fashion-MNIST, exits 1 and 3; what is lost is accuracy over all rows, rejected ones included."""
    design, test = fashion_mnist()
    low = cut_at(design.scores("maxprob")[1], round(design.n * (1 - pass_rate)), ties_in=False)
    one = Threshold((INF, low, INF))
    score, correct = answered(one, test)
    expected = {"cov@0.02": {0.1: 0.434, 0.2: 0.477, 0.3: 0.518}, "risk@0.8": {0.1: 0.115, 0.2: 0.099, 0.3: 0.082}}
    for target, values in expected.items():
        window = window_policy(design, target, pass_rate)
        s, c = answered(window, test)
        if target == "cov@0.02":
            found = coverage_at_risk(s, c, 0.02)
            assert found > coverage_at_risk(score, correct, 0.02) + 0.04
        else:
            found = risk_at_coverage(s, c, 0.8)
            assert found < risk_at_coverage(score, correct, 0.8) - 0.003
        assert found == pytest.approx(values[pass_rate], abs=1e-3)
        assert c.mean() < correct.mean()
        assert outcome(replay(window, design), design).exit_rates == pytest.approx(
            [0, 1 - pass_rate, 0, pass_rate], abs=1e-3
        )


def test_tau_meets_the_target_on_the_design_rows() -> None:
    design, test = fashion_mnist()
    window = window_policy(design, "cov@0.02")
    assert selected(window, design, window.tau).risk <= 0.02
    assert selected(window, test, window.tau).risk == pytest.approx(0.0246, abs=1e-4)  # an estimate, no promise
    window = window_policy(design, "risk@0.8")
    assert 0.8 <= selected(window, design, window.tau).coverage < 0.801


def test_more_windows_cost_less() -> None:
    design, test = fashion_mnist()
    one, two = window_policy(design), window_policy(design, between=(2,))
    assert (two.low[1], two.high[1]) == (one.low[1], one.high[1])
    a, b = selected(one, test, one.tau), selected(two, test, two.tau)
    assert b.cost < 0.65 * a.cost
    assert coverage_at_risk(*answered(two, test), 0.02) == pytest.approx(0.472, abs=1e-3)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(2, 60),
    st.integers(2, 30),
    st.sampled_from(["cov@0.1", "cov@0.3", "risk@0.2", "risk@0.9"]),
    st.floats(0.01, 0.99),
)
def test_never_passes_more_than_asked(seed: int, n: int, levels: int, target: str, pass_rate: float) -> None:
    rng = np.random.default_rng(seed)
    scores = 0.51 + 0.45 * rng.integers(0, levels, (3, n)) / levels
    records = from_scores(scores, rng.random((3, n)) < scores)
    try:
        window = window_policy(records, target, pass_rate, first=0, between=(1,))
    except Infeasible:
        return
    for k in (0, 1):
        assert (~window.stop([*records.scores("maxprob")[: k + 1]])).mean() <= pass_rate + 1e-9
    kind, share = parse_target(target)
    found = selected(window, records, window.tau)
    assert found.risk is not None and (found.risk <= share + 1e-6 if kind == "cov" else found.coverage >= share - 1e-6)


def test_exits_not_named_never_answer() -> None:
    window = window_policy(ROWS, "risk@0.5", first=0, second=2)
    rates = outcome(replay(window, ROWS), ROWS).exit_rates
    assert rates[1] == rates[3] == 0 and rates[2] == pytest.approx(0.2, abs=0.01)
    assert window_policy(ROWS, "risk@0.5", first=-4, second=-2) == window


def test_score_and_temperatures_reach_the_policy() -> None:
    window = window_policy(ROWS, "risk@0.5", score="margin", temperatures=(1.0, 2.0, 1.0, 1.0))
    assert window.score == "margin" and window.temperatures == (1.0, 2.0, 1.0, 1.0)
    assert window.low[1] < window_policy(ROWS, "risk@0.5", score="margin").low[1]


def test_a_target_near_the_end_leaves_half_a_window() -> None:
    window = window_policy(ROWS, "risk@0.999")
    assert window.low[1] == -INF
    assert 0.1 <= (~window.stop([None, ROWS.scores("maxprob")[1]])).mean() < 0.11


def test_labels_of_one_class_are_rows_like_others() -> None:
    rows = np.flatnonzero(ROWS.labels == 3)
    assert window_policy(ROWS.take(rows), "risk@0.5").exits == 4


def test_no_window() -> None:
    half = np.arange(40) % 2 == 0
    same = from_scores(np.full((3, 40), 0.7), np.stack([half] * 3))
    with pytest.raises(Infeasible, match=r"made, exit 1: risk@0.5 accepts every row"):
        window_policy(same, "risk@0.5")
    coarse = from_scores(np.where(half, 0.9, 0.6) * np.ones((3, 1)), np.stack([half] * 3))
    with pytest.raises(Infeasible, match=r"no window of at most 20.00% .* 40 scores have 2 distinct values"):
        window_policy(coarse, "risk@0.5")
    right = from_scores(np.linspace(0.6, 0.9, 120).reshape(3, 40), np.ones((3, 40), bool))
    with pytest.raises(Infeasible, match="accepts every row, so there is nothing for a window to decide"):
        window_policy(right)
    wrong = from_scores(np.linspace(0.6, 0.9, 120).reshape(3, 40), np.zeros((3, 40), bool))
    with pytest.raises(Infeasible, match=r"no threshold reaches a risk of 0.02; the least reachable is 1"):
        window_policy(wrong)


BAD: list[tuple[dict[str, Any], str]] = [
    *[({"pass_rate": p}, r"a pass rate is a fraction in \(0, 1\)") for p in (0, 1, -0.2, 20, math.nan)],
    *[
        ({"target": t}, "unknown target .* write cov@0.02")
        for t in ("cov", "cov@", "cov@2", "aurc@0.1", "risk@nan", "")
    ],
    ({"first": 3}, r"exits 0 to 3 in growing order, found \[3, -1\]"),
    ({"first": 4, "second": 5}, "growing order"),
    ({"first": -5}, "growing order"),
    ({"between": (1,)}, "growing order"),
    ({"score": "luck"}, "unknown score 'luck'"),
    ({"temperatures": (1.0,)}, "1 temperatures for 4 exits"),
]


@pytest.mark.parametrize(("options", "words"), BAD)
def test_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        window_policy(ROWS, **options)


def test_bad_rows() -> None:
    with pytest.raises(DataError, match="field: risk and coverage need labels"):
        window_policy(Records(ROWS.outputs, ROWS.cost, name="field"))
    given_scores = {"maxprob": np.full((4, ROWS.n), np.nan, np.float32)}
    with pytest.raises(DataError, match="NaN"):
        window_policy(Records(ROWS.outputs, ROWS.cost, ROWS.labels, stored_scores=given_scores))
    two = from_scores(np.random.default_rng(0).uniform(0.6, 0.9, (2, 40)), np.ones((2, 40), bool))
    with pytest.raises(EdgeExitError, match="exits 0 to 1 in growing order"):
        window_policy(two)
