"""Recorded outputs made for tests: by rule, by chance, and the Fashion-MNIST ones of the data pack."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from edgeexit.records.classification import Records
from shared_data import data_dir, trecx_probs


def from_scores(scores: np.ndarray, correct: np.ndarray, cost: np.ndarray | None = None) -> Records:
    """Two-class records whose `maxprob` is `scores` (exits, n) in (0.5, 1) and whose `correct` is given."""
    top, other = scores, 1 - scores
    labels = np.arange(scores.shape[1]) % 2
    answers = np.where(correct, labels, 1 - labels)
    outputs = np.stack([np.where(answers == 0, top, other), np.where(answers == 0, other, top)], -1)
    cost = np.arange(1.0, len(scores) + 1) if cost is None else cost
    return Records(outputs.astype(np.float32), cost, labels, "probs", name="made")


def tiny(seed: int, exits: int, n: int, levels: int = 9) -> Records:
    """Few rows, many ties: scores on `levels` values, correctness by chance, growing with the exit."""
    rng = np.random.default_rng(seed)
    scores = 0.51 + 0.45 * rng.integers(0, levels, (exits, n)) / levels
    correct = rng.random((exits, n)) < np.linspace(0.4, 0.8, exits)[:, None]
    return from_scores(scores, correct, np.cumsum(rng.uniform(0.2, 1, exits)))


def graded(n: int, seed: int, name: str = "graded", *, useful: bool = True) -> Records:
    """Four exits, ten classes; most rows are easy and known to be. Not useful: early exits guess."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, n)
    hard = rng.random(n) < 0.25
    strength = np.array([3.0, 3.5, 4.0, 4.5]) if useful else np.array([0.0, 0.0, 0.0, 4.5])
    outputs = rng.normal(size=(4, n, 10))
    for k in range(4):
        outputs[k, np.arange(n), labels] += np.where(hard & (k < 3), 0.3, strength[k])
    return Records(
        outputs.astype(np.float32),
        np.array([10.0, 25.0, 50.0, 105.0]),
        labels,
        static_cost=np.array([10.0, 24.0, 48.0, 100.0]),
        name=name,
    )


@cache
def fashion_mnist() -> tuple[Records, Records]:
    """Design: first 5,000 validation rows; held out: 10,000 test rows. Skips without the data pack."""
    path = data_dir() / "fm_logits" / "fashion_mnist_4exits_logits.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not in the data pack")
    z = np.load(path, allow_pickle=False)
    macs = z["macs"].astype(float)
    return (
        Records(z["val"][:, :5000], macs, z["yval"][:5000], name="Fashion-MNIST, first half of validation"),
        Records(z["test"], macs, z["ytest"], name="Fashion-MNIST test"),
    )


@cache
def recorded_networks() -> dict[str, Records]:
    """Outputs of trained networks on rows they were not trained on. Skips without the data pack.

    T-RECX's ResNet-8 (3 exits, 10,000 of CIFAR-10) and DS-CNN (4 exits, 4,890 of Speech Commands), and 20,000 rows of
    Fashion-MNIST (4 exits).
    """
    design, test = fashion_mnist()
    found = {
        "fashion_mnist": Records(
            np.concatenate([design.outputs, test.outputs], 1),
            design.cost,
            np.concatenate([design.labels, test.labels]),  # type: ignore[list-item]
            name="Fashion-MNIST",
        )
    }
    costs = {"resnet8": [5.171, 8.848, 12.521], "dscnn": [0.909, 1.497, 2.086, 2.666]}
    for name, cost in costs.items():
        probs, labels = trecx_probs(name)
        found[name] = Records(probs, np.array(cost), labels, "probs", name=name)
    return found
