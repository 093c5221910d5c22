"""Simulation of decoding settings on recorded traces: rounds and seconds of each.

Rounds and accepted drafts are exact for greedy speculation and prompt lookup on artifacts whose answers do not depend
on how many tokens go together. Two things are estimates: drafts after a wrong one, where drafting ends by a threshold
or an end token (what was recorded on the right text stands in for it); and lossy methods, which would have gone on with
another text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeexit.errors import DataError
from edgeexit.lm.costs import Costs
from edgeexit.lm.decoding.calm import WAITING, threshold_at
from edgeexit.lm.decoding.dynamic import DraftChoice
from edgeexit.lm.decoding.lookup import Repeats
from edgeexit.lm.decoding.skip import WARM, stages_at
from edgeexit.lm.model import Array
from edgeexit.lm.settings import Decoding
from edgeexit.lm.tuning.traces import Trace


@dataclass(frozen=True)
class Simulated:
    """Result of a setting on recorded text."""

    setting: Decoding
    tokens: int
    seconds: float
    rounds: int
    drafted: int
    accepted: int
    exits: tuple[int, ...]
    """Rounds by the exit that drafted or answered."""
    agreement: float | None = None
    """Lossy ones: share of tokens that would have been plain decoding's, on its text; None = the text is the same, or
    unknown (skip)."""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def acceptance(self) -> float | None:
        return self.accepted / self.drafted if self.drafted else None


def merged(parts: Sequence[Simulated]) -> Simulated:
    """One setting's results on several texts, as one; at least one part."""
    shares = [(p.agreement, p.tokens) for p in parts]
    tokens = sum(p.tokens for p in parts)
    agreement = sum(share * n for share, n in shares if share is not None) / tokens
    return Simulated(
        parts[0].setting, tokens, sum(p.seconds for p in parts), sum(p.rounds for p in parts),
        sum(p.drafted for p in parts), sum(p.accepted for p in parts),
        tuple(map(sum, zip(*(p.exits for p in parts), strict=True))),
        None if any(share is None for share, _ in shares) else agreement,
    )  # fmt: skip


class CostTable:
    """Seconds at the positions of one trace, summed for every kind of round."""

    def __init__(self, trace: Trace, costs: Costs) -> None:
        """Raises: DataError for a trace of another number of exits."""
        if trace.guesses.shape[1] != costs.exits:
            raise DataError(f"a trace of {trace.guesses.shape[1]} exits, costs of {costs.exits}")
        self.trace, self.costs = trace, costs
        # row p of the answer is computed with start - 1 + p positions before it
        self.stages = costs.along(trace.start - 1 + np.arange(trace.n + costs.block + 1))
        """`(exits, block, rows)`."""
        self.early = np.cumsum(self.stages, axis=0)
        """Of stages 0..k, T tokens together."""
        self.whole = (self.early[-1] + costs.heads[-1][:, None]) * costs.play[-1][:, None]
        """`(block, rows)`: a round of the whole network and the full head over drafts that cost nothing."""
        one_by_one = np.cumsum(self.early[:, 0], axis=1)
        self.summed = np.concatenate([np.zeros((costs.exits, 1)), one_by_one], axis=1)
        """`(exits, rows + 1)`: stages 0..k, one token at a time, over all rows before."""
        self.agree = trace.agree
        self._steps: dict[tuple[int, float], tuple[list[int], list[int]]] = {}
        self._streaks: dict[int, list[int]] = {}

    def streak(self, exit: int) -> list[int]:
        """Per row, how many guesses from there on are right."""
        if exit not in self._streaks:
            self._streaks[exit] = _runs(self.agree[:, exit])
        return self._streaks[exit]

    def steps(self, exit: int, threshold: float) -> tuple[list[int], list[int]]:
        """Per row, how many guesses come before the next unsure one, and before the next end token."""
        key = (exit, threshold)
        if key not in self._steps:
            far = self.trace.n + self.costs.block + 1  # beyond the recorded rows nothing is unsure and nothing ends
            sure = self.trace.sure[:, exit] >= threshold
            going = ~np.isin(self.trace.guesses[:, exit], self.trace.ends)
            self._steps[key] = (_runs(sure, far), _runs(going, far))
        return self._steps[key]

    def speculated(self, row: int, exit: int, most: int, threshold: float) -> tuple[int, int, float]:
        """Drafts, how many of them stand, and seconds of one round."""
        costs = self.costs
        unsure, ending = self.steps(exit, threshold)
        room = min(most, ending[row] + 1)
        asked = drafts = room
        if threshold > 0 and unsure[row] < room:
            drafts, asked = unsure[row], unsure[row] + 1
        stand = min(drafts, self.streak(exit)[row])
        block = drafts + 1
        if block > costs.block:
            raise DataError(f"{block} tokens at a time; costs were measured up to {costs.block}")
        late = self.early[-1, drafts, row] - self.early[exit, drafts, row]
        seconds = self.summed[exit, row + block] - self.summed[exit, row] + late + costs.heads[-1, drafts]
        seconds = (seconds + asked * costs.heads[exit, 0]) * costs.play[exit, drafts]
        if threshold > 0:
            seconds += asked * costs.sure[exit]
        return drafts, stand, float(seconds)


