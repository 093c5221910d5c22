"""Sampling, drafts from the text, settings, distances, cost tables: what needs no model."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from edgeexit.errors import DataError
from edgeexit.lm.costs import Costs
from edgeexit.lm.decoding.calm import margin, threshold_at
from edgeexit.lm.decoding.lookup import Repeats
from edgeexit.lm.decoding.skip import stages_at
from edgeexit.lm.sampling import Draft, Greedy, Sampler, chooser, confidence
from edgeexit.lm.settings import Decoding
from edgeexit.lm.tuning.consistency import distance
from lm.made_traces import costs


def test_sampler_cuts_and_normalises() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    assert Sampler().probabilities(logits) == pytest.approx([0.5, 0.3, 0.15, 0.05])
    assert Sampler(top_k=2).probabilities(logits) == pytest.approx([0.625, 0.375, 0, 0])
    assert Sampler(top_p=0.7).probabilities(logits) == pytest.approx([0.625, 0.375, 0, 0])
    assert Sampler(top_p=0.01).probabilities(logits) == pytest.approx([1, 0, 0, 0])
    assert Sampler(0.5).probabilities(logits)[0] == pytest.approx(0.25 / (0.25 + 0.09 + 0.0225 + 0.0025))
    assert Sampler(top_k=1).probabilities(np.zeros(3)).tolist() == [1, 0, 0]  # equals: the first


def test_seeds_repeat() -> None:
    logits = np.random.default_rng(0).standard_normal(50)
    runs = [[Sampler(seed=s).pick(logits) for _ in range(3)] for s in (1, 1, 2)]
    draws = [(lambda c: [c.pick(logits) for _ in range(20)])(Sampler(seed=s)) for s in (1, 1, 2)]
    assert runs[0] == runs[1] and draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("certain", [False, True])
def test_checked_drafts_leave_the_distribution_as_it_is(certain: bool) -> None:
    """The first token of a round, drafted or not, must come from the full model's distribution."""
    rng = np.random.default_rng(3)
    full, early = rng.standard_normal((2, 6)), rng.standard_normal(6)
    sampler = Sampler(seed=5)
    counts = np.zeros(6)
    for _ in range(20_000):
        draft = Draft(int(rng.integers(6))) if certain else sampler.draft(early, None, 6)
        stand, token = sampler.verify(full, [draft])
        counts[draft.token if stand else token] += 1
    # 20,000 draws: four standard errors are at most 0.0142
    assert np.abs(counts / counts.sum() - sampler.probabilities(full[0])).max() < 0.0142


def test_short_lists_are_spread_over_the_vocabulary() -> None:
    draft = Sampler(seed=1).draft(np.array([0.0, 2.0]), np.array([7, 3]), 9)
    assert draft.token in (3, 7) and draft.q is not None and draft.q.sum() == pytest.approx(1)
    assert draft.q[3] > draft.q[7] > 0
    assert Greedy().draft(np.array([0.0, 2.0]), np.array([7, 3]), 9).token == 3


def test_greedy_check() -> None:
    logits = np.eye(4)[[2, 0, 3]]
    assert Greedy().verify(logits, [Draft(2), Draft(0)]) == (2, 3)
    assert Greedy().verify(logits, [Draft(2), Draft(1)]) == (1, 0)
    assert Greedy().verify(logits[:1], []) == (0, 2)


def test_chooser() -> None:
    assert chooser().greedy and not chooser(0.7).greedy
    for wrong in ({"temperature": -1}, {"temperature": 1, "top_p": 0}, {"temperature": 1, "top_k": -2},
                  {"top_k": 5}, {"top_p": 0.9}):  # fmt: skip
        with pytest.raises(DataError):
            chooser(**wrong)  # type: ignore[arg-type]
    assert confidence(np.zeros(4, np.float32)) == pytest.approx(0.25)
    assert margin(np.log(np.array([0.6, 0.1, 0.3]))) == pytest.approx(0.3)


def test_repeats() -> None:
    table = Repeats(3)
    text = [1, 2, 3, 4, 1, 2, 5, 1, 2]
    assert table.propose(text, 3) == [5, 1, 2]  # the latest place
    assert Repeats(3).propose([*text, 3], 2) == [4, 1]  # the longest run
    assert Repeats(1).propose([1, 2, 3], 4) == []
    assert Repeats(2).propose([1, 2, 9, 1], 5, ends=(9,)) == [2, 9]
    grown = Repeats(3)
    for n in range(1, len(text) + 1):
        assert grown.propose(text[:n], 3) == Repeats(3).propose(text[:n], 3)
    assert table.propose(text, 0) == []


