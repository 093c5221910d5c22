"""Batched decoding of several prompts, one token of each per step: plain decoding, or SkipDecode's schedule.

Shorter prompts are padded on the left with rows that the mask hides. Speculation accepts a different number of tokens
of every sequence in every round, so batches do not support it; a schedule by position is the same for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from edgeexit.errors import DataError
from edgeexit.lm.cache import Cache
from edgeexit.lm.decoding import Schedule
from edgeexit.lm.generate import Generation, Piece, Reason
from edgeexit.lm.model import Array, LanguageModel, NonFiniteLogits
from edgeexit.lm.sampling import Chooser, Greedy
from edgeexit.lm.session import Session, check_prompt
from edgeexit.lm.settings import Decoding
from edgeexit.lm.text.tokenizer import Text, Writing

METHODS = ("greedy", "skip")
MOST = 1024
"""Prompts."""


class AnswerBatch:
    """Answers in progress: iterate over `(number of the prompt, piece)`, then ask for the `results`."""

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        setting: Decoding | None = None,
        *,
        max_tokens: int = 128,
        choosers: Sequence[Chooser] | None = None,
        text: Text | None = None,
        stops: Sequence[str] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Nothing is computed before the first piece.

        Args:
            model: the model.
            prompts: token ids of each, at least one.
            setting: `greedy` or `skip`; None = plain decoding.
            max_tokens: the most new tokens of each.
            choosers: sampling strategy of each; None = the most probable token.
            text: the tokenizer; None = pieces have ids only.
            stops: strings that end an answer.
            clock: seconds; tests inject one.

        Raises:
            DataError: no prompts, one that is empty, too long or of unknown tokens, a method that is not for batches.
        """
        self.model, self.setting = model, setting or Decoding()
        if self.setting.method not in METHODS:
            raise DataError(
                f"{self.setting.method} is not for several prompts at once: it accepts a different number of tokens of "
                f"each in every round; a batch takes {' or '.join(METHODS)} (--method)"
            )
        if not 1 <= len(prompts) <= MOST or max_tokens < 1:
            raise DataError(f"{len(prompts)} prompts, max tokens {max_tokens}: expected 1..{MOST} and at least 1")
        if choosers is not None and len(choosers) != len(prompts):
            raise DataError(f"{len(choosers)} choosers for {len(prompts)} prompts")
        for i, prompt in enumerate(prompts):
            try:
                check_prompt(model, prompt)
            except DataError as e:
                raise DataError(f"prompt {i}: {e}") from e
        self.prompts = [list(p) for p in prompts]
        self.choosers = list(choosers or (Greedy() for _ in prompts))
        self._longest = max(map(len, prompts))
        room = model.spec.context - self._longest
        self.total = min(max_tokens, room)
        self._full: Reason = "length" if max_tokens <= room else "context"
        self._schedule = Schedule.of(model, self.setting, self.total) if self.setting.method == "skip" else None
        self._cache = Cache(model.spec, [self._longest - len(p) for p in prompts])
        self._writings = [Writing(model.spec.eos, text, stops, p) for p in prompts]
        self._ids: list[list[int]] = [[] for _ in prompts]
        self._reasons: list[Reason] = ["interrupted" for _ in prompts]
        self._alive = list(range(len(prompts)))
        self._seconds = [0.0] * len(prompts)
        self._prompt_seconds = 0.0
        self._clock, self._started = clock, False

    def __iter__(self) -> Iterator[tuple[int, Piece]]:
        """Yield the pieces of all, once."""
        if self._started:
            raise DataError("answers are given once: make a new batch")
        self._started = True
        before = self._clock()
        self._read()
        self._prompt_seconds = self._clock() - before
        for number in range(self.total):
            before = self._clock()
            logits = self._step(number)
            chosen = [self.choosers[i].pick(row) for i, row in zip(self._alive, logits, strict=True)]
            spent = self._clock() - before
            pieces = [self._taken(i, token, spent) for i, token in zip(self._alive, chosen, strict=True)]
            left = [at for at, i in enumerate(self._alive) if self._reasons[i] == "interrupted"]
            yield from [*zip(self._alive, pieces, strict=True)]
            if not left:
                return
            if len(left) < len(self._alive):
                self._alive = [self._alive[at] for at in left]
                self._cache.keep(left)

    def run(self) -> list[Generation]:
        """Decode to the end."""
        for _ in self:
            pass
        return self.results

    def result(self, i: int) -> Generation:
        """The answer to prompt `i` so far; `interrupted` while more may come."""
        rounds = len(self._ids[i])
        exits = (*[0] * (self.model.count - 1), rounds)
        # not tested on export: sequences together against each alone
        same = False if self.setting.lossy else True if len(self.prompts) == 1 else None
        return Generation(
            tuple(self._ids[i]), self._writings[i].text, self._reasons[i], self.setting, same, rounds, 0, 0, exits,
            len(self.prompts[i]), self._prompt_seconds, self._seconds[i],
        )  # fmt: skip

    @property
    def results(self) -> list[Generation]:
        """The answers to all prompts so far."""
        return [self.result(i) for i in range(len(self.prompts))]

    @property
    def tokens_per_second(self) -> float | None:
        """Of all together; None = no tokens."""
        tokens, seconds = sum(map(len, self._ids)), max(self._seconds)
        return tokens / seconds if tokens and seconds > 0 else None

    def _read(self) -> None:
        """All but the last tokens of each prompt, alone: int8 kernels round otherwise the more tokens go together."""
        for i, prompt in enumerate(self.prompts):
            alone = Session(self.model)
            alone.prompt(prompt)
            self._cache.take(i, alone.cache)

    def _step(self, number: int) -> Array:
        """Logits `(alive, vocab)` of the newest tokens."""
        newest = [[(self._ids[i] or self.prompts[i])[-1]] for i in self._alive]
        around = range(0) if self._schedule is None else self._schedule.skipped(number)
        hidden = self.model.embed(np.array(newest))
        for k in range(self.model.count):
            if k not in around:  # skipped for good, so that its keys are not needed
                hidden = self.model.run_stage(k, hidden, self._cache)
        try:
            return self.model.logits(hidden.swapaxes(0, 1))
        except NonFiniteLogits as e:
            raise self._explained(e, hidden, number + 1) from e

    def _explained(self, error: NonFiniteLogits, hidden: Array, step: int) -> NonFiniteLogits:
        rows = [i for i, row in zip(self._alive, hidden, strict=True) if not np.isfinite(row).all()]
        where = (
            f"the last stage's hidden states of prompt {rows[0]} are not finite" if rows else "they come of the head"
        )
        return NonFiniteLogits(
            f"{error} at token {step} of the answers; {where}: no token can be picked; try another artifact "
            "(--artifact), else export the bundle again from sound weights"
        )

    def _taken(self, i: int, token: int, spent: float) -> Piece:
        writing = self._writings[i]
        self._ids[i].append(token)
        self._seconds[i] += spent
        text = writing.add(token)
        if writing.ended is not None or len(self._ids[i]) == self.total:
            self._reasons[i] = writing.ended or self._full
            text += writing.rest()
        return Piece((token,), text)
