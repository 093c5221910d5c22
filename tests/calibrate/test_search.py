from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrate.made_rows import fashion_mnist, from_scores, graded, tiny
from edgeexit.calibrate import ParetoFront, candidate_family, pareto, patience_front
from edgeexit.errors import PolicyError
from edgeexit.policy.policies import Threshold
from edgeexit.policy.scores import ANSWER_SCORES
from edgeexit.records.classification import Records, outcome, replay

seeds = st.integers(0, 10**6)


def measured_again(path: ParetoFront, records: Records) -> bool:
    found = [outcome(replay(p.policy, records), records) for p in path.points]
    return [(f.cost, f.accuracy) for f in found] == [(p.cost, p.accuracy) for p in path.points]


def best_at(path: ParetoFront, price: float) -> float:
    return max(p.accuracy - price * p.cost for p in path.points)


def brute_force(records: Records) -> list[tuple[float, float]]:
    """Cost and accuracy of every set of per-exit thresholds."""
    scores = records.scores("maxprob")[:-1]
    choices = [[*np.unique(s), np.inf] for s in scores]
    return [
        (o.cost, o.accuracy)
        for t in itertools.product(*choices)
        for o in [outcome(replay(Threshold(tuple(map(float, t))), records), records)]
    ]


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(2, 3))
def test_equals_brute_force_on_the_hull(seed: int, exits: int) -> None:
    records = tiny(seed, exits, 12)
    path, every = pareto(records), brute_force(records)
    for price in (0.0, *np.geomspace(0.01, 30, 40)):
        assert best_at(path, price) == pytest.approx(max(a - price * c for c, a in every), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(2, 6), st.integers(1, 60), st.integers(1, 12))
def test_never_worse_than_fixed_exits_or_a_shared_threshold(seed: int, exits: int, n: int, levels: int) -> None:
    records = tiny(seed, exits, n, levels)
    path, shared, fixed = pareto(records), pareto(records, shared=True), candidate_family("fixed").front(records)
    for other in (*shared.points, *fixed.points):
        assert path.for_budget(min(1.0, other.cost)).accuracy >= other.accuracy - 1e-12


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(2, 5), st.sampled_from(sorted(ANSWER_SCORES)), st.booleans())
def test_a_path_grows_and_keeps_its_budgets(seed: int, exits: int, score: str, shared: bool) -> None:
    records = tiny(seed, exits, 40)
    path = pareto(records, score, shared=shared)
    assert measured_again(path, records)
    for a, b in itertools.pairwise(path.points):
        assert a.cost < b.cost and a.accuracy < b.accuracy
    for budget in np.linspace(records.relative_cost[0], 1, 9):
        taken = replay(path.for_budget(float(budget)).policy, records)
        assert outcome(taken, records).cost <= budget + 1e-12


def test_temperatures_reach_the_policies() -> None:
    records = graded(400, 0)
    temperatures = (0.5, 1.0, 2.0, 3.0)
    path = pareto(records, temperatures=temperatures)
    assert measured_again(path, records)
    assert {p.policy.temperatures for p in path.points} == {temperatures}
    with pytest.raises(PolicyError, match="2 temperatures for 4 exits"):
        pareto(records, temperatures=(1.0, 1.0))


def test_scores_that_all_tie_leave_only_fixed_exits() -> None:
    rng = np.random.default_rng(0)
    correct = rng.random((3, 50)) < np.array([[0.3], [0.6], [0.9]])
    path = pareto(from_scores(np.full((3, 50), 0.75), correct))
    assert [p.cost for p in path.points] == pytest.approx([1 / 3, 2 / 3, 1])


def test_rows_of_one_class_that_every_exit_knows_stop_at_once() -> None:
    path = pareto(from_scores(np.random.default_rng(0).uniform(0.6, 0.9, (3, 20)), np.ones((3, 20), bool)))
    (point,) = path.points
    assert point.cost == pytest.approx(1 / 3) and point.accuracy == 1.0


def test_one_row() -> None:
    path = pareto(tiny(0, 3, 1))
    assert path.for_budget(1.0).accuracy in (0.0, 1.0)


def test_no_threshold_lies_on_a_score_of_the_design_rows() -> None:
    records = graded(800, 1)
    scores = records.scores("maxprob")[:-1]
    for point in pareto(records).points:
        assert isinstance(point.policy, Threshold)
        assert not any(np.float32(t) in s for t, s in zip(point.policy.thresholds, scores, strict=True))


def test_sequences_are_searched_by_their_mean_accuracy() -> None:
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(3, 60, 7, 4)).astype(np.float32)
    outputs[2, ..., 0] += 3
    records = Records(outputs, np.array([1.0, 2, 3]), np.zeros((60, 7), np.int64))
    assert measured_again(pareto(records), records)
    assert measured_again(patience_front(records), records)


def test_without_labels_agreement_is_searched() -> None:
    rows = graded(300, 2)
    path = pareto(Records(rows.outputs, rows.cost))
    assert path.measure == "agreement" and path.points[-1].accuracy == 1.0


def test_patience_has_a_point_for_every_useful_patience() -> None:
    path = patience_front(graded(500, 0))
    assert {p.policy.to_dict()["patience"] for p in path.points} <= {1, 2, 3}
    assert path.points[0].cost > graded(500, 0).relative_cost[0]


def test_unknown_scores_are_named() -> None:
    with pytest.raises(PolicyError, match="unknown score 'luck'"):
        pareto(tiny(0, 3, 9), "luck")


def test_fashion_mnist_beats_every_exit_alone_on_test_rows() -> None:
    design, held_out = fashion_mnist()
    path = pareto(design)
    for k, cost in enumerate(design.relative_cost[1:3], 1):
        policy = path.for_budget(float(cost)).policy
        found = outcome(replay(policy, held_out), held_out)
        assert found.cost == pytest.approx(cost, rel=0.02)
        assert found.accuracy > held_out.correct[k].mean() + 0.01
