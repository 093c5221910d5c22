"""Prediction sets: against their definition, the promise by simulation, and what hostile tables meet."""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any

import numpy as np
import pytest

from calibrate.made_rows import fashion_mnist, graded, tiny
from edgeexit.calibrate import pareto
from edgeexit.calibrate.guarantees.conformal import conformal_rank, conformal_sets, measure_sets, set_masks
from edgeexit.errors import DataError, EdgeExitError, Infeasible, PolicyError
from edgeexit.policy.policies import Patience, Policy, Threshold, fixed_exit
from edgeexit.policy.scores import probabilities
from edgeexit.policy.sets import ConformalSets
from edgeexit.records.classification import Records, replay
from shared_data import data_dir

NESTED = ConformalSets("nested", (0.1, 0.2), 0.1, 50, (1.0, 1.0), "probs")


@cache
def fashion_splits() -> tuple[Records, Records, Records]:
    """Design and calibration, the halves of validation; test."""
    design, test = fashion_mnist()
    z = np.load(data_dir() / "fm_logits" / "fashion_mnist_4exits_logits.npz", allow_pickle=False)
    return design, Records(z["val"][:, 5000:], design.cost, z["yval"][5000:], name="second half"), test


def by_definition(design: Records, calibration: Records, test: Records, alpha: float) -> np.ndarray:
    """Nested-max sets `(exits, n, classes)`, row by row and class by class."""

    def rank(k: int, p: float) -> int:
        return sum(float(row[y]) > p for row, y in zip(design.probabilities(k), design.labels, strict=True))

    def largest(rows: Records, i: int, y: int, exits: int) -> int:
        return max(rank(k, float(rows.probabilities(k)[i, y])) for k in range(exits))

    m = sorted(largest(calibration, i, int(calibration.labels[i]), design.exits) for i in range(calibration.n))
    place = math.ceil((calibration.n + 1) * (1 - alpha) - 1e-9)
    q = m[place - 1] if place <= len(m) else math.inf
    return np.array(
        [
            [[largest(test, i, y, k + 1) <= q for y in range(test.outputs.shape[-1])] for i in range(test.n)]
            for k in range(test.exits)
        ]
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("levels", [2, 1000])
def test_nested_sets_are_their_definition(seed: int, alpha: float, levels: int) -> None:
    design, calibration, test = (tiny(seed + s, 3, n, levels) for s, n in ((0, 23), (100, 31), (200, 12)))
    sets = conformal_sets(design, calibration, alpha)
    assert np.array_equal(set_masks(sets, test), by_definition(design, calibration, test, alpha))


def test_nested_sets_on_fashion_mnist_as_in_the_notes() -> None:
    design, calibration, test = fashion_splits()
    sets = conformal_sets(design, calibration)
    at = [measure_sets(sets, test, fixed_exit(k, 4)) for k in range(4)]
    assert [q.coverage for q in at] == pytest.approx([0.954, 0.935, 0.916, 0.904], abs=1e-3)
    assert [q.size for q in at] == pytest.approx([2.62, 1.82, 1.29, 1.15], abs=1e-2)
    masks = set_masks(sets, test)
    assert (masks[1:] <= masks[:-1]).all()
    # Whoever stops the network, even against us: the true class is in all sets at once.
    covered = masks[:, np.arange(test.n), test.labels]
    assert covered.min(0).mean() == pytest.approx(0.904, abs=1e-3)
    for policy in (pareto(design).for_budget(0.3).policy, Patience(1)):
        assert measure_sets(sets, test, policy).coverage >= 0.89


def test_policy_and_mondrian_sets_on_fashion_mnist() -> None:
    design, calibration, test = fashion_splits()
    policy = pareto(design).for_budget(0.3).policy
    overall = measure_sets(conformal_sets(design, calibration, 0.1, "policy", policy), test)
    per_exit = measure_sets(conformal_sets(design, calibration, 0.1, "mondrian", policy), test)
    assert overall.coverage == pytest.approx(0.902, abs=0.005)
    assert sum(overall.left) == test.n
    assert overall.coverage_at[-1] is not None and overall.coverage_at[-1] < 0.8  # hidden by the mean
    assert all(c == pytest.approx(0.9, abs=0.03) for c in per_exit.coverage_at)


@pytest.mark.parametrize("mode", ["nested", "policy", "mondrian"])
def test_the_promise_holds_on_average_over_splits(mode: Any) -> None:
    rows = graded(40_000, 0)
    rng = np.random.default_rng(0)
    policy = Threshold((0.6, 0.6, 0.6))
    coverage, at = [], []
    for _ in range(150):
        design, calibration, test = (rows.take(r) for r in np.split(rng.permutation(40_000)[:700], [200, 400]))
        found = measure_sets(conformal_sets(design, calibration, 0.2, mode, policy), test, policy)
        coverage.append(found.coverage)
        at.append([math.nan if c is None else c for c in found.coverage_at])
    assert np.mean(coverage) > 0.8 - 0.01
    if mode != "nested":
        assert np.mean(coverage) < 0.8 + 0.03  # and not by keeping everything
    if mode == "mondrian":
        assert (np.nanmean(at, 0) > 0.8 - 0.02).all()


def test_a_mondrian_floor_per_exit_by_hand() -> None:
    p = np.repeat(np.array([0.95, 0.9, 0.85, 0.55, 0.6, 0.65])[None], 2, 0)
    rows = Records(np.stack([p, 1 - p], -1), np.array([1.0, 2.0]), np.zeros(6, int), "probs")
    other = Records(rows.outputs[..., ::-1], rows.cost, rows.labels, "probs")
    policy = Threshold((0.8,))
    sets = conformal_sets(other, rows, 0.25, "mondrian", policy)
    assert sets.floors == pytest.approx((0.85, 0.55))  # k = ceil(4 * .75) = 3: the third largest of three
    with pytest.raises(Infeasible, match=r"3 of 6 calibration rows leave at exit 0; .* need 4"):
        conformal_sets(other, rows, 0.2, "mondrian", policy)
    closed = conformal_sets(other, rows, 0.2, "mondrian", Threshold((math.inf,)))
    assert closed.floors == (0, pytest.approx(0.55))  # nobody leaves at exit 0: every class stays


def test_ties_everywhere() -> None:
    def flat(n: int, name: str) -> Records:
        return Records(np.zeros((3, n, 4)), np.arange(1.0, 4), np.arange(n) % 4, name=name)

    # One class predicted always, by one and the same output: rows cannot be told apart, and no class is ruled out.
    assert set_masks(conformal_sets(flat(40, "a"), flat(60, "b")), flat(8, "c")).all()
    design = Records(np.tile([2.0, 0, 0, 0], (3, 40, 1)), np.arange(1.0, 4), np.arange(40) % 4)
    sets = conformal_sets(design, flat(60, "b"))
    assert set_masks(sets, flat(8, "c")).all()  # one block of ties is not parted: all classes or none


def test_a_tie_with_the_floor_stays() -> None:
    assert NESTED.at(0, np.array([[0.1, 0.9]], np.float32)).tolist() == [[True, True]]
    assert NESTED.at(1, np.array([[0.1, 0.9]], np.float32)).tolist() == [[False, True]]


@pytest.mark.parametrize("mode", ["nested", "policy"])
@pytest.mark.parametrize("n", [1, 8])
def test_too_few_rows_rule_nothing_out(mode: Any, n: int) -> None:
    sets = conformal_sets(tiny(0, 2, 30), tiny(1, 2, n, 1000), 0.1, mode, fixed_exit(1, 2))
    assert sets.floors == (0, 0)
    assert set_masks(sets, tiny(2, 2, 50)).all()


@pytest.mark.parametrize(
    ("n", "alpha", "k"), [(9, 0.1, 9), (8, 0.1, 9), (99, 0.42, 58), (99, 0.29, 71), (5000, 0.1, 4501)]
)
def test_the_rank_is_that_of_the_written_decimals(n: int, alpha: float, k: int) -> None:
    assert conformal_rank(n, alpha) == k


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, math.nan, True])
def test_alpha_outside_is_refused(alpha: float) -> None:
    with pytest.raises(PolicyError, match=r"in \(0, 1\)"):
        conformal_sets(tiny(0, 2, 30), tiny(1, 2, 30), alpha)


