from __future__ import annotations

import numpy as np
import pytest

from calibrate.made_rows import graded, recorded_networks
from edgeexit.calibrate import calibrate
from edgeexit.calibrate.families import candidate_family
from edgeexit.calibrate.search.cross_fit import cross_fit, drop_of, for_drop
from edgeexit.policy.policies import fixed_exit
from edgeexit.records.classification import Records, outcome, replay

POOL = graded(12_000, 5)


def lost_on_new_rows(policy: str, n: int, drop: float, splits: int) -> list[float]:
    """Accuracy lost on the rows that were left out."""
    losses = []
    for seed in range(splits):
        design, new = POOL.split(n / POOL.n, seed)
        point = for_drop(design, candidate_family(policy), drop)
        taken = replay(point.policy, new)
        losses.append(float(drop_of(new, taken).mean()))
    return losses


@pytest.mark.parametrize(
    "policy",
    [pytest.param("eero", marks=pytest.mark.slow), "threshold", pytest.param("shared", marks=pytest.mark.slow)],
)
def test_the_drop_is_kept_on_average(policy: str) -> None:
    losses = lost_on_new_rows(policy, 200, 0.02, 25)
    assert np.mean(losses) <= 0.02 + 2 * np.std(losses) / 5


def test_candidates_are_measured_on_rows_they_were_not_built_on() -> None:
    """Labels without any rule: on its own rows a threshold per exit looks better than the last exit, elsewhere not."""
    rng = np.random.default_rng(0)
    chance = Records(rng.normal(size=(4, 300, 3)), np.arange(1.0, 5.0), rng.integers(0, 3, 300))
    family = candidate_family("threshold")
    fit = cross_fit(chance, family, drop_of)
    own = [float(drop_of(chance, replay(p.policy, chance)).mean()) for p in fit.points]
    assert min(own) < -0.03 and np.mean(fit.loss) > np.mean(own) + 0.03
    assert fit.loss[-1] == fit.error[-1] == 0 and fit.points[-1].policy == fixed_exit(3, 4)


def test_the_search_stops_at_the_first_that_fails() -> None:
    fit = cross_fit(graded(400, 1), candidate_family("fixed"), drop_of)
    assert [p.cost for p in fit.points] == pytest.approx([10 / 105, 25 / 105, 50 / 105, 1])
    fit.loss[:], fit.error[:] = [0.0, 0.5, 0.01, 0.0], [0.0, 0.0, 0.02, 0.0]
    assert fit.cheapest(0.03) == fit.points[2]  # exit 0 looks free, but lies beyond exit 1
    assert fit.cheapest(0.02) == fit.points[3] and fit.cheapest(-0.1) is None


def test_few_rows_ask_for_more_and_say_so() -> None:
    """Twenty rows cannot show a drop of 1 point: the last exit answers."""
    from edgeexit.calibrate.cautions import cautions

    point = calibrate(graded(60, 3), accuracy_drop=0.01, held_out=graded(60, 4))
    assert point.policy == fixed_exit(3, 4)
    assert cautions(point)[0].startswith("60 rows to choose on cannot show a loss of 1 point, so the last exit")
    assert calibrate(graded(100, 3), accuracy_drop=0.01, held_out=graded(60, 4)).policy != fixed_exit(3, 4)
    enough = calibrate(graded(3000, 3), accuracy_drop=0.02, held_out=graded(3000, 4))
    assert cautions(enough) == []
    never = calibrate(graded(1000, 3, useful=False), accuracy_drop=0.01, held_out=graded(1000, 4, useful=False))
    assert "it saves nothing: the target is met by (almost) never leaving early" in cautions(never)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "n"), [("resnet8", 400), ("dscnn", 200), ("fashion_mnist", 400)])
def test_recorded_networks_keep_the_drop_and_the_interval_covers(name: str, n: int) -> None:
    """200 random splits: half of n rows choose, half measure, all others are new."""
    rows, splits = recorded_networks()[name], 200
    lost, covered = [], []
    for seed in range(splits):
        calibration, new = rows.split(n / rows.n, seed)
        design, held_out = calibration.split(0.5, seed)
        point = calibrate(design, accuracy_drop=0.01, held_out=held_out)
        result = outcome(replay(point.policy, new), new)
        lost.append(float(new.correct[-1].mean(dtype=float)) - result.accuracy)
        covered.append(point.expected["drop_low"] <= lost[-1] <= point.expected["drop_high"])
    assert np.mean(lost) <= 0.01
    assert np.mean(covered) >= 0.93
