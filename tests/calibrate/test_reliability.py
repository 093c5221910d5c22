from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from calibrate.made_rows import fashion_mnist, graded
from edgeexit.calibrate import fit_temperatures
from edgeexit.calibrate.metrics.reliability import reliability, reliability_per_exit
from edgeexit.calibrate.temperature import fit_useful_temperatures
from edgeexit.errors import DataError, PolicyError
from edgeexit.records.classification import Records

P = np.array([[0.9, 0.1], [0.7, 0.3], [0.6, 0.4], [0.4, 0.6]])
Y = np.array([0, 1, 0, 1])


def test_by_hand() -> None:
    r = reliability(P, Y, bins=2)
    assert (r.n, r.accuracy) == (4, 0.75)
    assert r.edges.tolist() == [0, 0.5, 1]
    assert r.count.tolist() == [0, 4]
    assert np.isnan([r.confidence[0], r.bin_accuracy[0]]).all()  # an empty bin is unknown, not 0
    assert (r.confidence[1], r.bin_accuracy[1]) == (pytest.approx(0.7), 0.75)
    assert r.ece == pytest.approx(0.05)
    assert r.brier == pytest.approx(2 * (0.01 + 0.49 + 0.16 + 0.16) / 4)
    assert r.nll == pytest.approx(-np.log([0.9, 0.3, 0.6, 0.6]).mean())


def test_as_a_loop_over_the_bins_says() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(4, 0.4), 3000)
    y = rng.integers(0, 4, 3000)
    r = reliability(p, y)
    ece = 0.0
    for j in range(15):
        here = (p.max(1) > r.edges[j]) & (p.max(1) <= r.edges[j + 1])
        assert r.count[j] == here.sum()
        if here.any():
            ece += here.mean() * abs((p.argmax(1) == y)[here].mean() - p.max(1)[here].mean())
    assert r.ece == pytest.approx(ece)
    assert r.brier == pytest.approx(((p - np.eye(4)[y]) ** 2).sum(1).mean())


def test_an_edge_belongs_to_the_bin_below_it() -> None:
    r = reliability(np.array([[0.5, 0.5], [0.75, 0.25], [1.0, 0.0]]), np.zeros(3, int), bins=4)
    assert r.count.tolist() == [0, 1, 1, 1]


def test_one_class_predicted_always_and_everything_tied() -> None:
    r = reliability(np.tile([0.8, 0.1, 0.1], (100, 1)), np.arange(100) % 2)
    assert (r.accuracy, r.ece) == (0.5, pytest.approx(0.3))
    assert (r.count > 0).sum() == 1
    assert reliability(np.full((9, 3), 1 / 3), np.zeros(9, int)).accuracy == 1  # the first class wins a tie


def test_a_sure_mistake_is_clipped() -> None:
    r = reliability(np.array([[1.0, 0.0]]), np.array([1]))
    assert (r.nll, r.brier, r.ece) == (pytest.approx(-math.log(1e-12)), 2, 1)


def test_positions_count_one_by_one() -> None:
    a = reliability(P.reshape(2, 2, 2), Y.reshape(2, 2))
    b = reliability(P, Y)
    assert (a.n, a.ece, a.brier, a.nll) == (b.n, b.ece, b.brier, b.nll)


