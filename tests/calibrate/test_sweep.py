from __future__ import annotations

import numpy as np
import pytest

from calibrate.made_rows import fashion_mnist, graded
from edgeexit.calibrate import calibrate
from edgeexit.calibrate.guarantees.promises import ALPHAS, promises
from edgeexit.calibrate.rejection.comparison import rejections
from edgeexit.calibrate.sweep import ADAPTIVE, BASELINES, Row, default_budgets, sweep
from edgeexit.errors import DataError, PolicyError
from edgeexit.policy.policies import Patience, Policy, QExit, Threshold
from edgeexit.records.classification import Records, outcome, replay

DESIGN, HELD_OUT = graded(1500, 0, "design"), graded(2500, 1, "held")
BUDGETS = (0.05, 0.2, 0.4, 0.6, 1.0)
SWEEP = sweep(DESIGN, HELD_OUT, budgets=BUDGETS)


def rows(policy: str) -> list[Row]:
    """At the budgets asked for; the verdict's points stand there too."""
    return [r for r in SWEEP.rows if r.policy == policy and r.budget in BUDGETS]


def test_every_policy_has_a_row_for_every_budget() -> None:
    assert SWEEP.policies == (*ADAPTIVE, *BASELINES)
    assert all([r.budget for r in rows(p)] == list(BUDGETS) for p in SWEEP.policies)


def test_scores_that_the_exits_give_are_swept_too() -> None:
    def learned(records: Records, seed: int) -> Records:
        """A score that knows which rows are right, but for noise."""
        noise = 0.3 * np.random.default_rng(seed).standard_normal(records.correct.shape)
        given = {"learned": np.clip(records.correct + noise, 0, 1).astype(np.float32)}
        return Records(records.outputs, records.cost, records.labels, stored_scores=given, name=records.name)

    found = sweep(learned(DESIGN, 2), learned(HELD_OUT, 3), budgets=(0.4,), alphas=())
    assert found.policies == (*ADAPTIVE, "learned", "shared-learned", *BASELINES)
    best = {r.policy: r.accuracy or 0.0 for r in found.rows}
    assert best["learned"] > best["maxprob"] + 0.01
    assert [r.score for r in found.rows if r.policy == "shared-learned"] == ["learned"]
    with pytest.raises(PolicyError, match="unknown policy 'learned'"):
        sweep(DESIGN, HELD_OUT, ["learned"])


def test_choosing_sees_design_rows_and_reporting_held_out_rows() -> None:
    for r in SWEEP.rows:
        if r.policy not in ADAPTIVE or not r.feasible:
            continue
        policy: Policy = Threshold(r.thresholds or (), r.score or "maxprob")
        if r.thresholds is None:
            policy = Patience(r.patience) if r.patience else QExit(r.q or 0.0, r.score or "")
        chosen, found = (outcome(replay(policy, x), x) for x in (DESIGN, HELD_OUT))
        assert (r.design_cost, r.design_accuracy) == (chosen.cost, chosen.accuracy)
        assert (r.cost, r.accuracy, r.exit_rates, r.n) == (found.cost, found.accuracy, found.exit_rates, 2500)
        # Survivors spend the budget fully: rates that are no whole rows send one row per exit further.
        over = DESIGN.exits / DESIGN.n if r.policy == "eero-survivors" else 1e-12
        assert r.design_cost is not None and r.design_cost <= r.budget + over
        assert r.accuracy_low is not None and r.accuracy_high is not None
        assert r.accuracy_low < found.accuracy < r.accuracy_high
    assert SWEEP.data == {
        "design": "design",
        "design_rows": 1500,
        "held_out": "held",
        "held_out_rows": 2500,
        "static_cost_known": True,
    }


def test_a_sweep_and_calibrate_choose_alike() -> None:
    point = calibrate(DESIGN, policy="shared", score="margin", budget=0.4, held_out=HELD_OUT)
    row = rows("shared-margin")[2]
    assert isinstance(point.policy, Threshold) and point.policy.thresholds == row.thresholds
    assert point.expected["accuracy"] == row.accuracy and point.expected["cost"] == row.cost


def test_infeasible_budgets_are_rows_without_numbers() -> None:
    for policy in SWEEP.policies:
        row = rows(policy)[0]
        others = {"eero": "margin", "eero-survivors": "margin", "qexit": "maxprob"}
        score = others.get(policy, policy.removeprefix("shared-"))
        score = None if policy in ("patience", *BASELINES) else score
        assert not row.feasible and row == Row(policy, score, 0.05, 2500)
    assert not rows("patience")[1].feasible and rows("maxprob")[1].feasible


def test_fixed_is_the_best_single_exit_at_the_cost_of_its_own_network() -> None:
    assert [r.cost for r in rows("fixed")[1:]] == pytest.approx([10 / 105, 24 / 105, 48 / 105, 100 / 105])
    for row, static in zip(rows("fixed")[1:], SWEEP.statics, strict=True):
        assert row.exit_rates == tuple(float(k == static.exit) for k in range(4))
        assert (row.accuracy, row.cost) == (static.accuracy, static.cost)


def test_statics_have_both_costs() -> None:
    assert [s.cost for s in SWEEP.statics] == pytest.approx([10 / 105, 24 / 105, 48 / 105, 100 / 105])
    assert [s.cost_inside for s in SWEEP.statics] == pytest.approx([10 / 105, 25 / 105, 50 / 105, 1])
    assert [s.accuracy for s in SWEEP.statics] == pytest.approx(HELD_OUT.correct.mean(1))
    assert [s.design_accuracy for s in SWEEP.statics] == pytest.approx(DESIGN.correct.mean(1))
    assert all(s.accuracy_low < s.accuracy < s.accuracy_high for s in SWEEP.statics)