def test_schedules() -> None:
    asked = Decoding("calm", threshold=0.8)
    assert threshold_at(asked, 0, 100) == pytest.approx(0.8)
    falling = [threshold_at(asked, i, 100) for i in range(100)]
    assert all(a > b for a, b in itertools.pairwise(falling)) and 0.72 < falling[-1] < 0.73
    stages = [stages_at(i, 50, 12, 5) for i in range(60)]
    assert stages[0] == 12 and stages[49] == 5 == stages[-1]
    assert all(a >= b for a, b in itertools.pairwise(stages))
    assert stages_at(0, 1, 12, 5) == 12


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"method": "beam"}, "unknown method"),
        ({"method": "speculative"}, "needs the exit"),
        ({"draft": 0}, "plain decoding, --method greedy"),
        ({"draft": 65}, "draft length"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"ngram": 0}, "n-gram"),
        ({"confidence": "mood"}, "unknown confidence"),
        ({"decay": -1.0}, "decay"),
        ({"exit": 1}, "greedy has no exit"),
        ({"method": "lookup", "threshold": 0.5}, "lookup has no threshold"),
        ({"method": "del", "repair": True}, "del has no repair"),
    ],
)
def test_settings_that_cannot_be(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        Decoding(**wrong)  # type: ignore[arg-type]


def test_distance() -> None:
    assert distance([1, 2, 3], [1, 2, 3]) == 0
    assert distance([1, 2, 3], [2, 3]) == pytest.approx(1 / 3)
    assert distance([1, 2, 3, 4, 5], [1, 9, 3, 4]) == pytest.approx(2 / 5)
    assert distance([], [1]) == 1 and distance([], []) == 0
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = (rng.integers(0, 4, rng.integers(1, 12)).tolist() for _ in range(2))
        assert distance(a, b) == pytest.approx(_slow(a, b) / max(len(a), len(b)))


def _slow(a: list[int], b: list[int]) -> int:
    if not a or not b:
        return len(a) + len(b)
    return (
        min(_slow(a[1:], b) + 1, _slow(a, b[1:]) + 1, _slow(a[1:], b[1:]) + (a[0] != b[0]))
        if len(a) * len(b) < 30
        else _rows(a, b)
    )


def _rows(a: list[int], b: list[int]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        new = [i]
        for j, y in enumerate(b, 1):
            new.append(min(row[j] + 1, new[-1] + 1, row[j - 1] + (x != y)))
        row = new
    return row[-1]


def test_costs_travel_as_json() -> None:
    for table in (costs(), costs(fills=False), costs(exits=1)):
        back = Costs.from_dict(json.loads(json.dumps(table.to_dict())))
        for name in ("positions", "stages", "heads", "sure", "fills", "play"):
            assert np.array_equal(getattr(back, name), getattr(table, name), equal_nan=True)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 9},
        {"stages": [[1]]},
        {"heads": None},
        {"positions": [3, 2, 1]},
        {"sure": [-1, 0, 0, 0]},
        {"n": "x"},
        {"play": [[1]]},
        {"play": []},
        {"fills": [-1, 0, 0, 0]},
        {"positions": [0.0, 1.0, float("inf")]},
        {"n": float("inf")},
    ],
)
def test_damaged_costs(change: dict[str, object]) -> None:
    with pytest.raises(DataError):
        Costs.from_dict({**costs().to_dict(), **change})
    for data in (None, [], {"schema": 1}):
        with pytest.raises(DataError):
            Costs.from_dict(data)


def test_costs_between_and_beyond() -> None:
    table = costs()
    found = table.along(np.array([0, 20, 40, 300]))
    assert np.allclose(found[:, :, 0], table.stages[:, :, 0]) and np.allclose(found[:, :, 2], table.stages[:, :, 1])
    assert np.allclose(found[:, :, 1], table.stages[:, :, :2].mean(2))
    assert (found[:, :, 3] > table.stages[:, :, 2]).all()
    rounds = table.rounds(16, 4)
    stages = table.along(np.array([16]))[:, :, 0]
    assert rounds.shape == (3, 5)
    assert np.allclose(rounds[:, 0], (stages[:, 0].sum() + table.heads[-1, 0]) * table.play[-1, 0])
    want = 3 * stages[:2, 0].sum() + 2 * table.heads[1, 0] + stages[2:, 2].sum() + table.heads[-1, 2]
    assert rounds[1, 2] == pytest.approx(want * table.play[1, 2])
    with pytest.raises(DataError, match="measured"):
        table.rounds(0, 9)
