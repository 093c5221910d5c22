from __future__ import annotations

import numpy as np
import pytest

from calibrate.made_rows import fashion_mnist, graded
from edgeexit.calibrate.rejection.comparison import RISKS, RULES, rejections
from edgeexit.calibrate.rejection.selective import selected
from edgeexit.calibrate.rejection.window import window_policy
from edgeexit.errors import DataError, PolicyError
from edgeexit.policy.policies import fixed_exit
from edgeexit.records.classification import Records, outcome, replay

DESIGN, HELD_OUT = graded(1500, 0, "design"), graded(2500, 1, "held")
FOUND = rejections(DESIGN, HELD_OUT, (0.05, 0.02))


def test_every_rule_at_every_risk() -> None:
    assert [(r.target, r.rule) for r in FOUND] == [(t, rule) for t in (0.02, 0.05) for rule in RULES]
    assert rejections(DESIGN, HELD_OUT, (0.02, 0.05)) == FOUND


def test_chosen_on_design_rows_measured_on_held_out_rows() -> None:
    window = window_policy(DESIGN, "cov@0.02")
    seen = selected(window, HELD_OUT, window.tau)
    assert (FOUND[0].tau, FOUND[0].coverage, FOUND[0].risk, FOUND[0].cost, FOUND[0].accuracy) == (
        window.tau,
        seen.coverage,
        seen.risk,
        seen.cost,
        seen.accuracy,
    )
    assert FOUND[0].risk_low is not None and FOUND[0].risk_low < (seen.risk or 0) < (FOUND[0].risk_high or 0)
    other = rejections(DESIGN, graded(300, 9), (0.02, 0.05))
    assert [r.tau for r in other] == [r.tau for r in FOUND]


def test_the_threshold_spends_no_more_on_the_design_rows() -> None:
    same = DESIGN.outputs[:, ::-1] * np.float32(1.00001)  # to the bit, they would be refused as the design rows
    turned = Records(same, DESIGN.cost, DESIGN.labels[::-1], static_cost=DESIGN.static_cost)  # type: ignore[index]
    window, threshold, _ = rejections(DESIGN, turned, (0.02,))
    assert window.cost is not None and threshold.cost is not None and threshold.cost <= window.cost + 1e-3


def test_the_last_exit_alone_costs_its_own_network() -> None:
    alone = FOUND[2]
    assert alone.exit_rates == (0, 0, 0, 1) and alone.cost == pytest.approx(100 / 105)
    assert alone.accuracy == outcome(replay(fixed_exit(3, 4), HELD_OUT), HELD_OUT).accuracy


def test_out_of_reach_is_a_row_with_a_reason() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    blind = [Records(rng.normal(size=(2, 200, 4)), np.array([1.0, 2.0]), labels) for _ in "ab"]
    window, threshold, alone = rejections(*blind, (0.01,))
    assert window.refusal is not None and "no threshold reaches a risk" in window.refusal
    assert threshold.refusal == "there is no window to compare a threshold with"
    assert window.coverage is None and threshold.cost is None
    assert (alone.refusal is None) == (alone.coverage is not None)


def test_a_target_that_every_row_meets_is_in_reach() -> None:
    """Exit 1 is wrong on fewer rows than the target allows: it answers everything, and everything is accepted."""
    errors = float(1 - DESIGN.correct[1].mean(dtype=float))
    window, threshold, alone = rejections(DESIGN, HELD_OUT, (errors + 0.01,))
    assert [r.refusal for r in (window, threshold, alone)] == [None] * 3
    assert (window.coverage, window.exit_rates) == (1.0, (0.0, 1.0, 0.0, 0.0))
    assert window.risk == pytest.approx(1 - float(HELD_OUT.correct[1].mean(dtype=float)))
    assert threshold.coverage == 1.0 and threshold.cost is not None and threshold.cost <= (window.cost or 0) + 0.01


def test_two_exits_have_their_window_at_the_first() -> None:
    two = [Records(r.outputs[2:], r.cost[2:], r.labels) for r in (DESIGN, HELD_OUT)]
    found = rejections(*two, (0.02,))
    assert [r.refusal for r in found] == [None] * 3
    assert found[0].exit_rates is not None and 0.1 < found[0].exit_rates[1] < 0.3


def test_wrong_wishes_are_refused() -> None:
    with pytest.raises(DataError, match="need labels"):
        rejections(*(Records(r.outputs, r.cost) for r in (DESIGN, HELD_OUT)))
    with pytest.raises(PolicyError, match=r"in \(0, 1\)"):
        rejections(DESIGN, HELD_OUT, (1.0,))


def test_fashion_mnist_risks_are_near_their_targets() -> None:
    found = rejections(*fashion_mnist())
    assert [r.target for r in found[::3]] == list(RISKS)
    for r in found:
        assert r.refusal is None and r.risk is not None and 0.6 * r.target < r.risk < 1.5 * r.target
    for window, threshold, alone in zip(found[::3], found[1::3], found[2::3], strict=True):
        assert window.cost == pytest.approx(threshold.cost, abs=0.02) and (alone.coverage or 0) > (window.coverage or 1)
    assert (found[0].coverage or 0) > (found[1].coverage or 1) + 0.05  # few errors allowed: the window's place
