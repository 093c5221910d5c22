"""The table of costs holds whole rounds: the host's work too, on the level of what they took."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from edgeexit.lm.costs import Costs
from edgeexit.lm.loading import load_lm
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.sampling import Greedy
from edgeexit.lm.settings import Decoding
from edgeexit.lm.tuning.measure_costs import _Times, measure
from edgeexit.lm.tuning.simulate import CostTable, simulate
from edgeexit.lm.tuning.traces import record

SLOW = 0.004


@pytest.fixture(scope="module")
def model(tiny_lm: Path) -> LanguageModel:
    return load_lm(tiny_lm)


def spin() -> None:
    until = time.thread_time() + SLOW
    while time.thread_time() < until:
        pass


def test_what_the_host_does_is_foretold(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    pick, verify, traces = Greedy.pick, Greedy.verify, record(model, [[5, 9, 30, 5, 9, 30]], 40)
    monkeypatch.setattr(Greedy, "pick", lambda self, z: (spin(), pick(self, z))[1])
    monkeypatch.setattr(Greedy, "verify", lambda self, z, drafts: (spin(), verify(self, z, drafts))[1])
    costs = measure(model, 5, n=3)
    for setting in (
        Decoding(),
        Decoding("lookup"),
        Decoding("speculative", 1, 4),
        Decoding("del", draft=4),
    ):
        found = simulate([CostTable(t, costs) for t in traces], setting)
        # The tiny network takes a few tenths of a millisecond a round: without the host's work this would be a tenth of
        # SLOW. Wide, for play is a factor on the parts, and with busy neighbours these tiny ones differ by a third.
        assert 0.5 * SLOW < found.seconds / found.rounds < 2 * SLOW, setting


def test_a_choice_takes_time(model: LanguageModel) -> None:
    costs = measure(model, 5, n=1)
    assert 0 < costs.choice < 1e-3
    assert measure(model, 1, n=1).choice == 0  # no drafts, nothing to choose


def test_rounds_are_on_the_level_of_what_they_took_on_average() -> None:
    n, exits, block, places = 8, 3, 5, np.array([0, 40, 80])
    times = _Times.empty(n, exits, block, places)
    times.stages[:] = 1e-3
    times.heads[:] = 5e-4
    times.sure[:] = 1e-5
    assert times.lengths == (0, 1, 2, 4) and times.middle == 40
    assert len(times.rounds) == 3 * 4 - 2  # plain decoding is of the last exit alone
    sums = times._sums(times.parts(0.5))
    for k, i in times.rounds:
        times.played[:, k, i] = sums[k, i] * (1.2 if k == exits - 1 else 1.1)
    times.played[-1] *= 9  # what came between once is in the mean, and not in the play
    table = times.table(Costs(*times.parts(0.5), np.ones((exits, block))))
    assert np.allclose(table.play[-1], 1.2) and np.allclose(table.play[0, 1:], 1.1) and table.play[0, 0] == 1.2
    assert np.allclose(table.rounds(40, 4)[:, 0], sums[-1, 0] * 1.2 * 2)
    assert np.allclose(table.rounds(40, 4)[1, [1, 2, 4]], sums[1, 1:] * 1.1 * 2)
    assert sums[0, 2] == pytest.approx(3 * 1e-3 + 2 * 5e-4 + 2 * 1e-3 + 5e-4)
