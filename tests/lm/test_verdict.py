"""What is recommended is what the table shows, and what answers cannot tell apart is undecided."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeexit.lm.settings import Decoding
from edgeexit.lm.tuning.simulate import CostTable, merged, simulate
from edgeexit.lm.tuning.traces import Trace
from edgeexit.lm.tuning.verdict import SPREAD, WORTH, DecodingVerdict, decide
from lm.made_traces import costs, trace


def decided(seed: int, answers: int, slope: float = 0.08) -> DecodingVerdict:
    return decide([trace(100 * seed + i, n=60) for i in range(answers)], costs(slope=slope))


@pytest.mark.parametrize("seed", range(6))
def test_no_row_of_the_table_is_faster_than_what_is_recommended(seed: int) -> None:
    for slope in (0.02, 0.08, 0.2):
        found = decided(seed, 2 + seed, slope)
        exact = [p for p in found.predictions if not p.simulated.setting.lossy]
        assert [p.speedup for p in exact] == sorted((p.speedup for p in exact), reverse=True)
        if found.setting.method != "greedy":
            assert found.setting == exact[0].simulated.setting
        else:
            assert found.text.startswith(("leave it off", "undecided, so leave it off"))
        for rival in found.undecided:
            (row,) = [p for p in exact if p.simulated.setting == rival]
            assert (
                row.error is not None
                and row.speedup <= exact[0].speedup
                and rival.method != exact[0].simulated.setting.method
            )


def test_methods_that_answers_do_not_tell_apart_are_undecided() -> None:
    """One answer repeats itself and the other does not, so that lookup and an exit win one each."""
    repeats, new = trace(1, n=200), trace(2, n=200)
    ids = np.arange(len(new.ids)) + 1000  # nothing comes twice
    good = np.repeat(ids[new.start :, None], 4, 1)
    bad = repeats.guesses.copy()
    bad[:, :-1] = 999
    alike, other = replace(repeats, guesses=bad), replace(new, ids=ids, guesses=good)
    answers: list[Trace] = [alike, alike, other, other] * 6
    found = decide(answers, costs(slope=0.02))
    assert found.text.startswith("undecided between ") and found.undecided
    assert {found.setting.method, *(s.method for s in found.undecided)} & {"speculative", "del"}
    assert "use the first" in found.text and f"({found.speedup:.2f} times expected)" in found.text
    halves = decide([alike, other], costs(slope=0.02))  # what is fastest on one is slow on the other
    assert halves.text.startswith("undecided, so leave it off") and halves.setting == Decoding()


def test_what_may_be_no_faster_is_left_off() -> None:
    """Three answers lose a little and one gains a lot."""
    base = [trace(i, n=120) for i in range(4)]
    ids = [np.arange(len(t.ids)) + 1000 for t in base]
    answers = []
    for i, (t, own) in enumerate(zip(base, ids, strict=True)):
        guesses = np.full((t.n, 4), 7, np.int64)
        if i == 0:
            guesses[:] = own[t.start :, None]
        guesses[:, -1] = own[t.start :]
        answers.append(replace(t, ids=own, guesses=guesses))
    found = decide(answers, costs(slope=0.02))
    assert found.setting == Decoding() and found.speedup == 1
    assert found.text.startswith(("undecided, so leave it off", "leave it off"))


def test_the_expected_speed_is_of_other_answers() -> None:
    """On noise the fastest row looks better than what choosing it gives."""
    gaps = [
        found.predictions[0].speedup - found.speedup
        for found in (decided(seed, 4, 0.1) for seed in range(12))
        if found.setting.method != "greedy" and not found.predictions[0].simulated.setting.lossy
    ]
    assert gaps and np.mean(gaps) > 0 and min(gaps) > -1e-9


def test_errors_are_of_the_answers() -> None:
    one = decided(3, 1)
    assert not one.held and all(p.error is None for p in one.predictions)
    answers = [trace(i, n=60) for i in range(4)]
    few, many = decide(answers, costs()), decide(answers * 12, costs())
    assert few.held and many.held
    error = {
        name: next(p.error for p in found.predictions if p.simulated.setting == Decoding("speculative", 2, 2, 0.0))
        for name, found in (("few", few), ("many", many))
    }
    assert error["few"] is not None and error["many"] is not None and 0 < error["many"] < error["few"]
    assert next(p for p in many.predictions if p.simulated.setting == Decoding()).error == 0
    assert SPREAD == 2 and WORTH > 1


@pytest.mark.parametrize("setting", [Decoding("lookup"), Decoding("calm", threshold=0.5), Decoding("del")], ids=str)
def test_results_of_several_texts_add_up(setting: Decoding) -> None:
    sheets = [CostTable(trace(seed), costs()) for seed in range(3)]
    whole = simulate(sheets, setting)
    parts = merged([simulate([s], setting) for s in sheets])
    assert parts.seconds == pytest.approx(whole.seconds)
    assert replace(parts, seconds=0.0, agreement=None) == replace(whole, seconds=0.0, agreement=None)
    assert parts.agreement == (None if whole.agreement is None else pytest.approx(whole.agreement))
