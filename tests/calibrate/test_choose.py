from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from calibrate.made_rows import graded
from edgeexit.calibrate import calibrate
from edgeexit.errors import DataError, Infeasible, PolicyError
from edgeexit.policy.operating_point import OperatingPoint
from edgeexit.records.classification import Records, outcome, replay

DESIGN, HELD_OUT = graded(800, 0, "design"), graded(1200, 1, "held")


@pytest.mark.parametrize("policy", ["threshold", "shared", "patience", "fixed"])
def test_expectations_are_measured_on_held_out_rows(policy: str) -> None:
    point = calibrate(DESIGN, policy=policy, budget=0.5, held_out=HELD_OUT)
    found = outcome(replay(point.policy, HELD_OUT), HELD_OUT)
    e = point.expected
    assert e["exit_rates"] == list(found.exit_rates) and e["measured_on"] == "1200 held-out rows of held"
    assert (e["cost"], e["accuracy"], e["n"]) == (found.cost, found.accuracy, 1200)
    last = float(HELD_OUT.correct[-1].mean(dtype=float))
    assert e["last_exit_accuracy"] == last and e["drop"] == pytest.approx(last - found.accuracy)
    assert e["accuracy_low"] < e["accuracy"] < e["accuracy_high"] and e["drop_low"] < e["drop"] < e["drop_high"]
    assert outcome(replay(point.policy, DESIGN), DESIGN).cost <= 0.5
    assert OperatingPoint.from_dict(json.loads(json.dumps(point.to_dict()))) == point


def test_without_held_out_rows_it_says_so() -> None:
    expected = calibrate(DESIGN, budget=0.5).expected
    assert expected["measured_on"] == "the 800 design rows of design themselves, which is optimistic"


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ({"budget": 0.5}, "budget-0.5"),
        ({"accuracy": 0.8}, "accuracy-0.8"),
        ({"accuracy_drop": 0.01}, "drop-0.01"),
    ],
)
def test_the_target_is_kept_and_names_the_point(target: dict[str, float], name: str) -> None:
    point = calibrate(DESIGN, **target)  # type: ignore[arg-type]
    assert point.asked == target and point.name == name and point.promise is None
    assert calibrate(DESIGN, name="mine", artifact="onnx", **target).name == "mine"  # type: ignore[arg-type]


def test_a_drop_counts_from_the_last_exit_on_the_design_rows() -> None:
    last = float(DESIGN.correct[-1].mean(dtype=float))
    point = calibrate(DESIGN, accuracy_drop=0.02)
    assert last - 0.02 <= point.expected["accuracy"] and point.expected["cost"] < 1


def test_an_accuracy_is_reached_with_one_standard_error_to_spare() -> None:
    point = calibrate(DESIGN, accuracy=0.9, held_out=HELD_OUT)
    assert point.expected["accuracy"] >= 0.9 and point.expected["cost"] < 0.5
    assert calibrate(DESIGN, accuracy=0.96, held_out=HELD_OUT).expected["cost"] > point.expected["cost"]


def test_the_default_family_has_no_prefix_and_others_have() -> None:
    assert calibrate(DESIGN, policy="threshold", budget=0.5).name == "threshold-budget-0.5"
    assert calibrate(DESIGN, policy="eero", budget=0.5).policy == calibrate(DESIGN, budget=0.5).policy


@pytest.mark.parametrize(("design", "held_out"), [(2, 1), (19, 50), (50, 19)])
def test_too_few_rows_are_refused(design: int, held_out: int) -> None:
    with pytest.raises(DataError, match=r"row.* to (choose|measure) on; at least 20 are needed"):
        calibrate(graded(design, 0), accuracy_drop=0.01, held_out=graded(held_out, 1))


def test_without_labels_agreement_is_expected() -> None:
    rows = [Records(r.outputs, r.cost, name=r.name) for r in (DESIGN, HELD_OUT)]
    expected = calibrate(rows[0], accuracy_drop=0.05, held_out=rows[1]).expected
    assert "accuracy" not in expected and expected["agreement"] > 0.9


@pytest.mark.parametrize("targets", [{}, {"budget": 0.5, "accuracy": 0.8}])
def test_exactly_one_target(targets: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match="exactly one target"):
        calibrate(DESIGN, **targets)


@pytest.mark.parametrize("drop", [-0.1, 1.0])
def test_drops_outside_their_range_are_refused(drop: float) -> None:
    with pytest.raises(PolicyError, match=r"in \[0, 1\)"):
        calibrate(DESIGN, accuracy_drop=drop)


def test_a_drop_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(PolicyError, match="leaves nothing"):
        calibrate(DESIGN, accuracy_drop=0.999)


def test_infeasible_targets_say_what_would_do() -> None:
    with pytest.raises(Infeasible, match=r"a budget of 0\.05 .* least feasible budget is 0\.09524"):
        calibrate(DESIGN, budget=0.05)
    with pytest.raises(Infeasible, match=r"patience: accuracy of 1 is out of reach .* error allowed for, is 0\.98"):
        calibrate(DESIGN, policy="patience", accuracy=1.0)


def test_unknown_policies_are_named() -> None:
    with pytest.raises(PolicyError, match="unknown policy 'luck'; known: threshold, shared, eero, window, qute, qexit"):
        calibrate(DESIGN, policy="luck", budget=0.5)


def test_held_out_rows_must_be_other_rows_of_the_same_artifact() -> None:
    with pytest.raises(DataError, match="must not be the design rows"):
        calibrate(DESIGN, budget=0.5, held_out=DESIGN)
    with pytest.raises(DataError, match="one artifact"):
        dear = Records(HELD_OUT.outputs, HELD_OUT.cost + np.arange(4), HELD_OUT.labels)
        calibrate(DESIGN, budget=0.5, held_out=dear)
    with pytest.raises(DataError, match="labels to both or to neither"):
        calibrate(DESIGN, budget=0.5, held_out=Records(HELD_OUT.outputs, HELD_OUT.cost))