def test_random_exits_leave_at_the_rates_of_maxprob_and_answer_worse() -> None:
    for random, maxprob in zip(rows("random")[1:], rows("maxprob")[1:], strict=True):
        assert random.design_cost == pytest.approx(maxprob.design_cost, abs=2e-3)
        assert random.thresholds is None and random.exit_rates is not None
        assert random.accuracy is not None and maxprob.accuracy is not None
    assert (rows("random")[2].accuracy or 1) < (rows("maxprob")[2].accuracy or 0) - 0.02


def test_a_seed_repeats_and_another_differs() -> None:
    few = {"policies": ["random"], "budgets": (0.4, 0.5)}
    one, again, other = (sweep(DESIGN, HELD_OUT, **few, seed=s) for s in (0, 0, 1))  # type: ignore[arg-type]
    assert one == again and one.rows != other.rows


def test_order_of_policies_does_not_change_their_rows() -> None:
    one, turned = (sweep(DESIGN, HELD_OUT, names, BUDGETS) for names in (["maxprob", "fixed"], ["fixed", "maxprob"]))
    assert set(turned.rows) == set(one.rows) and turned.verdict == one.verdict


def test_seconds_are_weighed_by_exit_rates() -> None:
    timed = sweep(DESIGN, HELD_OUT, ["maxprob"], (0.5,), seconds=(1.0, 2.0, 3.0, 4.0))
    row = next(r for r in timed.rows if r.budget == 0.5)
    assert row.exit_rates is not None
    assert row.seconds == pytest.approx(np.dot(row.exit_rates, [1, 2, 3, 4]))
    assert [s.seconds for s in timed.statics] == [1.0, 2.0, 3.0, 4.0]
    assert SWEEP.seconds is None and all(r.seconds is None for r in SWEEP.rows)


def test_default_budgets_reach_from_the_first_exit_to_the_last() -> None:
    budgets = default_budgets(DESIGN)
    assert len(budgets) == 25 and budgets[-1] == 1.0
    assert all(r.feasible for r in sweep(DESIGN, HELD_OUT, ["entropy", "fixed"]).rows)


def test_budgets_are_sorted_once_each() -> None:
    assert [r.budget for r in sweep(DESIGN, HELD_OUT, ["fixed"], (1, 0.5, 0.5)).rows] == [0.5, 1.0]


def test_progress_names_each_policy() -> None:
    told: list[tuple[int, int, str]] = []
    sweep(DESIGN, HELD_OUT, ["fixed", "patience"], (0.5,), lambda *now: told.append(now))
    assert told == [(0, 2, "fixed"), (1, 2, "patience"), (2, 2, "")]


def test_without_labels_everything_is_agreement() -> None:
    design, held_out = (Records(r.outputs, r.cost) for r in (DESIGN, HELD_OUT))
    found = sweep(design, held_out, ["maxprob", "fixed"], (0.5, 1.0))
    assert found.measure == "agreement" and "agreement" in found.verdict.text
    assert found.data["static_cost_known"] is False and found.statics[-1].accuracy == 1.0


def test_wrong_wishes_are_refused() -> None:
    with pytest.raises(PolicyError, match="unknown policy 'luck'; a sweep knows: maxprob, "):
        sweep(DESIGN, HELD_OUT, ["luck"])
    with pytest.raises(PolicyError, match=r"in \(0, 1\], found \[0.5, 1.5\]"):
        sweep(DESIGN, HELD_OUT, budgets=(0.5, 1.5))
    with pytest.raises(DataError, match="4 positive numbers"):
        sweep(DESIGN, HELD_OUT, seconds=(1.0, 2.0))
    with pytest.raises(DataError, match="must not be the design rows"):
        sweep(DESIGN, DESIGN)


def test_fashion_mnist_confidence_beats_chance_at_every_budget() -> None:
    design, held_out = fashion_mnist()
    found = sweep(design, held_out, ["maxprob", "margin", "random"], tuple(np.linspace(0.1, 0.5, 9)))
    share = {(r.policy, r.budget): r.accuracy or 0.0 for r in found.rows}
    for (policy, budget), accuracy in share.items():
        if policy != "random" and ("random", budget) in share:
            assert accuracy > share["random", budget] + 0.02
    assert found.verdict.text.startswith("Adaptive exits pay: 5")


def test_q_exit_and_survivors_are_rows_like_the_others() -> None:
    for r in rows("qexit")[1:]:
        assert r.q is not None and r.thresholds is None and r.score == "maxprob"
        assert r.design_cost == outcome(replay(QExit(r.q), DESIGN), DESIGN).cost
    budgets = [r for r in SWEEP.rows if r.policy == "eero" and r.feasible]
    for paper, survivors in zip(budgets, rows("eero-survivors")[1:], strict=True):
        assert (survivors.design_cost or 0) >= (paper.design_cost or 1) - 1e-9  # paper mode keeps a reserve


def test_promises_and_rejections_are_those_of_their_own_functions() -> None:
    found = sweep(DESIGN, HELD_OUT, ["fixed"], (1.0,), alphas=(0.1, 0.05), delta=0.2, risks=(0.03,), seed=5)
    assert found.promises == promises(DESIGN, HELD_OUT, (0.05, 0.1), 0.2, seed=5)
    assert found.rejections == rejections(DESIGN, HELD_OUT, (0.03,))
    assert {p.alpha for p in SWEEP.promises} == set(ALPHAS) and len(SWEEP.rejections) == 9
    none = sweep(DESIGN, HELD_OUT, ["fixed"], (1.0,), alphas=(), risks=())
    assert none.promises == none.rejections == ()