def test_refusals() -> None:
    a, b = graded(30, 0, "a"), graded(40, 1, "b")
    for first, second in ((Records(a.outputs, a.cost), b), (a, Records(b.outputs, b.cost))):
        with pytest.raises(DataError, match="no labels"):
            conformal_sets(first, second)
    for same in (b, b.take(np.arange(40)[::-1]), b.take(np.arange(10))):
        with pytest.raises(DataError, match="the calibration rows are the design rows, or some"):
            conformal_sets(b, same)
    with pytest.raises(DataError, match="two networks"):
        conformal_sets(tiny(0, 4, 30), b)
    with pytest.raises(DataError, match="exchangeable"):
        maps = Records(np.zeros((2, 5, 3, 4)), np.array([1.0, 2.0]), np.zeros((5, 3), int))
        conformal_sets(maps, maps)
    with pytest.raises(PolicyError, match="belong to one policy"):
        conformal_sets(a, b, 0.1, "policy")
    with pytest.raises(PolicyError, match="unknown prediction sets 'luck'"):
        conformal_sets(a, b, 0.1, "luck")  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="made for 2 exits"):
        conformal_sets(a, b, 0.1, "policy", Threshold((0.5,)))
    with pytest.raises(PolicyError, match="2 temperatures for 4 exits"):
        conformal_sets(a, b, temperatures=(1.0, 1.0))
    with pytest.raises(DataError, match=r"n = 0"):
        b.take(np.arange(0))
    with pytest.raises(DataError, match="NaN"):
        Records(np.full((2, 3, 4), math.nan), np.array([1.0, 2.0]), np.zeros(3, int))


