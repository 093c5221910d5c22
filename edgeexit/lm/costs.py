"""What each part of a language model takes on this device: stages by tokens at a time and by tokens before, and heads.

Measured, because nothing else tells: five tokens together cost 1.2 times one in float and twice one in int4.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeexit.environment import environment
from edgeexit.errors import DataError
from edgeexit.lm.model import Array, LanguageModel
from edgeexit.lm.sampling import sureness
from edgeexit.lm.session import Session

SCHEMA = 1
_ARRAYS = ("positions", "stages", "heads", "sure", "fills", "play")
DRAFTS = (1, 2, 4, 8, 16, 32, 64)
"""Lengths of the rounds that are played."""
UNDISTURBED = 0.25
"""Quantile of times that nothing came between."""
BUSY = 0.15
"""Share of other work beyond which times are doubtful."""
LONGEST = 1024
"""Cache lengths beyond are not measured but carried on in a straight line."""


@dataclass(frozen=True, eq=False)
class Costs:
    """Seconds, typical ones."""

    positions: Array
    """`(P,)` cache lengths that were measured, rising."""
    stages: Array
    """`(exits, block, P)`: stage k over T = 1..block new tokens."""
    heads: Array
    """`(exits, block)`: exit k's head over T hidden states and the first guess of each; the last is the full head's."""
    sure: Array
    """`(exits,)`: one sureness of exit k's logits."""
    fills: Array
    """`(exits,)`: stand-in keys and values of stage k for one token; NaN where the artifact has none."""
    play: Array
    """`(exits - 1, block)`: a whole round with 0, 1, ... drafts of exit k, over the sum of its parts. Early stages that
    run again and again stay in the processor's caches."""
    artifact: str = ""
    threads: int = 1
    device: str | None = None
    n: int = 0
    """Times that each was measured."""
    busy: float | None = None
    """Share of that time in which the processor did something else, so that caches were not ours alone. None = unknown,
    as with several threads."""

    def __post_init__(self) -> None:
        """Raises: DataError for arrays that do not fit together, or times that are none."""
        exits, block, count = self.stages.shape if self.stages.ndim == 3 else (0, 0, 0)
        shapes = {"positions": (count,), "heads": (exits, block), "sure": (exits,), "fills": (exits,),
                  "play": (exits - 1, block)}  # fmt: skip
        wrong = [n for n, shape in shapes.items() if getattr(self, n).shape != shape]
        if not exits or not count or wrong:
            raise DataError(f"costs: {(wrong or ['stages'])[0]} has an unexpected shape; measure them again")
        times = (self.stages, self.heads, self.sure, self.play)
        if (
            not all(np.isfinite(a).all() and (a >= 0).all() for a in times)
            or (self.stages <= 0).any()
            or (self.play <= 0).any()
            or not (np.isnan(self.fills) | (np.isfinite(self.fills) & (self.fills >= 0))).all()
        ):
            raise DataError("costs: times must be finite and above 0; measure them again")
        if not np.isfinite(self.positions).all() or (np.diff(self.positions) <= 0).any() or self.positions[0] < 0:
            raise DataError("costs: positions must rise from at least 0")
        object.__setattr__(self, "_rounds", {})

    @property
    def exits(self) -> int:
        return int(self.stages.shape[0])

    @property
    def block(self) -> int:
        """The most tokens at a time."""
        return int(self.stages.shape[1])

    @property
    def middle(self) -> int:
        """A cache length in the middle of those measured."""
        return int(self.positions[len(self.positions) // 2])

    def along(self, done: Array) -> Array:
        """Stages' seconds at cache lengths `(n,)`: `(exits, block, n)`; linear between and beyond those measured."""
        at, known = np.asarray(done, np.float64), self.positions.astype(np.float64)
        if len(known) == 1:
            return np.repeat(self.stages, len(at), axis=2)
        low = np.clip(np.searchsorted(known, at, side="right") - 1, 0, len(known) - 2)
        share = (at - known[low]) / (known[low + 1] - known[low])
        found = self.stages[:, :, low] * (1 - share) + self.stages[:, :, low + 1] * share
        limited: Array = np.maximum(found, self.stages.min(axis=2, keepdims=True) / 2)
        return limited

    def rounds(self, done: int, draft: int) -> Array:
        """`(exits - 1, draft + 1)` seconds of a round with 0..draft drafts of each early exit; 0 = plain decoding.

        Raises:
            DataError: more drafts than were measured.
        """
        if draft + 1 > self.block:
            raise DataError(f"{draft} drafts need costs of {draft + 1} tokens at a time; measured: {self.block}")
        key = (done // 32, draft)
        known: dict[tuple[int, int], Array] = self._rounds  # type: ignore[attr-defined]
        if key not in known:
            stages = self.along(np.array([done // 32 * 32 + 16]))[:, : draft + 1, 0]
            early = np.cumsum(stages[:-1, 0])[:, None]
            late = (stages.sum(0) - np.cumsum(stages, axis=0))[:-1]
            drafts = np.arange(draft + 1)
            parts = (drafts + 1) * early + drafts * self.heads[:-1, :1] + late + self.heads[-1, : draft + 1]
            known[key] = parts * self.play[:, : draft + 1]
        return known[key]

    def check(self, model: LanguageModel, block: int) -> None:
        """Raises: DataError if they are another artifact's or of too few tokens at a time."""
        if self.exits != model.count or self.artifact != model.artifact or self.threads != model.threads:
            raise DataError(
                f"costs of {self.artifact or 'another artifact'} with {self.exits} exits and {self.threads} threads; "
                f"this is {model.artifact} with {model.count} and {model.threads}: measure again"
            )
        if self.block < block:
            raise DataError(f"costs reach to {self.block} tokens at a time, {block} are needed: measure again")

    def to_dict(self) -> dict[str, Any]:
        """JSON, for a file."""
        arrays = {n: getattr(self, n).tolist() for n in ("positions", "stages", "heads", "sure", "play")}
        fills = [None if np.isnan(f) else float(f) for f in self.fills]
        other = {"artifact": self.artifact, "threads": self.threads, "device": self.device, "n": self.n,
                 "busy": self.busy}  # fmt: skip
        return {"schema": SCHEMA, **other, **arrays, "fills": fills}

    @classmethod
    def from_dict(cls, data: Any) -> Costs:
        """Raises: DataError for anything but what `to_dict` gives."""
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise DataError(f"not a cost table of schema {SCHEMA}; `edgeexit simulate --save-costs` writes one")
        try:
            arrays = {n: np.asarray(data[n], np.float64) for n in _ARRAYS}
            if not data["play"]:  # a network without early exits plays no rounds
                arrays["play"] = np.zeros((0, arrays["heads"].shape[-1]))
            return cls(
                artifact=str(data["artifact"]), threads=int(data["threads"]), n=int(data["n"]),
                device=None if data["device"] is None else str(data["device"]),
                busy=None if data["busy"] is None else float(data["busy"]), **arrays,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, OverflowError, IndexError) as e:
            raise DataError(f"damaged cost table ({type(e).__name__}: {e}); measure again") from e


def measure(
    model: LanguageModel,
    block: int = 9,
    *,
    n: int = 15,
    positions: Sequence[int] | None = None,
    quantile: float = 0.5,
    clock: Callable[[], float] | None = None,
    progress: Callable[[int, int], None] = lambda i, n: None,
) -> Costs:
    """Time every part, interleaved, in the way that decoding calls it.

    Args:
        model: on this device, with its threads.
        block: the most tokens at a time: the longest draft and one.
        n: rounds; each times everything once, after one that does not count.
        positions: cache lengths; None = three up to the context, at most 1024.
        quantile: of the n times; 0.5 = the median, 0 = the least, for a machine that does other things too.
        clock: seconds. None = processor time where one thread works: what a quiet machine takes, whatever else this one
            does meanwhile; with more threads the time of day.
        progress: told rounds done and all.

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
    exits = model.count
    stages = np.zeros((n, exits, block, len(places)))
    heads, sure, fills = np.zeros((n, len(places), exits, block)), np.zeros((n, exits)), np.full((n, exits), np.nan)
    lengths = sorted({min(d, block - 1) for d in DRAFTS} - {0})
    played = np.zeros((n, exits - 1, len(lengths)))
    clock = clock or (time.thread_time if model.threads == 1 else time.perf_counter)
    bench = _Bench(model, int(places[-1]), clock)
    cases: list[tuple[str, int, int]] = [("pass", p, t) for p in range(len(places)) for t in range(1, block + 1)]
    cases += [("round", k, i) for k in range(exits - 1) for i in range(len(lengths))]
    collecting = gc.isenabled()
    gc.disable()
    began = time.perf_counter(), time.thread_time()
    try:
        for i in range(-1, n):
            at = max(i, 0)
            for case in bench.rng.permutation(len(cases)):
                kind, a, b = cases[case]
                if kind == "pass":
                    stages[at, :, b - 1, a], heads[at, a, :, b - 1] = bench.passed(int(places[a]), b)
                else:
                    played[at, a, b] = bench.round(int(places[len(places) // 2]), a, lengths[b])
            for k in range(exits):
                sure[at, k], fills[at, k] = bench.small(int(places[0]), k)
            progress(i + 1, n)
    finally:
        if collecting:
            gc.enable()
    whole, own = time.perf_counter() - began[0], time.thread_time() - began[1]
    busy = max(0.0, 1 - own / whole) if model.threads == 1 else None

    def table(q: float, played_too: Array) -> Costs:
        return Costs(
            places, np.quantile(stages, q, axis=0), np.quantile(heads, q, axis=(0, 1)), np.quantile(sure, q, axis=0),
            np.quantile(fills, q, axis=0), played_too, model.artifact, model.threads, environment()["device"], n, busy,
        )  # fmt: skip

    # a round is long enough to be interrupted where its parts are not: only undisturbed ones may be compared
    ratio = _play(table(UNDISTURBED, np.ones((exits - 1, block))), lengths, np.quantile(played, UNDISTURBED, axis=0))
    return table(quantile, ratio)


class _Bench:
    """One session whose cache is taken for full up to where a measurement wants it."""

    def __init__(self, model: LanguageModel, longest: int, clock: Callable[[], float]) -> None:
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
        session.ids.extend(int(x) for x in self.rng.integers(0, self.model.spec.vocab, tokens))

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
            model.exit_logits(k, session.given[k][0]).argmax(-1)
            heads.append(clock() - before)
        return np.diff(times).tolist(), [*heads, last]

    def round(self, length: int, exit: int, drafts: int) -> float:
        """Seconds of a round of self-speculation, whatever the guesses."""
        self._start(length, 1)
        model, session = self.model, self.session
        before = self.clock()
        for _ in range(drafts):
            token = int(model.exit_logits(exit, session.run(exit))[-1].argmax())
            session.ids.append(token % model.spec.vocab)
        model.logits(session.run(model.count - 1)).argmax(-1)
        return self.clock() - before

    def small(self, length: int, k: int) -> tuple[float, float]:
        """Seconds of one sureness, and of stand-ins for one token of stage k; NaN where there are none."""
        self._start(length, 1)
        model, session = self.model, self.session
        for stage in range(k + 1):
            hidden = session.run(stage)
        logits = model.exit_logits(k, hidden)[0] if k < model.count - 1 else model.logits(hidden)[0]
        before = self.clock()
        sureness(logits)
        sure = self.clock() - before
        if k not in model.parts.keys_values:
            return sure, float("nan")
        session.cache.lengths[k] = length
        before = self.clock()
        model.fill(k, hidden, session.cache)
        return sure, self.clock() - before


def _play(found: Costs, lengths: Sequence[int], played: Array) -> Array:
    """Rounds as they were played, over the sum of their parts; in straight lines between the lengths measured."""
    drafts = np.arange(found.block)
    parts = found.rounds(found.middle, found.block - 1)
    ratio = np.ones_like(parts)
    for k in range(len(parts)):
        known = played[k] / parts[k, lengths] if lengths else []
        ratio[k, 1:] = np.interp(drafts[1:], lengths, known) if lengths else 1.0
    return ratio
