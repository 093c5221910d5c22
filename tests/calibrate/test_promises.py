from __future__ import annotations

import math

import numpy as np
import pytest

from calibrate.made_rows import fashion_mnist, graded
from edgeexit.calibrate.guarantees.losses import LOSSES
from edgeexit.calibrate.guarantees.ordered import OrderedCandidates, by_level
from edgeexit.calibrate.guarantees.promises import ALPHAS, GUARANTEES, ORDERING_SHARE, Promise, promises
from edgeexit.calibrate.guarantees.risk import Guarantee, certify, rows_needed
from edgeexit.errors import DataError, PolicyError
from edgeexit.policy.policies import Threshold, fixed_exit
from edgeexit.records.classification import Records, outcome, replay

DESIGN, HELD_OUT = graded(1200, 0, "design"), graded(2000, 1, "held")
FOUND = promises(DESIGN, HELD_OUT, (0.02, 0.1), 0.1)


def of(what: str, method: str = "ltt", found: tuple[Promise, ...] = FOUND) -> list[Promise]:
    return [p for p in found if (p.what, p.method) == (what, method)]


def policy_of(p: Promise) -> Threshold:
    assert p.thresholds is not None and p.score is not None
    return Threshold(p.thresholds, p.score)


def test_every_guarantee_at_every_alpha() -> None:
    assert [(p.what, p.method, p.alpha) for p in FOUND] == [
        (*g, a) for g in GUARANTEES if g[0] not in ("wer_gap", "cer_gap") for a in (0.02, 0.1)
    ]
    assert all((p.ordered_on, p.certified_on, p.n) == (600, 600, 2000) for p in FOUND)
    assert {p.delta for p in FOUND if p.method != "crc"} == {0.1} and {p.delta for p in FOUND if p.method == "crc"} == {
        None
    }


def test_ordered_on_one_half_certified_on_the_other_measured_on_the_held_out_rows() -> None:
    """Worked out again from the two halves, which have no row in common."""
    ordering, certifying = DESIGN.split(ORDERING_SHARE, 0)
    rows = [{o.tobytes() for o in r.outputs.swapaxes(0, 1)} for r in (ordering, certifying, HELD_OUT)]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]
    assert [len(r) for r in rows] == [600, 600, 2000]
    ordered = by_level(ordering)
    for p in FOUND:
        name = p.what.removeprefix("accumulated_")
        asked = Guarantee(name, p.alpha, 0.1, p.method, name != p.what)  # type: ignore[arg-type]
        expected = certify(ordered, certifying, asked)
        policy = policy_of(p)
        assert policy == expected.policy and p.certified_loss == expected.promise["measured"]
        taken = replay(policy, HELD_OUT)
        lost = LOSSES[name].table(HELD_OUT)[taken, np.arange(2000)]
        there = outcome(taken, HELD_OUT)
        assert (p.cost, p.accuracy, p.exit_rates) == (there.cost, there.accuracy, there.exit_rates)
        gaps = {int((taken <= k).sum()): lost[taken <= k].mean() for k in range(4) if (taken <= k).any()}
        assert p.loss == pytest.approx(max(gaps.values()) if asked.accumulated else lost.mean())
        assert p.loss_n is not None and gaps[p.loss_n] == pytest.approx(p.loss)
        assert p.loss_low is not None and p.loss_high is not None and p.loss_low <= p.loss <= p.loss_high
        assert p.kept is (p.loss <= p.alpha)


def test_held_out_rows_change_what_is_measured_and_nothing_else() -> None:
    other = promises(DESIGN, graded(500, 7, useful=False), (0.02, 0.1))
    assert [(p.thresholds, p.certified_loss) for p in other] == [(p.thresholds, p.certified_loss) for p in FOUND]
    assert of("disagreement", found=other)[1].kept is False  # another world, and the report shows it
    assert of("disagreement", found=other)[1].loss_low > 0.1  # type: ignore[operator]


def test_a_seed_repeats_and_another_splits_otherwise() -> None:
    assert promises(DESIGN, HELD_OUT, (0.1, 0.02)) == FOUND
    assert promises(DESIGN, HELD_OUT, (0.02, 0.1), seed=1) != FOUND


def test_an_accumulated_gap_costs_more_than_the_marginal_one() -> None:
    for whole, accumulated in zip(of("accuracy_gap"), of("accumulated_accuracy_gap"), strict=True):
        assert whole.cost is not None and accumulated.cost is not None and accumulated.cost >= whole.cost


