from __future__ import annotations

import math

import numpy as np
import pytest

from calibrate.made_rows import fashion_mnist, from_scores, graded
from edgeexit.calibrate import calibrate
from edgeexit.calibrate.guarantees.bounds import Betting, Binomial, HoeffdingBentkus, binomial_cdf, least_rows, shuffled
from edgeexit.calibrate.guarantees.losses import LOSSES
from edgeexit.calibrate.guarantees.ordered import OrderedCandidates, by_level
from edgeexit.calibrate.guarantees.risk import Certificate, Guarantee, certify
from edgeexit.errors import DataError, Infeasible, PolicyError
from edgeexit.policy.operating_point import OperatingPoint
from edgeexit.policy.policies import Policy, Threshold
from edgeexit.records.classification import Records, outcome, replay


def in_order(*policies: Policy) -> OrderedCandidates:
    """One start, all of delta at it."""
    return OrderedCandidates.starting_at(policies, [0])


SHARED = in_order(*(Threshold((float(t),) * 3) for t in (math.inf, *np.linspace(0.99, 0, 100))))


def test_unit_p_values() -> None:
    """Worked out apart from this code."""
    losses = np.repeat([1.0, 0.0], [3, 97])
    assert Binomial(100, 0.1).p_value(losses) == pytest.approx(0.00783649, abs=1e-6)
    assert HoeffdingBentkus(100, 0.1).p_value(losses) == pytest.approx(0.02130178, abs=1e-6)
    x = np.array(([0.0] * 9 + [1.0]) * 10)
    low, high = 0.0, 1.0
    for _ in range(50):
        m = (low + high) / 2
        low, high = (m, high) if Betting(100, m, 0.1).p_value(x) > 0.1 else (low, m)
    assert high == pytest.approx(0.192430, abs=1e-6)


