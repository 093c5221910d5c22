"""Policies: reasons to stop, accepted answers, forbidden exits, thresholds of a fused graph."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeexit.policy.policies import Patience, Policy, QExit, Threshold, Window, fixed_exit

INF = math.inf


@pytest.mark.parametrize(
    ("policy", "fixed", "graph"),
    [
        (Threshold((0.5, INF)), None, (0.5, INF)),
        (Threshold((INF, INF)), 2, (INF, INF)),
        (Threshold((INF, -INF)), 1, (INF, -INF)),
        (Threshold((-INF, INF)), 0, (-INF, INF)),
        (Threshold(()), 0, ()),
        (fixed_exit(1, 4), 1, (INF, -INF, -INF)),
        (Window((0.1,), (0.9,), 0.5), None, None),
        (Window((), (), 0.5), None, ()),
        (QExit(), None, None),
        (Patience(1), None, None),
    ],
)
def test_fixed_exits_and_graphs(policy: Policy, fixed: int | None, graph: tuple[float, ...] | None) -> None:
    assert policy.fixed == fixed
    assert policy.graph_thresholds == (None if graph is None else tuple(map(np.float32, graph)))


def test_why_they_stop() -> None:
    threshold = Threshold((0.5, -INF, INF))
    assert [threshold.reason(k, 0.7) for k in range(3)] == ["confident", "forced", "confident"]
    assert [threshold.forbids(k) for k in range(3)] == [False, False, True]
    window = Window((0.2, -INF), (0.8, INF), 0.5)
    assert window.reason(0, 0.1) == "rejected" and window.reason(0, 0.9) == "confident"
    assert window.accepts(np.float32([0.4, 0.5, np.nan])).tolist() == [False, True, False]
    for policy in (threshold, QExit(), Patience(2)):
        assert policy.accepts(0.1) is None
    for policy in (window, QExit(), Patience(2)):
        assert not policy.forbids(1)
    assert QExit().reason(0, 0.1) == Patience(1).reason(1, None) == "confident"
