"""Traces: every exit's guesses on recorded answers, from which every kind of speculation can be simulated.

Stages share their cache, so whether a draft of some exit stands depends on nothing but the exit's guess at that place
of the model's own text. One pass over that text therefore gives the rounds of every exit, length and threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeexit.errors import DataError
from edgeexit.lm.model import Array, LanguageModel, NonFiniteLogits
from edgeexit.lm.sampling import confidence
from edgeexit.lm.session import BLOCK, Session


@dataclass(frozen=True, eq=False)
class Trace:
    """One answer by plain greedy decoding, and the exits' guesses for it."""

    ids: Array
    """`(start + n,)` the prompt's tokens, then the answer's."""
    start: int
    """Tokens of the prompt."""
    limit: int
    """Tokens that the answer could have had; it may have ended sooner."""
    guesses: Array
    """`(n, exits)` each exit's first guess for each token of the answer; the last column is the answer."""
    sure: Array
    """`(n, exits)` float32: the largest softmax probability with it."""
    ends: tuple[int, ...] = ()
    """Tokens that end an answer."""

    def __post_init__(self) -> None:
        """Raises: DataError for arrays that do not fit together."""
        n = len(self.ids) - self.start
        if self.start < 1 or n < 1 or self.guesses.shape != self.sure.shape or len(self.guesses) != n or self.limit < n:
            raise DataError("a trace needs a prompt, an answer, and one row of guesses for each of its tokens")
        if not np.array_equal(self.guesses[:, -1], self.ids[self.start :]):
            raise DataError("a trace's last exit must have guessed the answer itself")

    @property
    def n(self) -> int:
        return len(self.guesses)

    @property
    def agree(self) -> Array:
        """Bool `(n, exits)`: the exit guessed the token of the answer."""
        same: Array = self.guesses == self.guesses[:, -1:]
        return same


@dataclass(frozen=True)
class Quality:
    """Quality of one exit on a text."""

    exit: int
    layer: int
    """Layers run before its head."""
    perplexity: float | None
    """exp of the mean loss per token; None = its head knows a part of the vocabulary only."""
    accuracy: float
    """Share of tokens that were its first guess."""
    agreement: float
    """Share of places where its first guess is the last exit's."""
    tokens: int


def record(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    progress: Callable[[int, int], None] = lambda i, n: None,
) -> list[Trace]:
    """Answer every prompt by plain decoding and record the guesses of all exits.

    Raises:
        DataError: no prompts, an empty or too long one, or no room for an answer.
    """
    if not prompts or max_tokens < 1:
        raise DataError(f"{len(prompts)} prompts and {max_tokens} tokens of answer: need at least one of each")
    traces, total = [], len(prompts) * max_tokens
    last = model.count - 1
    for i, prompt in enumerate(prompts):
        session = Session(model)
        session.prompt(prompt)
        limit = min(max_tokens, model.spec.context - len(prompt))
        guesses: list[list[int]] = []
        sure: list[list[float]] = []
        while len(guesses) < limit and not (guesses and guesses[-1][-1] in model.spec.eos):
            session.mark()
            try:
                final = model.logits(session.run(last))
                rows = [model.exit_logits(k, session.outputs[k][-1]) for k in range(last)]
            except NonFiniteLogits as e:
                raise session.explained(e, len(guesses) + 1) from e
            guesses.append([*(int(model.guesses(k, z)[-1]) for k, z in enumerate(rows)), int(final[-1].argmax())])
            sure.append([confidence(z[-1]) for z in (*rows, final)])
            session.ids.append(guesses[-1][-1])
            progress(i * max_tokens + len(guesses), total)
        traces.append(
            Trace(
                np.array(session.ids, np.int64),
                len(prompt),
                limit,
                np.array(guesses, np.int64),
                np.array(sure, np.float32),
                model.spec.eos,
            )
        )
        progress((i + 1) * max_tokens, total)
    return traces


def quality(
    model: LanguageModel,
    ids: Sequence[int],
    *,
    context: int | None = None,
    skip: int = 0,
    progress: Callable[[int, int], None] = lambda i, n: None,
) -> list[Quality]:
    """Measure perplexity, accuracy and agreement of every exit over a text, cut into windows.

    Args:
        model: the model.
        ids: `(n,)` the text.
        context: tokens per window; None = the model's context, or all the text if it is shorter. What does not fill
            the last window is left out.
        skip: predictions at the start of every window that do not count.
        progress: called with windows done and in total.

    Raises:
        DataError: less text than one window, or unknown tokens.
    """
    size = min(model.spec.context, len(ids) - 1) if context is None else context
    if not 1 <= size <= model.spec.context or len(ids) <= size or not 0 <= skip < size:
        raise DataError(
            f"{len(ids)} tokens of text in windows of {size}, {skip} skipped: need more text than one window, "
            f"and windows of at most {model.spec.context}"
        )
    model.check_ids(ids)
    exits, count = model.count, 0
    loss, right, same = np.zeros(exits), np.zeros(exits), np.zeros(exits)
    windows = (len(ids) - 1) // size
    for w in range(windows):
        session = Session(model)
        for at in range(w * size, (w + 1) * size, BLOCK):
            end = min(at + BLOCK, (w + 1) * size)
            session.mark()
            session.ids.extend(int(t) for t in ids[at:end])
            session.run(exits - 1)
            first = min(max(w * size + skip - at, 0), end - at)
            target = np.asarray(ids[at + first + 1 : end + 1], np.int64)
            count += len(target)
            if not len(target):
                continue
            hidden = [session.outputs[k][0][:, first:] for k in range(exits)]
            final = model.logits(hidden[-1]).argmax(-1)
            for k in range(exits):
                logits = model.exit_logits(k, hidden[k]) if k < exits - 1 else model.logits(hidden[k])
                guess = model.guesses(k, logits) if k < exits - 1 else final
                right[k] += (guess == target).sum()
                same[k] += (guess == final).sum()
                loss[k] += np.nan if k in model.parts.ids else _loss(logits, target)
        progress(w + 1, windows)
    return [
        Quality(
            k, model.spec.stages[k], None if np.isnan(loss[k]) else float(np.exp(loss[k] / count)),
            float(right[k] / count), float(same[k] / count), count,
        )
        for k in range(exits)
    ]  # fmt: skip


def _loss(logits: Array, target: Array) -> float:
    """Summed -log softmax of the targets."""
    z = logits.astype(np.float64)
    top = z.max(-1, keepdims=True)
    logs = np.log(np.exp(z - top).sum(-1)) + top[:, 0]
    return float((logs - z[np.arange(len(target)), target]).sum())