@pytest.mark.parametrize(("n", "p"), [(1, 0.5), (100, 0.1), (5000, 0.01), (100_000, 0.03)])
def test_binomial_as_scipy_has_it(n: int, p: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert binomial_cdf(n, p) == pytest.approx(stats.binom.cdf(np.arange(n + 1), n, p), abs=1e-7)


@pytest.mark.parametrize(("alpha", "delta", "rows"), [(0.02, 0.1, 114), (0.01, 0.1, 230), (0.05, 0.1, 45)])
def test_least_rows(alpha: float, delta: float, rows: int) -> None:
    assert least_rows(alpha, delta) == rows
    assert (
        Binomial(rows, alpha).p_value(np.zeros(rows)) <= delta < Binomial(rows - 1, alpha).p_value(np.zeros(rows - 1))
    )


def test_no_loss_on_average_no_certificate_for_chance() -> None:
    """Under the null the p-value is small as seldom as it says."""
    rng = np.random.default_rng(0)
    for test in (Binomial(300, 0.1), HoeffdingBentkus(300, 0.1), Betting(300, 0.1, 0.1)):
        wrong = np.mean([test.p_value((rng.random(300) < 0.1).astype(float)) <= 0.1 for _ in range(2000)])
        assert wrong <= 0.1 + 2 * math.sqrt(0.09 / 2000)


def test_a_signed_loss_at_its_null() -> None:
    rng = np.random.default_rng(1)
    test = Betting(300, 0.05, 0.1, bound=2.0)
    wrong = np.mean(
        [test.p_value(rng.choice([-2.0, 2.0, 0.0], 300, p=[0.2375, 0.2625, 0.5])) <= 0.1 for _ in range(2000)]
    )
    assert wrong <= 0.1 + 2 * math.sqrt(0.09 / 2000)


def trials(text: str, n: int, method: str = "ltt", count: int = 200) -> tuple[float, float]:
    """Share of splits in which the bound is broken on the other rows, and the mean cost."""
    _, pool = fashion_mnist()
    asked = Guarantee.parse(text, method)  # type: ignore[arg-type]
    losses = LOSSES[asked.loss].table(pool)
    broken, cost = [], []
    for seed in range(count):
        order = np.random.default_rng(seed).permutation(pool.n)
        found = certify(SHARED, pool.take(order[:n]), asked)
        taken = replay(found.policy, pool)[order[n:]]
        broken.append(losses[taken, order[n:]].mean() > asked.alpha)
        cost.append(pool.relative_cost[taken].mean())
    return float(np.mean(broken)), float(np.mean(cost))


@pytest.mark.parametrize("text", ["disagreement<=0.05@0.9", "accuracy_gap<=0.05@0.9"])
@pytest.mark.parametrize("method", ["ltt", "ucb"])
def test_violations_are_as_rare_as_promised(text: str, method: str) -> None:
    broken, cost = trials(text, 500, method)
    assert broken <= 0.1 + 2 * math.sqrt(0.09 / 200)
    assert cost < 0.33
    if method == "ltt" and text.startswith("dis"):
        assert cost == pytest.approx(0.29, abs=0.02)


def test_crc_holds_on_average_only() -> None:
    _, pool = fashion_mnist()
    asked = Guarantee.parse("disagreement<=0.05@0.9", "crc")
    losses = LOSSES["disagreement"].table(pool)
    risks = []
    for seed in range(100):
        order = np.random.default_rng(seed).permutation(pool.n)
        found = certify(SHARED, pool.take(order[:500]), asked)
        risks.append(losses[replay(found.policy, pool), np.arange(pool.n)][order[500:]].mean())
        assert found.promise["delta"] is None and "on average" in found.promise["text"]
    assert np.mean(risks) <= 0.052
    assert np.mean(np.array(risks) > 0.05) > 0.15  # which a certificate would not allow


def test_accumulated_gaps() -> None:
    _, pool = fashion_mnist()
    asked = Guarantee.parse("accumulated_accuracy_gap<=0.05@0.9")
    losses = LOSSES["accuracy_gap"].table(pool)
    broken, cost = [], []
    for seed in range(50):
        order = np.random.default_rng(seed).permutation(pool.n)
        found = certify(by_level(pool.take(order[:1000])), pool.take(order[1000:2000]), asked)
        rest = order[2000:]
        taken = replay(found.policy, pool)[rest]
        lost = losses[taken, rest]
        broken.append(any(lost[taken <= k].mean() > 0.05 for k in range(4) if (taken <= k).any()))
        cost.append(pool.relative_cost[taken].mean())
    assert np.mean(broken) <= 0.16 and np.mean(cost) < 0.30  # with one level of screening it was .32


def test_refused_below_the_least_rows() -> None:
    rows = graded(113, 0)
    with pytest.raises(Infeasible, match="needs at least 114 calibration rows even without a single loss; found 113"):
        certify(SHARED, rows, Guarantee.parse("disagreement<=0.02@0.9"))
    with pytest.raises(Infeasible, match="needs at least 19 calibration rows"):
        certify(SHARED, graded(18, 0), Guarantee.parse("disagreement<=0.05@0.9", "crc"))
    with pytest.raises(Infeasible, match="needs at least 114"):
        certify(by_level(graded(500, 1)), rows, Guarantee.parse("accumulated_disagreement<=0.02@0.9"))


def test_stops_at_the_first_failure() -> None:
    """A policy beyond one that fails is never returned, however well it does."""
    rows = graded(500, 0)
    asked = Guarantee.parse("disagreement<=0.05@0.9")
    bold, safe = Threshold((-math.inf,) * 3), Threshold((math.inf,) * 3)
    safer = Threshold((0.9999,) * 3)
    assert certify(in_order(safe, bold, safer), rows, asked).policy is safe
    assert certify(in_order(safe, safer, bold), rows, asked).policy is safer


def test_a_later_start_does_not_depend_on_what_failed_before_it() -> None:
    rows = graded(500, 0)
    asked = Guarantee.parse("disagreement<=0.05@0.9")
    bold, safe, safer = Threshold((-math.inf,) * 3), Threshold((math.inf,) * 3), Threshold((0.9999,) * 3)
    ordered = OrderedCandidates.starting_at([safe, bold, safer], [0, 2])
    assert ordered.weights == (0.5, 0.0, 0.5) and certify(ordered, rows, asked).policy is safer
    # Half of delta is left for it: fewer rows are not enough there, though they are at the first start.
    few = rows.take(np.arange(50))
    assert certify(in_order(safe), few, asked).policy is safe
    assert certify(in_order(safer), few, asked).policy is safer
    with pytest.raises(Infeasible):
        certify(OrderedCandidates((bold, safer), (0.5, 0.5)), few, asked)


@pytest.mark.parametrize("policy", ["threshold", "shared", "eero", "patience", "fixed"])
def test_calibrate_with_a_guarantee(policy: str) -> None:
    design, rows = graded(800, 1), graded(800, 2)
    asked = Guarantee.parse("accuracy_gap<=0.1@0.9")
    point = calibrate(design, policy=policy, guarantee=asked, held_out=rows)
    promise = point.promise
    assert promise is not None and OperatingPoint.from_dict(point.to_dict()) == point
    assert (promise["what"], promise["alpha"], promise["delta"], promise["n"]) == ("accuracy_gap", 0.1, 0.1, 800)
    assert (
        len(promise["split"]) == 64
        and promise["split"]
        != calibrate(design, policy=policy, guarantee=asked, held_out=graded(800, 3)).promise["split"]
    )  # type: ignore[index]
    lost = LOSSES["accuracy_gap"].table(rows)[replay(point.policy, rows), np.arange(800)].mean()
    assert promise["measured"] == pytest.approx(lost) and lost < 0.1


def test_brier_gap() -> None:
    design, test = fashion_mnist()
    for method in ("ltt", "ucb"):
        asked = Guarantee.parse("brier_gap<=0.05@0.9", method)  # type: ignore[arg-type]
        found: Certificate = certify(SHARED, design, asked)
        table = LOSSES["brier_gap"].table(test)
        assert table.min() < 0  # leaving early wins sometimes
        assert table[replay(found.policy, test), np.arange(test.n)].mean() <= 0.05
        assert outcome(replay(found.policy, test), test).cost < 0.6


def test_sequences_are_tested_as_shares_whatever_the_values() -> None:
    """Losses that happen to be 0 and 1 do not make the binomial test right."""
    outputs = np.zeros((2, 200, 3, 2), np.float32)
    outputs[..., 0] = 1
    rows = Records(outputs, np.array([1.0, 2.0]))
    promise = certify(in_order(Threshold((-math.inf,))), rows, Guarantee.parse("disagreement<=0.1@0.9")).promise
    assert promise["test"] == "Hoeffding-Bentkus" and promise["measured"] == 0
    with pytest.raises(DataError, match="sequences have shares"):
        certify(by_level(rows), rows, Guarantee.parse("accumulated_disagreement<=0.1@0.9"))


@pytest.mark.parametrize("mode", ["policy", "mondrian"])
def test_sets_of_a_policy_that_their_rows_certified(mode: str) -> None:
    asked = Guarantee.parse("disagreement<=0.2@0.9")
    with pytest.raises(PolicyError, match="would share their rows: use nested sets"):
        calibrate(graded(300, 1), guarantee=asked, held_out=graded(300, 2), sets=0.1, set_mode=mode)  # type: ignore[arg-type]


def unlabelled(rows: Records) -> Records:
    return Records(rows.outputs, rows.cost, None, rows.kind, name="unlabelled")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("accuracy_gap", "expected LOSS<=ALPHA@CONFIDENCE"),
        ("accuracy_gap<=x@0.9", "expected LOSS<=ALPHA@CONFIDENCE"),
        ("mistakes<=0.1@0.9", "unknown loss 'mistakes'; known: disagreement, accuracy_gap, brier_gap"),
        ("accuracy_gap<=0@0.9", "must lie in"),
        ("accuracy_gap<=1.5@0.9", "must lie in"),
        ("accuracy_gap<=0.1@1", "must lie in"),
        ("accuracy_gap<=0.1@0", "must lie in"),
        ("accumulated_brier_gap<=0.1@0.9", "accumulated gaps are tested with ltt"),
    ],
)
def test_bad_guarantees(text: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Guarantee.parse(text)


def test_bad_rows() -> None:
    asked = Guarantee.parse("accuracy_gap<=0.1@0.9")
    rows = graded(200, 0)
    with pytest.raises(DataError, match="needs true classes"):
        calibrate(unlabelled(rows), guarantee=asked, held_out=unlabelled(graded(200, 1)))
    with pytest.raises(DataError, match="rows of its own"):
        calibrate(rows, guarantee=asked)
    again = Records(rows.outputs.copy(), rows.cost, rows.labels)
    with pytest.raises(DataError, match="must not be the design rows"):
        calibrate(rows, guarantee=asked, held_out=again)


def test_ties_everywhere() -> None:
    """One score for all: everybody stops or nobody does."""
    right = np.random.default_rng(0).random((3, 400)) < np.array([[0.5], [0.6], [1.0]])
    rows = [from_scores(np.full((3, 400), 0.7), np.roll(right, s, 1)) for s in (0, 3)]
    with pytest.raises(DataError, match="every row has the same maxprob at every early exit"):
        calibrate(rows[0], policy="shared", guarantee=Guarantee.parse("accuracy_gap<=0.05@0.9"), held_out=rows[1])


def test_one_class_is_refused() -> None:
    rows = graded(300, 0)
    alone = rows.take(np.flatnonzero(rows.labels == 3))
    with pytest.raises(DataError, match="rows are of class 3"):
        calibrate(alone, budget=0.5)


def test_bets_do_not_follow_the_order_of_the_file() -> None:
    """Easy rows first and hard ones after them, as logs are: a bet along the file wins on the first half."""
    losses = np.concatenate([np.zeros(2000), np.random.default_rng(0).random(2000) < 0.3])
    betting = Betting(4000, 0.1, 0.05)
    assert losses.mean() > 0.14 and betting.p_value(losses) < 1e-6
    assert betting.p_value(shuffled(losses)) > 0.05
    assert sorted(shuffled(losses)) == sorted(losses)