def simulate(cost_tables: Sequence[CostTable], setting: Decoding) -> Simulated:
    """Simulate one setting on all traces.

    Raises:
        DataError: no traces, an exit that is not there, longer drafts than the costs know, stand-ins that the artifact
            does not have, or a confidence that was not recorded.
    """
    if not cost_tables:
        raise DataError("no recorded text to simulate on")
    exits = cost_tables[0].costs.exits
    early = setting.method in ("speculative", "calm")
    if early and setting.exit is not None and not 0 <= setting.exit < exits - (setting.method == "speculative"):
        raise DataError(f"exit {setting.exit}: there are early exits 0..{exits - 2}")
    if setting.method == "calm" and setting.confidence != "maxprob":
        raise DataError(f"{setting}: answers are recorded with the largest probability only, confidence maxprob")
    if setting.block > cost_tables[0].costs.block:
        raise DataError(f"{setting}: costs were measured up to {cost_tables[0].costs.block} tokens at a time")
    tally = _Tally(exits)
    for cost_table in cost_tables:
        _METHODS[setting.method](cost_table, setting, tally)
    agreement = None if tally.same is None else tally.same / tally.tokens
    return Simulated(
        setting, tally.tokens, tally.seconds, tally.rounds, tally.drafted, tally.accepted, tuple(tally.exits), agreement
    )


class _Tally:
    def __init__(self, exits: int) -> None:
        self.tokens = self.rounds = self.drafted = self.accepted = 0
        self.seconds = 0.0
        self.exits = [0] * exits
        self.same: int | None = None

    def add(self, exit: int, seconds: float, drafted: int = 0, accepted: int = 0) -> None:
        self.rounds += 1
        self.exits[exit] += 1
        self.seconds += float(seconds)
        self.drafted += drafted
        self.accepted += accepted


def _greedy(cost_table: CostTable, setting: Decoding, tally: _Tally) -> None:
    for row in range(cost_table.trace.n):
        tally.add(-1, cost_table.whole[0, row])
    tally.tokens += cost_table.trace.n


def _speculative(cost_table: CostTable, setting: Decoding, tally: _Tally) -> None:
    assert setting.exit is not None
    n, row = cost_table.trace.n, 0
    while row < n:
        most = min(setting.draft, cost_table.trace.limit - row - 1)
        if most < 1:
            tally.add(-1, cost_table.whole[0, row])
            row += 1
            continue
        drafts, stand, seconds = cost_table.speculated(row, setting.exit, most, setting.sure)
        tally.add(setting.exit, seconds, drafts, stand)
        row += stand + 1
    tally.tokens += n


def _lookup(cost_table: CostTable, setting: Decoding, tally: _Tally) -> None:
    trace, row = cost_table.trace, 0
    ids = trace.ids.tolist()
    table = Repeats(setting.ngram)
    while row < trace.n:
        at = trace.start + row
        drafts = table.propose(ids[:at], min(setting.draft, trace.limit - row - 1), trace.ends)
        right = ids[at : at + len(drafts)]
        stand = next((i for i, (a, b) in enumerate(zip(drafts, right, strict=False)) if a != b), len(right))
        tally.add(-1, cost_table.whole[len(drafts), row], len(drafts), stand)
        row += stand + 1
    tally.tokens += trace.n


