"""Measurement of a language model's cost table on this device.

Parts are timed one by one, and whole rounds with the code that decodes: the difference is the host's own work, less
what stays in the processor's caches from step to step.
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeexit.common.environment import environment
from edgeexit.errors import DataError
from edgeexit.lm.costs import Costs
from edgeexit.lm.decoding.base import checked, plain
from edgeexit.lm.decoding.dynamic import DraftChoice
from edgeexit.lm.decoding.lookup import Repeats
from edgeexit.lm.decoding.speculative import speculate
from edgeexit.lm.model import Array, LanguageModel
from edgeexit.lm.sampling import Draft, Greedy, confidence
from edgeexit.lm.session import Session

DRAFTS = (1, 2, 4, 8, 16, 32, 64)
"""Draft lengths of the rounds that are timed."""
UNDISTURBED = 0.25
"""Quantile of times without interruption."""
LONGEST = 1024
"""Longest cache length that is measured; beyond it costs are extrapolated linearly."""
ROW, ROW_SECONDS = 8, 0.03
"""Rounds in a row, fewer if they take long: large networks find nothing in caches after a round."""
CHOICES = 64
"""Repetitions of timing a choice by `del`."""


def measure(
    model: LanguageModel,
    block: int = 9,
    *,
    n: int = 15,
    positions: Sequence[int] | None = None,
    clock: Callable[[], float] | None = None,
    progress: Callable[[int, int], None] = lambda i, n: None,
) -> Costs:
    """Time every part and whole rounds, interleaved, in the way that decoding calls them.

    Args:
        model: on this device, with its threads.
        block: the most tokens at a time: the longest draft and one.
        n: rounds; each times everything once, after one that does not count.
        positions: cache lengths; None = three up to the context, at most 1024.
        clock: seconds. None = processor time where one thread works: what a quiet machine takes, whatever else this one
            does meanwhile; with more threads the time of day.
        progress: called with rounds done and in total.

    Raises:
        DataError: no room for `block` tokens in the context, or no rounds.
    """
    context = model.spec.context
    if n < 1 or block < 1 or block + 1 > context:
        raise DataError(f"{n} rounds of 1..{block} tokens: need at least one, and block below the context {context}")
    far = min(context, LONGEST + block) - block
    places = np.unique(np.asarray([far // 16, far // 2, far] if positions is None else positions, np.int64))
    if places[0] < 0 or places[-1] + block > context:
        raise DataError(f"cache lengths {places.tolist()} with {block} more do not fit into the context {context}")
    clock = clock or (time.thread_time if model.threads == 1 else time.perf_counter)
    times = _Times.empty(n, model.count, block, places)
    bench = _Bench(model, int(places[-1]), clock)
    cases: list[tuple[str, int, int]] = [("pass", p, t) for p in range(len(places)) for t in range(1, block + 1)]
    cases += [("round", k, i) for k, i in times.rounds]
    collecting = gc.isenabled()
    gc.disable()
    began = time.perf_counter(), time.thread_time()
    try:
        for i in range(-1, n):
            at = max(i, 0)
            for case in bench.rng.permutation(len(cases)):
                kind, a, b = cases[case]
                if kind == "pass":
                    times.stages[at, :, b - 1, a], times.heads[at, a, :, b - 1] = bench.passed(int(places[a]), b)
                else:
                    times.played[at, a, b] = bench.round(times.middle, a, times.lengths[b])
            for k in range(model.count):
                times.sure[at, k], times.fills[at, k] = bench.small(int(places[0]), k)
            progress(i + 1, n)
    finally:
        if collecting:
            gc.enable()
    whole, own = time.perf_counter() - began[0], time.thread_time() - began[1]
    busy = max(0.0, 1 - own / whole) if model.threads == 1 else None
    parts = Costs(
        *times.parts(0.5), np.ones((model.count, block)), artifact=model.artifact, threads=model.threads,
        device=environment()["device"], n=n, busy=busy,
    )  # fmt: skip
    costs = times.table(parts)
    return replace(costs, choice=_choice(costs, block - 1, clock))


@dataclass(frozen=True)
class _Times:
    """Measurements, `n` of each."""

    places: Array
    lengths: tuple[int, ...]
    """Drafts of the rounds that were played."""
    stages: Array
    """`(n, exits, block, places)`."""
    heads: Array
    """`(n, places, exits, block)`."""
    sure: Array
    fills: Array
    """`(n, exits)`."""
    played: Array
    """`(n, exits, lengths)`: whole rounds; NaN where an exit has none."""

    @classmethod
    def empty(cls, n: int, exits: int, block: int, places: Array) -> _Times:
        lengths = tuple(sorted({0, *(min(d, block - 1) for d in DRAFTS)}))
        return cls(
            places, lengths, np.zeros((n, exits, block, len(places))), np.zeros((n, len(places), exits, block)),
            np.zeros((n, exits)), np.full((n, exits), np.nan), np.full((n, exits, len(lengths)), np.nan),
        )  # fmt: skip

    @property
    def middle(self) -> int:
        return int(self.places[len(self.places) // 2])

    @property
    def rounds(self) -> list[tuple[int, int]]:
        """Exit and place in `lengths` of every round that there is; 0 drafts are of the last exit only."""
        last = self.played.shape[1] - 1
        return [(k, i) for k in range(last + 1) for i, d in enumerate(self.lengths) if d or k == last]

    def parts(self, q: float) -> tuple[Array, Array, Array, Array, Array]:
        """The first fields of `Costs`, at a quantile."""
        return (
            self.places, np.quantile(self.stages, q, axis=0), np.quantile(self.heads, q, axis=(0, 1)),
            np.quantile(self.sure, q, axis=0), np.quantile(self.fills, q, axis=0),
        )  # fmt: skip

    def table(self, parts: Costs) -> Costs:
        """Medians of the parts, with the play of rounds, all on the level of what rounds took on average.

        A round is long enough to be interrupted where its parts are not, so only undisturbed ones tell its play. But
        a text takes what its rounds take with everything that comes between, which is more than the median.
        """
        block = parts.block
        ratio = np.quantile(self.played, UNDISTURBED, axis=0) / self._sums(self.parts(UNDISTURBED))
        play = np.ones((parts.exits, block))
        for k in range(parts.exits):
            known = np.where(np.isnan(ratio[k]), ratio[-1], ratio[k])
            play[k] = np.interp(np.arange(block), self.lengths, known)
        expected = self._sums(self.parts(0.5)) * play[:, self.lengths]
        level = float(np.nansum(self.played.mean(0)) / expected[~np.isnan(self.played[0])].sum())
        return replace(
            parts, play=play, stages=parts.stages * level, heads=parts.heads * level, sure=parts.sure * level,
            fills=parts.fills * level,
        )  # fmt: skip

    def _sums(self, parts: tuple[Array, Array, Array, Array, Array]) -> Array:
        """`(exits, lengths)` seconds of the parts of every round that was played."""
        _, stages, heads, _, _ = parts
        at, drafts = stages[:, :, len(self.places) // 2], np.array(self.lengths)
        early = np.cumsum(at[:, 0])[:, None]
        late = (at.sum(0) - np.cumsum(at, axis=0))[:, drafts]
        alone = (drafts + 1) * early + drafts * heads[:, :1] + late
        alone[-1] = at.sum(0)[drafts]
        summed: Array = alone + heads[-1, drafts]
        return summed


def _choice(costs: Costs, draft: int, clock: Callable[[], float]) -> float:
    """Seconds of one choice by `del`."""
    if draft < 1 or costs.exits < 2:
        return 0.0
    choice, times = DraftChoice(costs, draft), []
    for i in range(CHOICES):
        before = clock()
        exit, drafts = choice.best(costs.middle + i, draft)
        choice.saw(min(exit, costs.exits - 2), i % 2, max(drafts, 1))
        choice.look(exit)
        times.append(clock() - before)
    return float(np.mean(times))


class _Bench:
    """One session whose cache is set to any length that a measurement needs."""

    def __init__(self, model: LanguageModel, longest: int, clock: Callable[[], float]) -> None:
        model = copy.copy(model)
        model.spec = replace(model.spec, eos=())  # a draft that ends an answer would end its round sooner
        self.model, self.clock = model, clock
        self.rng = np.random.default_rng(0)
        self.session = Session(model)
        for stage in self.session.cache.rows:
            for rows in stage:  # values do not matter for time, but garbage could hold slow or impossible numbers
                rows[:longest] = self.rng.standard_normal((longest, *rows.shape[1:]), np.float32)

    def _start(self, length: int, tokens: int) -> None:
        session = self.session
        session.ids = [0] * length
        session.back(length)
        session.cache.lengths = [length] * self.model.count
        session.mark()
        session.ids.extend(self._tokens(tokens))

    def _tokens(self, count: int) -> list[int]:
        return [int(x) for x in self.rng.integers(0, self.model.spec.vocab, count)]

    def passed(self, length: int, tokens: int) -> tuple[list[float], list[float]]:
        """Seconds of every stage, and then of every head: the full one first, as decoding has it."""
        self._start(length, tokens)
        model, session, clock = self.model, self.session, self.clock
        times = [clock()]
        for k in range(model.count):
            hidden = session.run(k)
            times.append(clock())
        model.logits(hidden).argmax(-1)
        last = clock() - times[-1]
        heads = []
        for k in range(model.count - 1):
            before = clock()
            model.exit_logits(k, session.outputs[k][0]).argmax(-1)
            heads.append(clock() - before)
        return np.diff(times).tolist(), [*heads, last]

    def round(self, length: int, exit: int, drafts: int) -> float:
        """Seconds of a round with drafts of an exit, or copied ones (the last exit), whatever they are.

        In a text such rounds follow one another, and small networks then are a tenth faster than after something else:
        the later half of a few in a row counts.
        """
        seconds: list[float] = []
        while len(seconds) < 2 or (len(seconds) < ROW and sum(seconds) < ROW_SECONDS):
            self._start(length, 1)
            seconds.append(self._round(exit, drafts))
        return float(np.median(seconds[len(seconds) // 2 :]))

    def _round(self, exit: int, drafts: int) -> float:
        model, session, greedy = self.model, self.session, Greedy()
        copied, table = self._tokens(drafts), Repeats(3)
        table.propose(session.ids, drafts)  # what stood before this round is known
        before = self.clock()
        if drafts == 0:
            plain(model, greedy, session)
        elif exit < model.count - 1:
            speculate(model, greedy, session, exit, drafts, 0.0)
        else:
            table.propose(session.ids, drafts)
            session.mark()
            start = len(session.ids)
            session.ids.extend(copied)
            checked(model, greedy, session, start, [Draft(t) for t in copied], exit)
        return self.clock() - before

    def small(self, length: int, k: int) -> tuple[float, float]:
        """Seconds of one confidence, and of stand-ins for one token of stage k; NaN where there are none."""
        self._start(length, 1)
        model, session = self.model, self.session
        for stage in range(k + 1):
            hidden = session.run(stage)
        logits = model.exit_logits(k, hidden)[0] if k < model.count - 1 else model.logits(hidden)[0]
        before = self.clock()
        confidence(logits)
        sure = self.clock() - before
        if k not in model.parts.keys_values:
            return sure, float("nan")
        session.cache.lengths[k] = length
        before = self.clock()
        model.fill(k, hidden, session.cache)
        return sure, self.clock() - before