@pytest.mark.parametrize(
    ("p", "y", "message"),
    [
        (P, Y[:3], r"found \(4, 2\) and \(3,\)"),
        (P[:0], Y[:0], r"found \(0, 2\)"),
        (P * 3, Y, "sum to 1"),
        (np.array([[math.nan, 1.0]]), np.array([0]), "NaN"),
        (np.array([[1.5, -0.5]]), np.array([0]), ">= 0"),
        (P, Y + 1, "classes 0 to 1"),
        (P, Y.astype(float), "float64"),
    ],
)
def test_refuses(p: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        reliability(p, y)


@pytest.mark.parametrize("bins", [0, -1, 2.5, True])
def test_refuses_bins(bins: Any) -> None:
    with pytest.raises(PolicyError, match="number of bins"):
        reliability(P, Y, bins)


def test_records_need_labels_and_a_temperature_per_exit() -> None:
    rows = graded(20, 0)
    with pytest.raises(DataError, match="no labels"):
        reliability_per_exit(Records(rows.outputs, rows.cost))
    with pytest.raises(PolicyError, match="1 temperatures for 4 exits"):
        reliability_per_exit(rows, (1.0,))


def test_none_means_the_temperatures_of_the_artifact() -> None:
    rows, t = graded(50, 0), (2.0, 1.0, 1.0, 0.5)
    own = Records(rows.outputs, rows.cost, rows.labels, temperatures=t)
    nll = [r.nll for r in reliability_per_exit(own)]
    assert nll == [r.nll for r in reliability_per_exit(rows, t)] != [r.nll for r in reliability_per_exit(rows)]


def test_fashion_mnist_as_in_the_notes() -> None:
    design, test = fashion_mnist()
    before, after = reliability_per_exit(test), reliability_per_exit(test, fit_temperatures(design))
    assert [r.accuracy for r in before] == pytest.approx([0.6965, 0.7714, 0.8558, 0.8769])
    assert [r.ece for r in before] == pytest.approx([0.086, 0.032, 0.014, 0.004], abs=6e-4)
    assert [r.ece for r in after] == pytest.approx([0.021, 0.008, 0.008, 0.008], abs=6e-4)
    assert [r.nll for r in before] == pytest.approx([0.873, 0.629, 0.4068, 0.3430], abs=6e-4)
    assert [r.nll for r in after] == pytest.approx([0.852, 0.625, 0.4077, 0.3438], abs=6e-4)


# --- temperatures that gain nothing --------------------------------------------------------------------------


def test_fashion_mnist_skips_the_two_good_heads() -> None:
    found = fit_useful_temperatures(fashion_mnist()[0])
    assert [f.value for f in found] == pytest.approx([0.783, 0.879, 1, 1], abs=0.005)
    assert [f.fitted for f in found] == pytest.approx([0.783, 0.879, 0.908, 0.959], abs=0.005)
    assert [f.skipped is None for f in found] == [True, True, False, False]
    assert "near 1" in (found[2].skipped or "")
    assert all(f.nll_after < f.nll_before for f in found[:2])


def test_a_temperature_from_few_rows_that_does_not_carry_over_is_skipped() -> None:
    # Logits that know nothing: any temperature but a large one is chance, and half the time worse on other rows.
    rng = np.random.default_rng(0)
    reasons: list[str] = []
    for _ in range(40):
        z = np.repeat(rng.normal(scale=0.2, size=(1, 12, 3)), 2, 0).astype(np.float32)
        rows = Records(z, np.array([1.0, 2.0]), rng.integers(0, 3, 12))
        for f in fit_useful_temperatures(rows):
            assert (f.value == 1) if f.skipped else (f.value == f.fitted and f.nll_after < f.nll_before)
            reasons.append(f.skipped or "")
    assert any(r.startswith("no gain on held rows") for r in reasons)
    assert "" in reasons


def test_the_gain_is_judged_on_rows_that_the_fit_did_not_see() -> None:
    rows = graded(60, 0)
    first, held = rows.split(0.5, 3)
    found = fit_useful_temperatures(rows, seed=3)
    assert [f.nll_before for f in found] == [r.nll for r in reliability_per_exit(held)]
    assert [f.nll_after for f in found] == [r.nll for r in reliability_per_exit(held, fit_temperatures(first))]
    assert [f.fitted for f in found] == list(fit_temperatures(rows))


def test_useful_temperatures_refuse() -> None:
    rows = graded(20, 0)
    with pytest.raises(DataError, match="no labels"):
        fit_useful_temperatures(Records(rows.outputs, rows.cost))
    with pytest.raises(DataError, match="1 rows cannot be split"):
        fit_useful_temperatures(rows.take(np.array([0])))
