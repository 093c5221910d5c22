from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeexit import load
from edgeexit.errors import PolicyError
from edgeexit.policy.policies import Policy, QExit, Threshold, Window, policy_from_dict
from edgeexit.records.classification import Records, exits_taken, replay

INF = math.inf
WINDOW = Window((0.6, -INF), (0.9, INF), 0.75, "margin", (1.0, 2.0, 1.0))
QEXIT = QExit(0.7, "entropy", (1.0, 2.0, 1.0))


def made(exits: int, n: int) -> Records:
    outputs = np.random.default_rng(0).normal(0, 2, (exits, n, 3)).astype(np.float32)
    return Records(outputs, np.arange(1.0, exits + 1), name="made")


def taken_by_loop(policy: Policy, scores: np.ndarray) -> list[int]:
    """What the definitions say, one input and one exit at a time."""
    found = []
    for row in scores.T:
        survived, k = np.float32(1), 0
        while k < len(row) - 1:
            survived *= np.float32(1) - row[k]
            if isinstance(policy, Window):
                if row[k] < np.float32(policy.low[k]) or row[k] >= np.float32(policy.high[k]):
                    break
            elif isinstance(policy, QExit) and np.float32(1) - survived > np.float32(policy.q):
                break
            k += 1
        found.append(k)
    return found


def one_by_one(policy: Policy, scores: np.ndarray) -> list[int]:
    last = len(scores) - 1
    return [next((k for k in range(last) if policy.stop(list(row[: k + 1]), ())), last) for row in scores.T]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.sampled_from([0.0, 0.2]))
def test_replay_loop_and_one_by_one_agree(seed: int, exits: int, missing: float) -> None:
    rng = np.random.default_rng(seed)
    levels = np.float32(rng.random(6))
    scores = rng.choice(levels, (exits, 30))  # scores on the windows' ends, and NaN
    scores[rng.random(scores.shape) < missing] = np.nan
    ends = np.sort(rng.choice([*levels.tolist(), -INF, INF], (2, exits - 1)), 0)
    for policy in (Window(tuple(ends[0]), tuple(ends[1]), 0.5), QExit(float(rng.random()))):
        expected = taken_by_loop(policy, scores)
        assert exits_taken(policy, scores, scores).tolist() == expected
        assert one_by_one(policy, scores) == expected


def test_the_ends() -> None:
    policy = Window((0.25,), (0.75,), 0.5)
    assert policy.stop([np.float32([0.2, 0.25, 0.5, 0.75, np.nan])]).tolist() == [True, False, False, True, False]
    assert not policy.stop([np.float32("nan")])
    forbids, forces = Window((-INF,), (INF,), 0.5), Window((0.5,), (0.5,), 0.5)
    assert not forbids.stop([np.float32([0, 0.5, 1])]).any() and forces.stop([np.float32([0, 0.5, 1])]).all()


def test_ends_are_float32() -> None:
    """0.1 as a double lies below float32's 0.1: compared in double, the score 0.1 would be no lower and no equal."""
    score = np.float32(0.1)
    assert not Window((0.1,), (1.0,), 0.1).stop([score])
    assert Window((0.0,), (0.1,), 0.1).stop([score]) and Window((0.0,), (0.1,), 0.1).accepts(score)
    assert Window((-1e300,), (1e300,), 0.5).compared == ((-INF, INF),)


def test_accepts_numbers_and_arrays() -> None:
    assert WINDOW.accepts(np.float32(0.75)) and not WINDOW.accepts(np.float32("nan"))
    assert WINDOW.accepts(np.float32([0.7, 0.75, np.nan])).tolist() == [False, True, False]


def test_a_low_end_of_minus_infinity_is_a_threshold() -> None:
    records = made(4, 500)
    high = (0.9, 0.8, 0.7)
    assert (replay(Window((-INF,) * 3, high, 0.5), records) == replay(Threshold(high), records)).all()