# --- on the device -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["nested", "policy", "mondrian"])
def test_one_input_exit_by_exit_is_the_batch(mode: Any) -> None:
    rows, policy = graded(400, 0), Threshold((0.6, 0.6, 0.6))
    sets = conformal_sets(rows.take(np.arange(200)), rows.take(np.arange(200, 400)), 0.1, mode, policy)
    sets = ConformalSets.from_dict(json.loads(json.dumps(sets.to_dict())))
    masks, test = set_masks(sets, rows), rows.outputs
    for i in range(0, 400, 7):
        kept = None
        for k in range(4):
            kept = sets.at(k, test[k, i : i + 1], kept)
            assert np.array_equal(kept[0], masks[k, i])


def test_temperatures_come_along() -> None:
    a, b = graded(300, 0), graded(300, 1)
    t = (0.5, 1.0, 2.0, 1.0)
    sets = conformal_sets(a, b, temperatures=t)
    own = conformal_sets(*(Records(r.outputs, r.cost, r.labels, temperatures=t) for r in (a, b)))
    assert sets == own != conformal_sets(a, b)
    p = probabilities(a.outputs[2], temperature=2.0)
    assert np.array_equal(sets.at(2, a.outputs[2]), p >= np.float32(sets.floors[2]))


def test_nan_rules_nothing_out_and_a_set_can_be_empty() -> None:
    assert NESTED.at(0, np.array([math.nan, 0.9], np.float32)).tolist() == [True, True]
    empty = ConformalSets("nested", (0.9, 0.9), 0.1, 50, (1.0, 1.0))
    assert not empty.at(0, np.zeros((1, 3), np.float32)).any()
    assert empty.at(0, np.array([math.inf, 0, 0], np.float32)).all()


