from __future__ import annotations

import numpy as np
import pytest

from calibrate.made_rows import fashion_mnist, graded
from edgeexit.calibrate import Path, Point, pareto, patience_path
from edgeexit.calibrate.verdict import judge
from edgeexit.policy import fixed_exit
from edgeexit.records import Records, outcome, replay


def test_easy_rows_that_are_known_to_be_easy_pay() -> None:
    design, held_out = graded(4000, 0), graded(4000, 1)
    v = judge(design, held_out, {"maxprob": pareto(design), "patience": patience_path(design)})
    assert v.pays and v.static_exit == 3 and v.static_cost == pytest.approx(100 / 105)
    assert v.saving is not None and v.saving > 0.2 and v.cost == pytest.approx((1 - v.saving) * v.static_cost)
    assert v.text.startswith(f"Adaptive exits pay: {round(100 * v.saving)} % less cost than exit 3 alone at ")
    assert "n = 4,000, policy maxprob)." in v.text


def test_useless_exits_do_not_pay() -> None:
    design, held_out = graded(2000, 0, useful=False), graded(2000, 1, useful=False)
    v = judge(design, held_out, {"maxprob": pareto(design)})
    assert not v.pays and v.saving is not None and v.saving < 0
    # Heads on the way cost 5 of 105: going through all exits is dearer than exit 3 alone.
    assert v.text.startswith("Adaptive exits do not pay here: the cheapest policy at the accuracy of the best")
    assert "costs 5 % more than exit 3 alone" in v.text


def test_accuracy_that_is_lost_on_held_out_rows_does_not_pay() -> None:
    design = graded(500, 0)
    rows = graded(4000, 1)
    # The world changed: on held-out rows the early exits are sure and wrong.
    outputs = rows.outputs.copy()
    outputs[:3] = np.roll(outputs[:3], 1, axis=-1)
    held_out = Records(outputs, rows.cost, rows.labels, static_cost=rows.static_cost)
    v = judge(design, held_out, {"maxprob": pareto(design)})
    assert not v.pays and v.difference_high is not None and v.difference_high < 0
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
    path = Path.of("made", "accuracy", [Point(fixed_exit(0, 4), found.cost, found.accuracy)])
    v = judge(design, held_out, {"made": path})
    assert v.pays is False and v.policy is None and "no policy compared reaches the accuracy" in v.text


def test_fashion_mnist_pays() -> None:
    design, held_out = fashion_mnist()
    v = judge(design, held_out, {s: pareto(design, s) for s in ("maxprob", "entropy", "margin")})
    assert v.pays and v.static_exit == 3 and v.saving is not None and 0.45 < v.saving < 0.6
