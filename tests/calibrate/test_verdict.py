from __future__ import annotations

import numpy as np
import pytest

from calibrate.made_rows import fashion_mnist, graded
from edgeexit.calibrate import ParetoFront, Point, pareto, patience_front
from edgeexit.calibrate.sweep import sweep
from edgeexit.calibrate.verdict import judge
from edgeexit.policy.policies import fixed_exit
from edgeexit.records.classification import Records, outcome, replay


def test_easy_rows_that_are_known_to_be_easy_pay() -> None:
    design, held_out = graded(4000, 0), graded(4000, 1)
    v = judge(design, held_out, {"maxprob": pareto(design), "patience": patience_front(design)})
    assert v.pays and v.static_exit == 3 and v.static_cost == pytest.approx(100 / 105)
    assert v.saving is not None and v.saving > 0.2 and v.cost == pytest.approx((1 - v.saving) * v.static_cost)
    assert v.text.startswith(f"Adaptive exits pay: {round(100 * v.saving)} % less cost than exit 3 alone at ")
    assert "n = 4,000, policy maxprob). Exit 2 alone, the best that costs no more, is " in v.text
    assert "With 1 point of accuracy allowed: " in v.text and v.at_drop is not None and v.at_drop.cost < v.cost


def test_useless_exits_do_not_pay() -> None:
    design, held_out = graded(2000, 0, useful=False), graded(2000, 1, useful=False)
    v = judge(design, held_out, {"maxprob": pareto(design)})
    assert not v.pays and v.saving is not None and v.saving < 0
    # Heads on the way cost 5 of 105: going through all exits is dearer than exit 3 alone.
    assert v.text.startswith("Adaptive exits do not pay here: exit 3 alone costs 5 % less than the cheapest policy and")
    assert v.at_drop is None


def test_accuracy_that_is_lost_on_held_out_rows_does_not_pay() -> None:
    design = graded(500, 0)
    rows = graded(4000, 1)
    # The world changed: on held-out rows the early exits are sure and wrong.
    outputs = rows.outputs.copy()
    outputs[:3] = np.roll(outputs[:3], 1, axis=-1)
    held_out = Records(outputs, rows.cost, rows.labels, static_cost=rows.static_cost)
    v = judge(design, held_out, {"maxprob": pareto(design)})
    assert not v.pays and v.equal is not None and v.equal.difference_high < 0
    assert v.text.startswith("Adaptive exits do not pay at equal accuracy here: they cost ")
    assert "but lose accuracy" in v.text


def test_few_rows_only_seem_to_pay() -> None:
    design, held_out = graded(4000, 0), graded(60, 1)
    v = judge(design, held_out, {"maxprob": pareto(design)})
    assert v.pays and v.text.startswith("Adaptive exits seem to pay, but 60 rows are few")


def test_without_labels_the_words_say_agreement() -> None:
    design, held_out = (Records(r.outputs, r.cost) for r in (graded(500, 0), graded(500, 1)))
    v = judge(design, held_out, {"maxprob": pareto(design)})
    assert "agreement" in v.text and "accuracy" not in v.text
    assert v.static_exit == 3 and v.static_accuracy == 1.0


def test_the_cheapest_exit_among_equals_is_the_baseline() -> None:
    rows = graded(300, 0)
    outputs = rows.outputs.copy()
    outputs[2] = outputs[3]
    design = Records(outputs, rows.cost, rows.labels, name="a")
    v = judge(design, graded(300, 1), {})
    assert v.static_exit == 2 and v.pays is None and "is open" in v.text


def test_policies_that_reach_less_are_named_as_such() -> None:
    design, held_out = graded(300, 0), graded(300, 1)
    found = outcome(replay(fixed_exit(0, 4), design), design)
    path = ParetoFront.of("made", "accuracy", [Point(fixed_exit(0, 4), found.cost, found.accuracy)])
    v = judge(design, held_out, {"made": path})
    assert v.pays is False and v.policy is None and "no policy compared reaches the accuracy" in v.text


def test_fashion_mnist_pays() -> None:
    design, held_out = fashion_mnist()
    v = judge(design, held_out, {s: pareto(design, s) for s in ("maxprob", "entropy", "margin")})
    assert v.pays and v.static_exit == 3 and v.saving is not None and 0.45 < v.saving < 0.6


def made(exits: int, n: int, strength: list[float], seed: int) -> Records:
    """Ten classes; what an exit knows of the right one, over what all exits share."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, n)
    shared = rng.normal(size=(n, 10))
    outputs = np.stack([0.95 * shared + 0.3 * rng.normal(size=(n, 10)) for _ in range(exits)])
    outputs[:, np.arange(n), labels] += np.array(strength)[:, None]
    return Records(outputs.astype(np.float32), np.arange(1.0, exits + 1), labels, name="made")


def never_beaten_where_it_pays(design: Records, held_out: Records) -> tuple[bool | None, str]:
    """The verdict on per-exit thresholds; where it says that exits pay, no single exit does as well for no more."""
    v = judge(design, held_out, {"maxprob": pareto(design), "shared-maxprob": pareto(design, shared=True)})
    assert v.equal is not None
    if v.pays:
        alone = held_out.correct.mean(1, dtype=float)
        rivals = held_out.relative_static_cost <= v.equal.cost + 1e-12
        assert (alone[rivals] < v.equal.accuracy).all(), v.text
        assert v.equal.saving > 0 and v.equal.equal_cost > v.equal.cost
    return v.pays, v.text


def test_members_of_equal_accuracy_do_not_pay() -> None:
    """One exit is as good as any: the first alone costs a fifth, and no policy costs less."""
    claims = [
        never_beaten_where_it_pays(made(5, 1500, [2.2] * 5, seed), made(5, 1500, [2.2] * 5, 100 + seed))
        for seed in range(20)
    ]
    assert sum(bool(pays) for pays, _ in claims) <= 1


def test_many_steps_are_compared_one_by_one() -> None:
    strength = list(2.6 * (1 - np.exp(-np.arange(1, 25) / 4)))
    for seed in range(3):
        never_beaten_where_it_pays(made(24, 800, strength, seed), made(24, 800, strength, 50 + seed))


def test_a_cheaper_exit_that_is_as_good_takes_its_share_of_the_saving() -> None:
    """Exit 1 alone is as good as exit 2 at a fifth of its cost: what it saves is not the policy's merit."""
    rows = []
    for seed in (0, 1):
        r = made(3, 4000, [1.6, 3.0, 3.0], seed)
        rows.append(Records(r.outputs, np.array([5.0, 22.0, 100.0]), r.labels, name=r.name))
    v = judge(*rows, {"maxprob": pareto(rows[0])})
    assert v.pays and v.equal is not None and v.equal.equal_exit == 1 and v.saving is not None and v.saving < 0.75
    assert "less cost than exit 1 alone" in v.text and "exit 1 alone gives 78 %" in v.text


def test_the_point_of_the_first_line_is_a_row_of_the_table() -> None:
    design, held_out = graded(1500, 0), graded(1500, 1)
    result = sweep(design, held_out, ["maxprob", "eero", "fixed"], (0.2, 0.6), alphas=(), risks=())
    for compared in (result.verdict.equal, result.verdict.at_drop):
        assert compared is not None
        (row,) = [r for r in result.rows if r.policy == compared.policy and r.budget == compared.budget]
        assert (row.cost, row.accuracy) == (compared.cost, compared.accuracy)