def test_at_refuses_what_does_not_fit() -> None:
    for k in (-1, 2):
        with pytest.raises(DataError, match=f"no exit {k}"):
            NESTED.at(k, np.ones((1, 2), np.float32))
    with pytest.raises(DataError, match=r"has shape \(1, 3\)"):
        NESTED.at(1, np.full((1, 2), 0.5, np.float32), np.ones((1, 3), bool))


def test_sets_know_whose_they_are() -> None:
    rows = graded(400, 0)
    halves = rows.take(np.arange(200)), rows.take(np.arange(200, 400))
    mine, other = Threshold((0.6, 0.6, 0.6)), Threshold((0.6, 0.6, 0.7))
    sets = conformal_sets(*halves, 0.1, "policy", mine)
    sets.fits(mine, 4)
    nested = conformal_sets(*halves, policy=mine)
    nested.fits(other, 4)
    with pytest.raises(PolicyError, match="hold only under the policy"):
        sets.fits(other, 4)
    with pytest.raises(PolicyError, match="hold only under the policy"):
        measure_sets(sets, rows, other)
    with pytest.raises(PolicyError, match="the model has 3"):
        nested.fits(other, 3)
    with pytest.raises(PolicyError, match="name no policy"):
        measure_sets(nested, rows)
    with pytest.raises(DataError, match="4 exits of logits"):
        set_masks(NESTED, rows)
    assert "however the network is stopped" in nested.promise and "exchangeable" in nested.promise


def test_quality_by_hand() -> None:
    p = np.array([[0.9, 0.6, 0.05], [0.95, 0.15, 0.5]])
    rows = Records(np.stack([p, 1 - p], -1), np.array([1.0, 2.0]), np.zeros(3, int), "probs")
    policy: Policy = Threshold((0.85,))
    assert replay(policy, rows).tolist() == [0, 1, 0]
    found = measure_sets(NESTED, rows, policy)  # sets {0, 1}, {1}, {1}
    assert (found.coverage, found.size, found.empty) == (pytest.approx(1 / 3), pytest.approx(4 / 3), 0)
    assert (found.left, found.coverage_at, found.size_at) == ((2, 1), (0.5, 0), (1.5, 1))
    assert measure_sets(NESTED, rows, fixed_exit(1, 2)).coverage_at[0] is None


GOOD: dict[str, Any] = ConformalSets("policy", (0.1, 0.1), 0.1, 50, (1.0, 2.0), "logits", Threshold((0.5,))).to_dict()


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"schema": None},
        {"mode": "luck"},
        {"mode": ["nested"]},
        {"mode": "nested"},  # names a policy
        {"policy": None},
        {"policy": {"kind": "luck"}},
        {"policy": Threshold((0.5, 0.5)).to_dict()},
        {"policy": [1]},
        {"kind": "votes"},
        {"kind": None},
        {"floors": [0.1]},
        {"floors": "0.1"},
        {"floors": [0.1, True]},
        {"floors": [0.1, math.nan]},
        {"floors": [0.1, 1.5]},
        {"floors": [0.1, -0.1]},
        {"floors": [0.1, None]},
        {"floors": [10**400, 0.1]},
        {"floors": [0.1] * 100_000},
        {"alpha": 0},
        {"alpha": "0.1"},
        {"alpha": math.nan},
        {"n": 0},
        {"n": 5.5},
        {"n": True},
        {"n": None},
        {"temperatures": [1.0]},
        {"temperatures": [1.0, 0.0]},
        {"temperatures": [1.0, math.inf]},
        {"temperatures": None},
    ],
)
def test_hostile_tables_are_refused_in_one_short_line(change: dict[str, Any]) -> None:
    with pytest.raises(PolicyError) as caught:
        ConformalSets.from_dict({**GOOD, **change})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("table", [None, [], "x", 3, {}])
def test_what_is_no_table_is_refused(table: Any) -> None:
    with pytest.raises(EdgeExitError, match="JSON object of schema 1"):
        ConformalSets.from_dict(table)


def test_a_good_table_comes_back() -> None:
    assert ConformalSets.from_dict(json.loads(json.dumps(GOOD))).to_dict() == GOOD
