"""Session: one sequence in progress, its tokens, the progress of each stage, and hidden states that wait for a stage.

Every method is made of four operations: add tokens, run waiting states through stages, roll back, compute a head.
Speculation runs the early stages ahead and lets hidden states wait; the hidden state of a token that exited early
waits until a later token goes deeper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError
from edgeexit.lm.cache import Cache
from edgeexit.lm.model import LanguageModel, NonFiniteLogits

Array = NDArray[Any]
BLOCK = 64
"""Tokens of a prompt that go through the network at a time: bounds memory, and costs no speed."""


class Session:
    """A sequence of one `LanguageModel`; the last of its `ids` is as a rule not yet computed."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.cache = Cache(model.spec)
        self.ids: list[int] = []
        self._waiting: list[list[Array]] = [[] for _ in range(model.count)]
        """Per stage but the first: outputs of stage k-1 that stage k has not run yet, `(1, T, width)` each."""
        self.outputs: list[list[Array]] = [[] for _ in range(model.count)]
        """Per stage: its hidden states since `mark`."""
        self._closed = [False] * model.count

    @property
    def done(self) -> int:
        """Positions that the first stage has finished."""
        return self.cache.lengths[0]

    def behind(self, k: int) -> int:
        """Positions that wait before stage `k`."""
        return (len(self.ids) if k == 0 else self.cache.lengths[k - 1]) - self.cache.lengths[k]

    def mark(self) -> None:
        """Drop the hidden states of earlier rounds."""
        for outputs in self.outputs:
            outputs.clear()

    def prompt(self, ids: Sequence[int]) -> None:
        """Start with these tokens; all but the last go through the whole network.

        Raises:
            DataError: no, too many, or unknown tokens.
        """
        check_prompt(self.model, ids)
        last = self.model.count - 1
        for at in range(0, len(ids) - 1, BLOCK):
            self.ids.extend(ids[at : min(at + BLOCK, len(ids) - 1)])
            self.run(last)
            self.mark()
        self.ids.append(ids[-1])

    def run(self, last: int) -> Array:
        """Run everything that waits through stages 0..last.

        Returns:
            The hidden states `(1, T, width)` of stage `last`, of its newest positions.
        """
        model, cache, waiting = self.model, self.cache, self._waiting
        out: Array | None = None
        for k in range(last + 1):
            if k == 0:
                new = self.ids[cache.lengths[0] :]
                if not new:
                    continue
                hidden = model.embed(new)
            else:
                held = waiting[k]
                if not held:
                    continue
                hidden = held[0] if len(held) == 1 else np.concatenate(held, axis=1)
                held.clear()
            if self._closed[k]:
                raise AssertionError(f"stage {k} was skipped and has no keys of those positions")
            out = model.run_stage(k, hidden, cache)
            self.outputs[k].append(out)
            if k + 1 < model.count:
                waiting[k + 1].append(out)
        if out is None or cache.lengths[last] != len(self.ids):
            raise AssertionError("nothing waits")
        return out

    def skip(self, k: int) -> None:
        """Pass what waits before stage `k` to the next one unchanged; the stage has no keys of it from now on."""
        held = self._waiting[k]
        for hidden in held:
            self.cache.lengths[k] += hidden.shape[1]
            if k + 1 < self.model.count:
                self._waiting[k + 1].append(hidden)
        held.clear()
        self._closed[k] = True

    def fill(self, k: int, hidden: Array) -> None:
        """Stand-in keys and values for stages `k`.. from an earlier exit's hidden states of the newest positions."""
        for later in range(k, self.model.count):
            self._waiting[later].clear()
            self.model.fill(later, hidden, self.cache)

    def back(self, length: int) -> None:
        """Roll back to the first `length` tokens."""
        del self.ids[length:]
        cache = self.cache
        for k in range(1, self.model.count):
            keep = min(cache.lengths[k - 1], length) - min(cache.lengths[k], length)
            self._waiting[k] = _first(self._waiting[k], keep)
        cache.rollback(length)

    def accept(self, length: int, token: int) -> None:
        """Roll back to the first `length` tokens and append `token`."""
        self.back(length)
        self.ids.append(token)

    def explained(self, error: NonFiniteLogits, step: int) -> NonFiniteLogits:
        """The error with its source.

        Args:
            error: of a head.
            step: number of the answer's token, from 1.
        """
        bad = next((k for k, rows in enumerate(self.outputs) if not all(np.isfinite(r).all() for r in rows)), None)
        source = "its hidden states are finite" if bad is None else f"stage {bad} (stage_{bad}.onnx) gives the first"
        return NonFiniteLogits(
            f"{error} at token {step} of the answer, and {source}: no token can be picked; try another artifact "
            "(--artifact), else export the bundle again from sound weights"
        )


def check_prompt(model: LanguageModel, ids: Sequence[int]) -> None:
    """Raises: DataError for a prompt that is empty, too long, or of tokens that the model does not know."""
    context = model.spec.context
    if not ids:
        raise DataError("the prompt is empty: give at least one token (a model with a start token adds it itself)")
    if len(ids) >= context:
        raise DataError(
            f"the prompt has {len(ids)} tokens; context is {context}, and an answer needs room: at most {context - 1}"
        )
    model.check_ids(ids)


def _first(held: list[Array], rows: int) -> list[Array]:
    """The first rows of arrays `(1, T, width)` that follow one another."""
    first = []
    for hidden in held:
        if rows <= 0:
            break
        first.append(hidden if hidden.shape[1] <= rows else hidden[:, :rows])
        rows -= hidden.shape[1]
    return first
