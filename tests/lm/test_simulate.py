"""The simulator against a replay that goes token by token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeexit.bundle.lm_spec import LmProof
from edgeexit.errors import DataError
from edgeexit.lm.costs import Costs
from edgeexit.lm.settings import Decoding
from edgeexit.lm.tuning.simulate import CostTable, Simulated, simulate
from edgeexit.lm.tuning.traces import Trace
from edgeexit.lm.tuning.verdict import break_even, decide
from lm.made_traces import costs, trace

CASES = [trace(seed, room=room, end=end) for seed, room, end in ((1, 0, None), (2, 7, 4), (3, 60, 4), (4, 0, None))]


class Replay:
    """Plays speculation token by token, from the trace and single times only."""

    def __init__(self, found: Trace, table: Costs) -> None:
        self.t, self.c = found, table
        self.seconds = 0.0
        self.rounds = self.drafted = self.accepted = 0

    def stage(self, k: int, tokens: int, row: int) -> None:
        at = self.t.start - 1 + row
        self.seconds += float(np.interp(at, self.c.positions, self.c.stages[k, tokens - 1]))

    def play(self, exit: int, most: int, threshold: float) -> Replay:
        t, c, exits = self.t, self.c, self.c.exits
        answer = t.ids[t.start :].tolist()
        row = 0
        while row < t.n:
            self.rounds += 1
            most_now = min(most, t.limit - row - 1)
            drafts: list[int] = []
            ran = 0
            before, sures = self.seconds, 0.0
            while len(drafts) < most_now:
                at = row + len(drafts)
                for k in range(exit + 1):
                    self.stage(k, 1, at)
                ran += 1
                self.seconds += c.heads[exit, 0]
                if threshold > 0:
                    sures += c.sure[exit]
                if at < t.n and threshold > 0 and t.sure[at, exit] < threshold:
                    break
                drafts.append(int(t.guesses[at, exit]) if at < t.n else -1)
                if drafts[-1] in t.ends:
                    break
            while ran < len(drafts) + 1:  # the last draft has to go through the early stages too
                for k in range(exit + 1):
                    self.stage(k, 1, row + ran)
                ran += 1
            for k in range(exit + 1, exits):
                self.stage(k, len(drafts) + 1, row)
            self.seconds += c.heads[-1, len(drafts)]
            if most_now:
                self.seconds = before + (self.seconds - before) * c.play[exit, len(drafts)] + sures
            else:
                self.seconds = before + (self.seconds - before) * c.play[-1, 0]
            stand = 0
            while stand < len(drafts) and row + stand < t.n and drafts[stand] == answer[row + stand]:
                stand += 1
            self.drafted += len(drafts)
            self.accepted += stand
            row += stand + 1
        return self


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("most", [1, 3, 8])
@pytest.mark.parametrize("exit", [0, 2])
def test_speculation_is_the_replay(exit: int, most: int, threshold: float) -> None:
    table = costs()
    for found in CASES:
        played = Replay(found, table).play(exit, most, threshold)
        got = simulate([CostTable(found, table)], Decoding("speculative", exit, most, threshold))
        assert (got.rounds, got.drafted, got.accepted) == (played.rounds, played.drafted, played.accepted)
        assert got.seconds == pytest.approx(played.seconds, rel=1e-9)
        assert got.tokens == found.n


def test_a_threshold_of_one_is_plain_decoding_with_a_head_more() -> None:
    table = costs()
    got = simulate([CostTable(CASES[0], table)], Decoding("speculative", 1, 4, 1.0))
    plain = simulate([CostTable(CASES[0], table)], Decoding())
    assert got.rounds == plain.rounds == CASES[0].n and got.drafted == 0
    assert got.seconds > plain.seconds


def test_plain_decoding_is_the_sum_of_its_parts() -> None:
    table, found = costs(), CASES[0]
    got = simulate([CostTable(found, table)], Decoding())
    at = found.start - 1 + np.arange(found.n)
    want = (
        sum(np.interp(at, table.positions, table.stages[k, 0]).sum() for k in range(4)) + found.n * table.heads[-1, 0]
    )
    assert got.seconds == pytest.approx(want * table.play[-1, 0])


def test_lookup_finds_what_repeats() -> None:
    table, period = costs(), 6
    ids = np.tile(np.arange(3, 3 + period), 10)
    guesses = np.repeat(ids[12:, None], 4, 1)
    found = Trace(ids, 12, len(guesses), guesses, np.ones(guesses.shape, np.float32))
    got = simulate([CostTable(found, table)], Decoding("lookup", draft=5, ngram=3))
    assert got.acceptance == 1 and got.rounds == found.n / 6
    different = np.arange(3, 3 + 60)
    guesses = np.repeat(different[12:, None], 4, 1)
    found = Trace(different, 12, len(guesses), guesses, np.ones(guesses.shape, np.float32))
    got = simulate([CostTable(found, table)], Decoding("lookup", draft=5, ngram=3))
    assert got.drafted == 0 and got.rounds == found.n


def test_del_is_near_the_best_fixed_setting() -> None:
    table = costs(slope=0.02)
    cost_tables = [CostTable(trace(seed, n=400), table) for seed in range(4)]
    fixed = max(
        simulate(cost_tables, Decoding("speculative", e, k)).tokens_per_second for e in range(3) for k in range(1, 9)
    )
    plain = simulate(cost_tables, Decoding()).tokens_per_second
    assert fixed > 1.1 * plain
    assert simulate(cost_tables, Decoding("del", draft=8)).tokens_per_second > 0.95 * fixed


def test_del_leaves_it_off_where_nothing_pays() -> None:
    table = costs(slope=1.0)  # five tokens together cost five times one
    got = simulate([CostTable(found, table) for found in CASES], Decoding("del", draft=8))
    assert got.drafted == 0


def test_calm_counts_what_waits() -> None:
    table, found = costs(), CASES[0]
    cost_table = CostTable(found, table)
    never = simulate([cost_table], Decoding("calm", threshold=1.0, decay=0.0))
    assert never.exits == (0, 0, 0, found.n) and never.agreement == 1
    always = simulate([cost_table], Decoding("calm", threshold=0.0))
    assert always.exits == (found.n, 0, 0, 0)
    assert always.agreement == found.agree[:, 0].mean()
    repaired = simulate([cost_table], Decoding("calm", threshold=0.0, repair=True))
    assert repaired.exits[0] < found.n  # more than so many may not wait
    with pytest.raises(DataError, match="no kv parts"):
        simulate([CostTable(found, costs(fills=False))], Decoding("calm"))


def test_skip_costs_what_its_stages_cost() -> None:
    table, found = costs(), CASES[0]
    full = simulate([CostTable(found, table)], Decoding("skip", exit=3))
    assert full.seconds == pytest.approx(simulate([CostTable(found, table)], Decoding()).seconds)
    assert simulate([CostTable(found, table)], Decoding("skip", exit=1)).seconds < full.seconds


@pytest.mark.parametrize(
    "wrong",
    [
        Decoding("speculative", 3),
        Decoding("speculative", 0, 9),
        Decoding("skip", exit=0),
        Decoding("calm", confidence="state"),  # only the largest probability is recorded
    ],
    ids=str,
)
def test_refusals(wrong: Decoding) -> None:
    with pytest.raises(DataError):
        simulate([CostTable(CASES[0], costs())], wrong)
    with pytest.raises(DataError, match="no recorded text"):
        simulate([], Decoding())
    with pytest.raises(DataError, match="exits"):
        CostTable(CASES[0], costs(exits=3))


def test_verdicts() -> None:
    dear, cheap = costs(slope=1.0), costs(slope=0.02)
    hopeless = [replace(t, ids=np.arange(len(t.ids)), guesses=_only_last_right(t)) for t in CASES[:1] + CASES[3:]]
    found = decide(hopeless, dear)
    assert found.text.startswith("leave it off") and found.setting == Decoding() and found.speedup == 1
    good = decide([trace(seed, n=300) for seed in range(4)], cheap, proof=proof(9))
    assert good.setting.method in ("speculative", "del", "lookup") and good.speedup > 1.1
    assert "may differ" not in good.text and f"{good.speedup:.2f} times" in good.text and good.held
    assert not decide([trace(1, n=300)], cheap).held


def test_verdicts_say_what_was_not_proved_and_what_to_do() -> None:
    cheap, text = costs(slope=0.0), [trace(seed, n=300) for seed in range(4)]
    block = decide(text, cheap).setting.block
    assert block > 3
    few = decide(text, cheap, proof=proof(3)).text
    assert "up to 3 tokens together were compared on export" in few and f"again with --block {block}" in few
    assert "Within the proof: " in few and "nobody" not in few
    assert f"export again with --text FILE --block {block}" in decide(text, cheap).text
    changed = decide(text, cheap, proof=proof(9, flips=2)).text
    assert "2 of 40 tokens changed" in changed and "Within" not in changed


def proof(block: int, flips: int = 0) -> LmProof:
    return LmProof("approximate" if flips else "verified", 40, block, 1e-5, flips, 1e-3)


def _only_last_right(found: Trace) -> np.ndarray:
    answer = np.arange(len(found.ids))[found.start :, None]
    guesses = np.repeat(answer + 1000, found.guesses.shape[1], 1)
    guesses[:, -1:] = answer
    return guesses


def test_break_even_is_where_the_simulator_breaks_even() -> None:
    table = costs()
    needed = break_even(table, 0)
    assert needed is not None and 0.1 < needed < 0.9
    rng = np.random.default_rng(0)
    speeds = []
    for share in (needed - 0.05, needed + 0.05):
        base = trace(0, n=2000)
        guesses = base.guesses.copy()
        guesses[:, 0] = np.where(rng.random(base.n) < share, base.guesses[:, -1], 999)
        flat = Costs(
            table.positions, np.repeat(table.stages[:, :, 1:2], 3, 2), table.heads, table.sure, table.fills, table.play
        )
        cost_table = CostTable(replace(base, guesses=guesses, limit=5000), flat)
        plain = simulate([cost_table], Decoding()).tokens_per_second
        speeds.append(max(_speed(cost_table, k) for k in range(1, 9)) / plain)
    assert speeds[0] < 1 < speeds[1]
    assert break_even(costs(slope=3.0), 2, speed=2.0) is None


def _speed(cost_table: CostTable, draft: int) -> float:
    found: Simulated = simulate([cost_table], Decoding("speculative", 0, draft))
    return found.tokens_per_second


def test_a_network_without_early_exits_can_look_up() -> None:
    found = decide([trace(seed, exits=1) for seed in range(3)], costs(exits=1, slope=0.02), proof=proof(9))
    assert {p.simulated.setting.method for p in found.predictions} == {"greedy", "lookup"}
    assert found.setting.method == "lookup" and "by exits" not in found.text