def test_qexit_by_hand() -> None:
    """PALBERT's cumulative probabilities of 0.3, 0.4, 0.5: 0.3, 0.58, 0.79."""
    scores = np.float32([[0.3], [0.4], [0.5], [0.1]])
    assert [int(exits_taken(QExit(q), scores, scores)[0]) for q in (0.0, 0.29, 0.31, 0.57, 0.6, 0.8)] == [
        0,
        0,
        1,
        1,
        2,
        3,
    ]
    assert QExit(0.5).stop([np.float32(0.5)]) == False  # noqa: E712 - above q, not at it


def test_a_nan_is_never_forgotten() -> None:
    assert not QExit(0.1).stop([np.float32("nan"), np.float32(1)])


@pytest.mark.parametrize("policy", [WINDOW, QEXIT, QExit(), Window((), (), INF)], ids=lambda p: p.kind)
def test_read_back(policy: Policy) -> None:
    assert policy_from_dict(json.loads(json.dumps(policy.to_dict()))) == policy


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Window((0.6,), (0.5,), 0.5), r"exit 0 has low 0.6 above high 0.5"),
        (lambda: Window((0.6,), (0.7, 0.8), 0.5), "as many low as high ends, found 1 and 2"),
        (lambda: Window((math.nan,), (0.7,), 0.5), "is NaN.*forbid an exit"),
        (lambda: Window((0.6,), (0.7,), math.nan), "tau nan"),
        (lambda: Window((0.6,), (0.7,), 0.5, "luck"), "unknown score 'luck'"),
        (lambda: Window((0.6,), (0.7,), 0.5, "margin", (1.0,)), "temperatures must be 2 positive numbers"),
        (lambda: QExit(1.0), r"in \[0, 1\), found 1.0"),
        (lambda: QExit(True), "found True"),
        (lambda: QExit(math.nan), "found nan"),
        (lambda: QExit(0.5, "luck"), "unknown score 'luck'"),
        (lambda: QExit(0.5, "margin", (0.0, 1.0)), "temperatures must be 2 positive numbers"),
    ],
)
def test_refused(make: Any, words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        make()


@pytest.mark.parametrize("policy", [WINDOW, QEXIT], ids=lambda p: p.kind)
@pytest.mark.parametrize("wrong", [None, "high", True, ["high"], [True, 1], ["nan", 1], [10**400, 1], {"a": 1}])
def test_damaged_tables(policy: Policy, wrong: Any) -> None:
    table = policy.to_dict()
    for key in set(table) - {"kind"} - ({"temperatures"} if wrong is None else set()):
        with pytest.raises(PolicyError):
            policy_from_dict({**table, key: wrong})
        if key != "temperatures":
            with pytest.raises(PolicyError, match="damaged"):
                policy_from_dict({k: v for k, v in table.items() if k != key})


def test_made_for_other_exits() -> None:
    for policy in (WINDOW, QEXIT):
        with pytest.raises(PolicyError, match="made for 3 exits, made has 4"):
            replay(policy, made(4, 10))


def test_a_chain_runs_as_it_replays(tiny: Path) -> None:
    pytest.importorskip("onnxruntime")
    x = np.random.default_rng(7).standard_normal((100, 4)).astype(np.float32)
    engine = load(tiny, artifact="chain", warmup=0)
    rows = engine.record(x)
    s = np.sort(rows.scores("maxprob"), 1)
    middle = [[float(s[k, i] + s[k, i + 1]) / 2 for k in (0, 1)] for i in (24, 74)]
    for policy in (Window(tuple(middle[0]), tuple(middle[1]), 0.5), QExit(0.6), QExit(0.9)):
        engine.policy = policy
        expected = replay(policy, rows).tolist()
        assert len(set(expected)) > 1
        assert [engine.run(v).exit for v in x] == expected
        assert engine.run_batch(x).exits.tolist() == expected


def test_a_fused_graph_follows_thresholds_only(tiny: Path) -> None:
    pytest.importorskip("onnxruntime")
    engine = load(tiny, artifact="fused", warmup=0)
    for policy in (Window((0.5, 0.5), (0.6, 0.6), 0.5), QExit()):
        with pytest.raises(PolicyError, match=f"'{policy.kind}' needs layout chain"):
            engine.policy = policy
