"""Sampling of tokens from logits, greedy or random, and verification of drafts that preserves the distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError

Array = NDArray[Any]


@dataclass(frozen=True)
class Draft:
    """A token to be verified."""

    token: int
    q: Array | None = None
    """`(vocab,)` the probabilities it was drawn with; None = it was certain."""


class Chooser(Protocol):
    """Strategy that picks tokens."""

    greedy: bool

    def pick(self, logits: Array) -> int:
        """A token from the full model's logits `(vocab,)`."""

    def draft(self, logits: Array, ids: Array | None, vocab: int) -> Draft:
        """A token from an early exit's logits `(S,)`; `ids` are the tokens that they stand for, None = all."""

    def verify(self, logits: Array, drafts: Sequence[Draft]) -> tuple[int, int]:
        """Verify drafts: how many are accepted, and the token after them.

        Args:
            logits: the full model's, `(len(drafts) + 1, vocab)`.
            drafts: in their order.
        """


class Greedy:
    """Picks the most probable token."""

    greedy = True

    def pick(self, logits: Array) -> int:
        return int(logits.argmax())

    def draft(self, logits: Array, ids: Array | None, vocab: int) -> Draft:
        best = int(logits.argmax())
        return Draft(best if ids is None else int(ids[best]))

    def verify(self, logits: Array, drafts: Sequence[Draft]) -> tuple[int, int]:
        best = logits.argmax(-1)
        for i, draft in enumerate(drafts):
            if draft.token != best[i]:
                return i, int(best[i])
        return len(drafts), int(best[len(drafts)])


class Sampler:
    """Draws from softmax(logits / temperature), cut to the `top_k` most probable and to a share `top_p`.

    Drafts are checked by speculative sampling (Leviathan et al., "Fast inference from transformers via speculative
    decoding", ICML 2023), so that texts have the same distribution with and without them, though not the same draws.
    Equal seeds give equal texts for one method on one machine.
    """

    greedy = False

    def __init__(self, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, seed: int = 0) -> None:
        """Raises: DataError for numbers outside their ranges; temperature 0 is `Greedy`."""
        if not (0 < temperature < float("inf")) or top_k < 0 or not (0 < top_p <= 1):
            raise DataError(
                f"temperature {temperature!r}, top-k {top_k!r}, top-p {top_p!r}: expected a temperature above 0, "
                "top-k of at least 1 (0 = all) and top-p in (0, 1]"
            )
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.random = np.random.default_rng(seed)

    def probabilities(self, logits: Array) -> Array:
        """`(n,)` float64 probabilities that sum to 1."""
        z = np.asarray(logits, np.float64) / self.temperature
        if 0 < self.top_k < len(z):
            z = np.where(_rank(z) < self.top_k, z, -np.inf)
        p = np.exp(z - z.max())
        p /= p.sum()
        if self.top_p < 1:
            order = np.argsort(-p, kind="stable")
            before = np.cumsum(p[order]) - p[order]
            p[order[before >= self.top_p]] = 0  # the first is always kept
            p /= p.sum()
        return np.asarray(p)

    def _draw(self, p: Array) -> int:
        total = np.cumsum(p)
        return int(min(np.searchsorted(total, self.random.random() * total[-1], side="right"), np.flatnonzero(p)[-1]))

    def pick(self, logits: Array) -> int:
        return self._draw(self.probabilities(logits))

    def draft(self, logits: Array, ids: Array | None, vocab: int) -> Draft:
        q = self.probabilities(logits)
        if ids is not None:
            short, q = q, np.zeros(vocab)
            np.add.at(q, ids, short)
        return Draft(self._draw(q), q)

    def verify(self, logits: Array, drafts: Sequence[Draft]) -> tuple[int, int]:
        for i, draft in enumerate(drafts):
            p = self.probabilities(logits[i])
            token = draft.token
            if self.random.random() * (1.0 if draft.q is None else draft.q[token]) < p[token]:
                continue
            if draft.q is None:
                p[token] = 0
            else:
                p = np.maximum(p - draft.q, 0)
            return i, self._draw(p) if p.sum() > 0 else token
        return len(drafts), self.pick(logits[len(drafts)])


def chooser(temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, seed: int = 0) -> Chooser:
    """`Greedy` at temperature 0, else a `Sampler`.

    Raises:
        DataError: numbers outside their ranges, or top-k or top-p at temperature 0.
    """
    if temperature == 0 and (top_k != 0 or top_p != 1):
        raise DataError(
            f"top-k {top_k!r} and top-p {top_p!r} restrict sampling, and at temperature 0 there is none: "
            "give a temperature above 0 (--temperature 1 samples the model's own distribution)"
        )
    return Greedy() if temperature == 0 else Sampler(temperature, top_k, top_p, seed)


def confidence(logits: Array) -> float:
    """The largest softmax probability of `(n,)` logits."""
    return float(1 / np.exp(logits - logits.max()).sum(dtype=np.float64))


def _rank(z: Array) -> Array:
    """Place of each in falling order; equals by their index."""
    rank = np.empty(len(z), np.int64)
    rank[np.argsort(-z, kind="stable")] = np.arange(len(z))
    return rank
