from __future__ import annotations

import math

import numpy as np
import pytest

from calibrate.made_rows import fashion_mnist, graded
from edgeexit.calibrate import fit_temperature, fit_temperatures
from edgeexit.errors import DataError
from edgeexit.policy.scores import probabilities
from edgeexit.records.classification import Records


def honest(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from their own softmax: the right temperature is 1."""
    rng = np.random.default_rng(seed)
    z = rng.normal(scale=2, size=(n, 6)).astype(np.float32)
    draw = rng.random((n, 1))
    return z, np.minimum((probabilities(z).cumsum(1) < draw).sum(1), 5)


@pytest.mark.parametrize("t", [0.2, 1.0, 5.0])
def test_recovers_the_temperature_that_was_put_in(t: float) -> None:
    z, labels = honest(20_000)
    assert fit_temperature(z * np.float32(t), labels) == pytest.approx(t, rel=0.05)


def test_probabilities_give_the_temperature_of_their_logits() -> None:
    z, labels = honest(2_000)
    assert fit_temperature(probabilities(z), labels, "probs") == pytest.approx(fit_temperature(z, labels), rel=1e-3)


def test_no_temperature_near_it_is_better() -> None:
    z, labels = honest(500, seed=3)
    best = fit_temperature(z, labels)

    def loss(t: float) -> float:
        p = probabilities(z.astype(np.float64).astype(np.float32), temperature=t)
        return float(-np.log(p[np.arange(500), labels], dtype=np.float64).mean())

    assert loss(best) <= min(loss(best * f) for f in (0.9, 0.98, 1.02, 1.1)) + 1e-7


def test_answers_without_fault_or_use_end_at_a_bound() -> None:
    z = np.eye(4, dtype=np.float32)[np.arange(40) % 4]
    assert fit_temperature(z, np.arange(40) % 4) == pytest.approx(math.exp(-3))
    assert fit_temperature(z, (np.arange(40) + 1) % 4) == pytest.approx(math.exp(3))


def test_sequences_count_every_position() -> None:
    z, labels = honest(1_200)
    assert fit_temperature(z.reshape(100, 12, 6), labels.reshape(100, 12)) == fit_temperature(z, labels)


def test_fashion_mnist_as_published_in_the_notes() -> None:
    design, _ = fashion_mnist()
    assert fit_temperatures(design) == pytest.approx((0.783, 0.879, 0.908, 0.959), abs=0.005)


def test_shapes_that_do_not_fit_and_missing_labels_are_refused() -> None:
    with pytest.raises(DataError, match=r"found \(3, 4\) and \(2,\)"):
        fit_temperature(np.zeros((3, 4)), np.zeros(2, int))
    rows = graded(20, 0)
    with pytest.raises(DataError, match="no labels"):
        fit_temperatures(Records(rows.outputs, rows.cost))
