"""Scores of transcripts in one run: what each exit wrote so far, and its confidence."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.policy.scores import Kind, Score, score_named, tempered
from edgeexit.speech.ctc import greedy, normalised
from edgeexit.speech.tokens import Tokens

_OFF = 1e-3
"""Largest distance from 1 of a frame's summed probabilities that counts as normalised."""


class Scorer:
    """State of one run over some utterances, from exit to exit; every run needs a new one.

    Pass the exits in their order. `agreement` compares with the previous one, so none may be left out.
    """

    def __init__(self, spec: SpeechSpec) -> None:
        self.blank, self.drop = spec.blank, frozenset(spec.drop)
        self.tokens = Tokens.of(spec)
        self._exit = -1
        self._utterances: list[_Utterance] = []
        self._before: list[_Utterance] | None = None

    def see(
        self, answers: NDArray[Any], lengths: NDArray[Any] | None, kind: Kind = "logits", temperature: float = 1.0
    ) -> None:
        """Pass the next exit's answers.

        Args:
            answers: `(n, positions, classes)` of the exit.
            lengths: `(n,)` valid positions; None = all.
            kind: log-probabilities (or logits, which are normalised), or probabilities.
            temperature: divides the logarithms.
        """
        self._before = None if self._exit < 0 else self._utterances
        self._exit += 1
        valid = answers if lengths is None else [a[:n] for a, n in zip(answers, lengths.tolist(), strict=True)]
        self._utterances = [_Utterance(_log_probs(a, kind, temperature), self.blank, self.drop) for a in valid]

    def score(self, name: str) -> NDArray[np.float32]:
        """`(n,)` scores of the latest exit, of `edgeexit.policy.scores.TEXT_SCORES`; NaN where an answer holds NaN."""
        score = score_named(name)
        if score.needs == "transcript":
            before = [None] * len(self._utterances) if self._before is None else self._before
            values = [self._of_two(score, *pair) for pair in zip(self._utterances, before, strict=True)]
        else:
            drop = tuple(self.drop)
            values = [score.compute(u.log_probs, self.blank, drop) if u.finite else np.nan for u in self._utterances]
        return np.array(values, np.float32)

    def labels(self) -> NDArray[np.str_]:
        """`(n,)` what the latest exit wrote; an answer with NaN equals no other exit's."""
        return np.array([f"\0{self._exit}" if u.ids is None else self.tokens.text(u.ids) for u in self._utterances])

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Go on with these utterances only."""
        self._utterances = [u for u, keep in zip(self._utterances, rows.tolist(), strict=True) if keep]

    def _of_two(self, score: Score, now: _Utterance, before: _Utterance | None) -> float:
        if before is None:
            return float(score.compute((), None))
        if now.ids is None or before.ids is None:
            return float("nan")
        return float(score.compute(now.ids, before.ids))


class _Utterance:
    """One utterance at one exit; decoded when somebody asks what was written."""

    def __init__(self, log_probs: NDArray[Any], blank: int, drop: frozenset[int]) -> None:
        self.log_probs, self._blank, self._drop = log_probs, blank, drop
        self.finite = _finite(log_probs)

    @cached_property
    def ids(self) -> list[int] | None:
        """The greedy sequence without dropped classes; None = the answer holds NaN."""
        return [i for i in greedy(self.log_probs, self._blank) if i not in self._drop] if self.finite else None


def _log_probs(answer: NDArray[Any], kind: Kind, temperature: float) -> NDArray[Any]:
    """`(T, V)` normalised. Networks give log-probabilities, so that one frame is tested first."""
    z = tempered(answer, kind, temperature)
    if len(z) and temperature == 1.0:
        with np.errstate(invalid="ignore", over="ignore"):
            if abs(float(np.exp(z[0]).sum()) - 1) <= _OFF:
                return z
    return normalised(z) if _finite(z) else z


def _finite(lp: NDArray[Any]) -> bool:
    return not lp.size or bool(lp.max() < np.inf)  # NaN wins in max, and is not below
