from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from calibrate.made_rows import graded, recorded_networks
from edgeexit.calibrate.families import candidate_family
from edgeexit.calibrate.guarantees.losses import LOSSES
from edgeexit.calibrate.guarantees.ordered import OrderedCandidates, by_level, ordered_candidates
from edgeexit.calibrate.guarantees.risk import Guarantee, certify
from edgeexit.errors import Infeasible
from edgeexit.policy.policies import fixed_exit
from edgeexit.records.classification import Records, outcome, replay

ALPHAS = (0.01, 0.015, 0.02, 0.025, 0.03, 0.05, 0.1)


def cost_of(ordered: OrderedCandidates, rows: Records, text: str) -> float:
    """Mean cost on the certifying rows; refused = more than the last exit's."""
    try:
        return outcome(replay(certify(ordered, rows, Guarantee.parse(text)).policy, rows), rows).cost
    except Infeasible:
        return math.inf


def check_order(ordered: OrderedCandidates, rows: Records) -> None:
    """A weaker promise never costs more: larger alpha, less confidence, on average instead of at every exit."""
    for loss in ("disagreement", "accuracy_gap"):
        for prefix in ("", "accumulated_"):
            costs = [cost_of(ordered, rows, f"{prefix}{loss}<={a}@0.95") for a in ALPHAS]
            assert all(b <= a for a, b in pairwise(costs)), (loss, prefix, costs)
            for a, cost in zip(ALPHAS, costs, strict=True):
                assert cost_of(ordered, rows, f"{prefix}{loss}<={a}@0.8") <= cost
        marginal, accumulated = (
            [cost_of(ordered, rows, f"{prefix}{loss}<={a}@0.95") for a in ALPHAS] for prefix in ("", "accumulated_")
        )
        assert all(m <= a for m, a in zip(marginal, accumulated, strict=True))
    for a in ALPHAS:
        assert cost_of(ordered, rows, f"accuracy_gap<={a}@0.9") <= cost_of(ordered, rows, f"disagreement<={a}@0.9")


@pytest.mark.parametrize("policy", [None, "eero", "shared"])
def test_a_weaker_promise_never_costs_more(policy: str | None) -> None:
    for seed in range(4):
        design, rows = graded(500, seed), graded(500, 100 + seed)
        check_order(ordered_candidates(design, policy, candidate_family(policy or "eero")), rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet8", "dscnn", "fashion_mnist"])
def test_a_weaker_promise_never_costs_more_on_recorded_networks(name: str) -> None:
    rows = recorded_networks()[name]
    for seed in range(100):
        part, _ = rows.split(1000 / rows.n, seed)
        design, certifying = part.split(0.5, seed)
        check_order(by_level(design), certifying)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["accuracy_gap", "accumulated_accuracy_gap"])
def test_promises_from_several_starts_are_kept(what: str) -> None:
    """Broken on new rows in at most delta of 100 splits, two standard errors allowed."""
    rows = recorded_networks()["dscnn"]
    table = LOSSES["accuracy_gap"].table(rows)
    asked = Guarantee.parse(f"{what}<=0.03@0.9")
    broken = []
    for seed in range(100):
        order = np.random.default_rng(seed).permutation(rows.n)
        found = certify(by_level(rows.take(order[:500])), rows.take(order[500:1200]), asked)
        rest = order[1200:]
        taken = replay(found.policy, rows)[rest]
        lost = table[taken, rest]
        ends = range(rows.exits) if asked.accumulated else [rows.exits - 1]
        broken.append(any(lost[taken <= k].mean() > asked.alpha for k in ends if (taken <= k).any()))
    assert np.mean(broken) <= 0.1 + 2 * math.sqrt(0.09 / 100)


def test_the_order_needs_no_labels_and_begins_with_the_last_exit() -> None:
    design = graded(500, 0)
    ordered = by_level(design)
    assert ordered.policies[0] == fixed_exit(3, 4)
    assert ordered.weights[0] == 0.5 and sum(ordered.weights) == pytest.approx(1)
    assert by_level(Records(design.outputs, design.cost)) == ordered
    assert sum(w > 0 for w in ordered.weights) == 7
