"""Decoding settings: the method and its numbers, as the command line takes and the simulator tries them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from edgeexit.errors import DataError

Method = Literal["greedy", "speculative", "del", "lookup", "calm", "skip"]
METHODS: tuple[Method, ...] = get_args(Method)
LOSSY = ("calm", "skip")
"""Methods whose text differs from plain decoding's by design."""
Confidence = Literal["maxprob", "margin", "state"]
CONFIDENCES: tuple[Confidence, ...] = get_args(Confidence)
MOST_DRAFT = 64
USED_BY: dict[str, tuple[Method, ...]] = {
    "exit": ("speculative", "calm", "skip"),
    "threshold": ("speculative", "del", "calm"),
    "repair": ("calm",),
}
"""Setting that is None or False by default -> methods that use it."""


@dataclass(frozen=True)
class Decoding:
    """A decoding method and its settings."""

    method: Method = "greedy"
    """greedy: token by token (also when tokens are drawn). speculative: drafts from one exit. del: exit and length
    chosen anew every round. lookup: drafts copied from earlier in the text. calm: a token leaves at the first exit
    that is sure. skip: fewer middle stages the longer the answer."""
    exit: int | None = None
    """speculative: drafts from it. calm: the first that may answer. skip: as many stages run as lead to it."""
    draft: int = 4
    """speculative, lookup: tokens per round; del: the most."""
    threshold: float | None = None
    """speculative, del: drafting ends at a guess less sure than this; None = 0. calm: confidence to leave with, at the
    start; None = 0.9."""
    ngram: int = 3
    """lookup: tokens that must repeat, at most."""
    confidence: Confidence = "maxprob"
    """calm: largest probability; difference of the two largest; or cosine of the state with the stage before's, which
    needs no head."""
    decay: float = 4.0
    """calm: how fast the threshold falls to nine tenths."""
    repair: bool = False
    """calm: deeper stages later compute what they missed; False = they get stand-ins, cheaper and less exact."""

    def __post_init__(self) -> None:
        """Raises: DataError for settings outside their ranges or of another method."""
        if self.method not in METHODS:
            raise DataError(f"unknown method {self.method!r}; known: {', '.join(METHODS)}")
        if self.confidence not in CONFIDENCES:
            raise DataError(f"unknown confidence {self.confidence!r}; known: {', '.join(CONFIDENCES)}")
        if not 1 <= self.draft <= MOST_DRAFT:
            hint = "; none at all is plain decoding, --method greedy" if self.draft == 0 else ""
            raise DataError(f"draft length {self.draft}: expected 1..{MOST_DRAFT} tokens{hint}")
        if not 0 <= self.sure <= 1:
            raise DataError(f"threshold {self.threshold!r}: expected a confidence from 0 to 1")
        if not 1 <= self.ngram <= 64:
            raise DataError(f"n-gram length {self.ngram}: expected 1..64")
        if not 0 <= self.decay < 1e6:
            raise DataError(f"decay {self.decay:g}: expected a number of at least 0")
        for name, is_set in (("exit", self.exit is not None), ("threshold", self.threshold is not None),
                            ("repair", self.repair)):  # fmt: skip
            if is_set and self.method not in USED_BY[name]:
                raise DataError(
                    f"{self.method} has no {name}: that is of {', '.join(USED_BY[name])} (--method); leave it out"
                )
        if self.method == "speculative" and self.exit is None:
            raise DataError("speculative decoding needs the exit to draft from (--exit); `edgeexit simulate` finds it")

    @property
    def sure(self) -> float:
        """The threshold, or the default for None."""
        if self.threshold is None:
            return 0.9 if self.method == "calm" else 0.0
        return self.threshold

    @property
    def lossy(self) -> bool:
        """The text differs from plain decoding's by design."""
        return self.method in LOSSY

    @property
    def block(self) -> int:
        """The most tokens that go through late stages together."""
        return self.draft + 1 if self.method in ("speculative", "del", "lookup") else 1

    def __str__(self) -> str:
        how = "repair" if self.repair else "stand-ins"
        parts = {
            "greedy": ["plain decoding"],
            "speculative": [f"speculative, exit {self.exit}", f"K {self.draft}"],
            "del": [f"del, K up to {self.draft}"],
            "lookup": [f"prompt lookup, K {self.draft}", f"n-gram {self.ngram}"],
            "calm": [f"calm from exit {self.exit or 0} ({self.confidence}, {how})"],
            "skip": [f"skip, down to {'half the' if self.exit is None else self.exit + 1} stages"],
        }[self.method]
        if self.sure and self.method in ("speculative", "del", "calm"):
            parts.append(f"threshold {self.sure:g}")
        return ", ".join(parts)
