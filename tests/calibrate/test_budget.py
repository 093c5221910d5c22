from __future__ import annotations

import numpy as np
import pytest

from calibrate.made_rows import graded
from edgeexit.calibrate.budget import Budget
from edgeexit.errors import DataError, Infeasible, PolicyError

COST = np.array([10e3, 25e3, 50e3, 100e3])


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("0.3", 0.3, "fraction"),
        ("30%", 0.3, "fraction"),
        ("50 kMACs", 50e3, "macs"),
        ("4MMACs", 4e6, "macs"),
        ("2.5ms", 0.0025, "seconds"),
        ("1e3us", 0.001, "seconds"),
    ],
)
def test_units(text: str, value: float, unit: str) -> None:
    found = Budget.parse(text)
    assert found.value == pytest.approx(value) and found.unit == unit


@pytest.mark.parametrize("text", ["", "fast", "0", "-1", "nan", "inf", "3 hours", "1.2.3", "0x1"])
def test_not_a_budget(text: str) -> None:
    with pytest.raises(PolicyError, match="expected a fraction of the last exit's cost"):
        Budget.parse(text)


def test_as_fractions() -> None:
    assert Budget.parse("50kMACs").relative(COST)[1] == 0.5
    assert Budget.parse("500MMACs").relative(COST)[1] == 1.0
    cost, fraction = Budget.parse("2ms").relative(COST, (0.001, 0.002, 0.003, 0.004))
    assert fraction == 0.5 and cost.tolist() == [0.25, 0.5, 0.75, 1.0]
    records, _ = Budget.parse("2ms").on(graded(50, 0), (0.001, 0.002, 0.003, 0.004))
    assert records.relative_cost.tolist() == [0.25, 0.5, 0.75, 1.0]


def test_what_cannot_be() -> None:
    with pytest.raises(Infeasible, match="below the first exit's 10000 macs"):
        Budget.parse("5kMACs").relative(COST)
    with pytest.raises(DataError, match="needs stage times of this device"):
        Budget.parse("5ms").relative(COST)
    with pytest.raises(DataError, match="do not grow from exit to exit"):
        Budget.parse("5ms").relative(COST, (0.001, 0.003, 0.002, 0.004))