def _del(cost_table: CostTable, setting: Decoding, tally: _Tally) -> None:
    trace, row = cost_table.trace, 0
    choice = DraftChoice(cost_table.costs, setting.draft)
    while row < trace.n:
        exit, draft = choice.best(trace.start - 1 + row, trace.limit - row - 1)
        if draft == 0:
            drafts, stand, seconds = 0, 0, float(cost_table.whole[0, row])
            tally.add(-1, seconds)
        else:
            drafts, stand, seconds = cost_table.speculated(row, exit, draft, setting.sure)
            tally.add(exit, seconds, drafts, stand)
            choice.saw(exit, stand, min(stand + 1, drafts))
        tally.seconds += cost_table.costs.choice
        other = choice.look(exit if draft else None)
        if other is not None:
            rows = cost_table.agree[row : row + stand + 1, other]
            choice.saw(other, int(rows.sum()), len(rows))
            tally.seconds += float(cost_table.costs.heads[other, stand])
        row += stand + 1
    tally.tokens += trace.n


def _calm(cost_table: CostTable, setting: Decoding, tally: _Tally) -> None:
    costs, trace, last = cost_table.costs, cost_table.trace, cost_table.costs.exits - 1
    if not setting.repair and np.isnan(costs.fills[1:]).any():
        raise DataError("this artifact has no kv parts for stand-ins: simulate calm with repair")
    waiting = [0] * costs.exits
    tally.same = tally.same or 0
    for row in range(trace.n):
        wanted = threshold_at(setting, row, trace.limit)
        exit, seconds = last, 0.0
        for k in range(last):
            seconds += _together(cost_table.stages[k], waiting[k] + 1, row)
            waiting[k], waiting[k + 1] = 0, waiting[k + 1] + waiting[k]
            if k < (setting.exit or 0):
                continue
            seconds += costs.heads[k, 0] + costs.sure[k]
            if trace.sure[row, k] >= wanted and not (setting.repair and waiting[k + 1] + 1 > WAITING):
                exit = k
                break
        if exit == last:
            seconds += _together(cost_table.stages[last], waiting[last] + 1, row) + costs.heads[last, 0]
            waiting[last] = 0
        elif setting.repair:
            waiting[exit + 1] += 1
        else:
            seconds += costs.fills[exit + 1 :].sum()
        tally.same += bool(cost_table.agree[row, exit])
        tally.add(exit, seconds * costs.play[-1, 0])
    tally.tokens += trace.n


def _skip(cost_table: CostTable, setting: Decoding, tally: _Tally) -> None:
    trace, exits = cost_table.trace, cost_table.costs.exits
    least = max(2, exits // 2) if setting.exit is None else setting.exit + 1
    if not WARM < least <= exits:
        raise DataError(f"skip runs the first and the last stage at least: exit {least - 1} of {exits} stages")
    for row in range(trace.n):
        active = stages_at(row, trace.limit, exits, least)
        run = [*range(WARM), *range(exits - (active - WARM), exits)]
        seconds = cost_table.stages[run, 0, row].sum() + cost_table.costs.heads[-1, 0]
        tally.add(-1, seconds * cost_table.costs.play[-1, 0])
    tally.tokens += trace.n


_METHODS: dict[str, Callable[[CostTable, Decoding, _Tally], None]] = {
    "greedy": _greedy, "speculative": _speculative, "lookup": _lookup, "del": _del, "calm": _calm, "skip": _skip,
}  # fmt: skip


def _together(stage: Array, tokens: int, row: int) -> float:
    """Seconds of a stage over so many tokens; beyond what was measured, in a straight line."""
    block = len(stage)
    if tokens <= block:
        return float(stage[tokens - 1, row])
    slope = (stage[-1, row] - stage[0, row]) / max(block - 1, 1)
    return float(stage[-1, row] + (tokens - block) * max(slope, 0.0))


def _runs(true: Array, far: int = 0) -> list[int]:
    """Per row, how many rows from there on are true; those beyond the last count `far`."""
    runs, following = [0] * len(true), far
    for i in range(len(true) - 1, -1, -1):
        following = following + 1 if true[i] else 0
        runs[i] = following
    return runs
