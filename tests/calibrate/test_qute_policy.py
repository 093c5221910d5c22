"""Policy qute: accept, continue or abstain."""

from __future__ import annotations

import numpy as np
import pytest

from calibrate.curves import coverage_at_risk
from edgeexit.calibrate import calibrate
from edgeexit.calibrate.rejection.qute import best_score, qute_policy
from edgeexit.calibrate.rejection.selective import answered, selected
from edgeexit.errors import DataError, Infeasible, PolicyError
from edgeexit.policy.policies import Window
from edgeexit.records.classification import Records, replay

CLASSES = 5


def ensemble_records(n: int = 3000, exits: int = 1, seed: int = 0, telling: float = 3.0) -> Records:
    """Rows that are right with probability q; the exits' own uncertainty knows q better than their probabilities do."""
    rng = np.random.default_rng(seed)
    less = 0.3 * (np.arange(exits) + 1 - exits) / max(exits - 1, 1)
    q = np.clip(rng.beta(3, 1, n) + less[:, None], 0.05, 0.99)
    labels = rng.integers(0, CLASSES, n)
    right = rng.random(n) < q
    answer = np.where(right, labels, (labels + 1) % CLASSES)
    sure = np.clip(q + 0.4 * rng.standard_normal(q.shape), 0.25, 0.99)  # a noisy reading
    outputs = np.repeat(((1 - sure) / (CLASSES - 1))[..., None], CLASSES, 2)
    np.put_along_axis(outputs, answer[..., None], sure[..., None], 2)
    told = np.clip(q + rng.standard_normal(q.shape) / (10 * telling), 0, 1).astype(np.float32)
    cost = np.arange(1.0, exits + 1)
    return Records(outputs.astype(np.float32), cost, labels, "probs", stored_scores={"ensemble": told})


@pytest.mark.parametrize("exits", [1, 3])
def test_the_most_telling_score_decides(exits: int) -> None:
    design = ensemble_records(exits=exits)
    assert best_score(design) == "ensemble"
    policy = qute_policy(design, "cov@0.1")
    assert policy.score == "ensemble" and policy.exits == exits
    noisy = ensemble_records(exits=exits, telling=0.02)
    assert best_score(noisy) != "ensemble"
    assert qute_policy(noisy, "risk@0.5", score="ensemble").score == "ensemble"


def test_one_exit_accepts_as_much_as_the_risk_allows() -> None:
    design, held_out = ensemble_records(), ensemble_records(seed=1)
    policy = qute_policy(design, "cov@0.1")
    there = selected(policy, design, policy.tau)
    assert there.risk is not None and there.risk <= 0.1
    assert there.coverage == coverage_at_risk(*answered(policy, design), 0.1)
    assert there.coverage > coverage_at_risk(design.scores("maxprob")[0], design.correct[0], 0.1) + 0.05
    seen = selected(policy, held_out, policy.tau)
    assert seen.risk == pytest.approx(0.1, abs=0.03) and seen.exit_rates == (1.0,)
    half = selected(qute_policy(design, "risk@0.5"), design, qute_policy(design, "risk@0.5").tau)
    assert 0.5 <= half.coverage <= 0.51


def test_three_exits_accept_continue_or_abstain() -> None:
    design = ensemble_records(exits=3)
    policy = qute_policy(design, "risk@0.5", pass_rate=0.3)
    assert policy.low[0] == -np.inf and policy.high[0] == np.inf and np.isfinite(policy.low[1])
    taken = replay(policy, design)
    scores = design.scores("ensemble")[1]
    early = taken == 1
    assert 0.2 < (taken == 2).mean() <= 0.3
    assert (scores[early] >= np.float32(policy.high[1])).any() and (scores[early] < np.float32(policy.low[1])).any()
    assert isinstance(policy, Window) and qute_policy(design, "cov@0.1", first=0).low[1] == -np.inf


def test_an_operating_point_says_what_is_accepted() -> None:
    design, held_out = ensemble_records(), ensemble_records(seed=1)
    point = calibrate(design, policy="qute", selective="cov@0.1", held_out=held_out)
    assert point.expected["tau"] == point.policy.tau and point.expected["risk"] == pytest.approx(0.1, abs=0.03)
    assert point.expected["cost"] == 1 and point.expected["exit_rates"] == [1.0]


def test_refused() -> None:
    rows = ensemble_records(200)
    bare = Records(rows.outputs, rows.cost, None, "probs", stored_scores=rows.stored_scores)
    with pytest.raises(DataError, match="need labels"):
        qute_policy(bare)
    with pytest.raises(DataError, match="one exit, so there is nothing to choose"):
        calibrate(rows, budget=0.5)
    with pytest.raises(DataError, match="one exit, so there is nothing to choose"):
        calibrate(rows, policy="window", selective="cov@0.1")
    with pytest.raises(PolicyError, match="go together"):
        calibrate(rows, policy="qute", budget=0.5)
    with pytest.raises(PolicyError, match="not every exit gave a score 'learned'"):
        qute_policy(rows, score="learned")
    with pytest.raises(Infeasible, match="no threshold reaches a risk"):
        qute_policy(
            Records(
                rows.outputs, rows.cost, (rows.predictions[0] + 1) % CLASSES, "probs", stored_scores=rows.stored_scores
            )
        )
    with pytest.raises(PolicyError, match="unknown target"):
        qute_policy(rows, "cov@2")