def test_too_few_rows_are_a_row_with_the_number_needed() -> None:
    found = promises(graded(300, 0), HELD_OUT, (0.005, 0.05), 0.1)
    refused, made = of("disagreement", found=found)
    assert (refused.needed, refused.certified_on) == (460, 150) and refused.kept is None
    assert refused.refusal is not None and "needs at least 460 calibration rows" in refused.refusal
    assert refused.loss is None and refused.cost is None and refused.thresholds is None and refused.exit_rates is None
    assert made.refusal is None and made.needed == 45 and made.loss is not None
    assert of("accuracy_gap", "crc", found)[0].needed == 199
    assert of("accumulated_accuracy_gap", found=found)[0].refusal is not None


@pytest.mark.parametrize("method", ["ltt", "crc"])
@pytest.mark.parametrize("alpha", [0.05, 0.02])
def test_rows_needed_are_exactly_enough(method: str, alpha: float) -> None:
    asked = Guarantee("disagreement", alpha, 0.1, method)  # type: ignore[arg-type]
    least = rows_needed(asked)
    safe = OrderedCandidates((fixed_exit(3, 4),), (1.0,))
    assert certify(safe, graded(least, 0), asked).policy == safe.policies[0]
    with pytest.raises(Exception, match=f"at least {least} calibration rows"):
        certify(safe, graded(least - 1, 0), asked)


def test_without_labels_only_what_needs_none() -> None:
    design, held_out = (Records(r.outputs, r.cost) for r in (DESIGN, HELD_OUT))
    found = promises(design, held_out, (0.1,))
    assert [p.what for p in found] == ["disagreement"]
    assert found[0].loss == pytest.approx(1 - (found[0].accuracy or 0), abs=1e-6)  # accuracy is agreement


def test_sequences_have_no_accumulated_row() -> None:
    rng = np.random.default_rng(0)
    records = [Records(rng.normal(size=(2, 80, 3, 4)), np.array([1.0, 2.0]), rng.integers(0, 4, (80, 3))) for _ in "ab"]
    assert {p.what for p in promises(*records, (0.2,))} == {"disagreement", "accuracy_gap", "brier_gap"}


def test_wrong_wishes_are_refused() -> None:
    with pytest.raises(PolicyError, match="alpha and delta must lie"):
        promises(DESIGN, HELD_OUT, (0.1, 1.0))
    with pytest.raises(PolicyError, match="alpha and delta must lie"):
        promises(DESIGN, HELD_OUT, delta=0.0)
    with pytest.raises(PolicyError, match="unknown score"):
        promises(DESIGN, HELD_OUT, score="luck")
    with pytest.raises(DataError, match="must not be the design rows"):
        promises(DESIGN, DESIGN)
    with pytest.raises(DataError, match="cannot be split"):
        promises(graded(1, 0), HELD_OUT)


def test_fashion_mnist_promises_are_broken_as_seldom_as_delta_says() -> None:
    design, test = fashion_mnist()
    pool = Records(
        np.concatenate([design.outputs, test.outputs], 1),
        design.cost,
        np.concatenate([design.labels, test.labels]),  # type: ignore[list-item]
        name="pool",
    )
    broken: dict[tuple[str, float], list[bool]] = {}
    means: dict[float, list[float]] = {}
    repeats = 30
    for seed in range(repeats):
        for p in promises(*pool.split(0.2, seed), (0.02, 0.05), 0.1, seed=seed):
            if p.method == "crc":
                means.setdefault(p.alpha, []).append(p.loss or 0.0)
            else:  # what was refused breaks nothing
                broken.setdefault((p.what, p.alpha), []).append(p.kept is False)
    assert len(broken) == 8
    for wrong in broken.values():
        assert len(wrong) == repeats and np.mean(wrong) <= 0.1 + 2 * math.sqrt(0.09 / repeats)
    assert all(np.mean(losses) <= alpha * 1.05 for alpha, losses in means.items())


def test_fashion_mnist_default_promises() -> None:
    found = promises(*fashion_mnist())
    assert {p.alpha for p in found} == set(ALPHAS) and all(p.certified_on == 2500 for p in found)
    for what, method in {(p.what, p.method) for p in found}:
        costs = [p.cost for p in of(what, method, found) if p.cost is not None]
        assert costs == sorted(costs, reverse=True) and costs[-1] < 0.2
    assert all(p.loss_low is not None and p.loss_low <= p.alpha for p in found if p.refusal is None)
