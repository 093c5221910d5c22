"""Scorer of sequences: decodes the exits of one run in order and scores each, for engine and replay alike."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.policy.scores import Kind, tempered
from edgeexit.speech import scores
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
        self._now: list[_Decoded] = []
        self._before: list[_Decoded] | None = None

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
        self._before = None if self._exit < 0 else self._now
        self._exit += 1
        valid = answers if lengths is None else [a[:n] for a, n in zip(answers, lengths.tolist(), strict=True)]
        self._now = [_Decoded(_log_probs(a, kind, temperature), self.blank, self.drop) for a in valid]

    def score(self, name: str) -> NDArray[np.float32]:
        """`(n,)` scores of the latest exit, of `edgeexit.policy.scores.SEQUENCE`; NaN where an answer holds NaN."""
        if name == "agreement":
            values = [self._agreement(i, decoded.ids) for i, decoded in enumerate(self._now)]
        else:
            values = [self._of_frames(name, d.log_probs) if d.finite else np.nan for d in self._now]
        return np.array(values, np.float32)

    def labels(self) -> NDArray[np.str_]:
        """`(n,)` texts of the latest exit; that of an answer with NaN equals no other exit's."""
        return np.array([f"\0{self._exit}" if d.ids is None else self.tokens.text(d.ids) for d in self._now])

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Continue with these utterances only."""
        self._now = [d for d, stays in zip(self._now, rows.tolist(), strict=True) if stays]

    def _agreement(self, i: int, ids: list[int] | None) -> float:
        if self._before is None:
            return scores.agreement((), None)
        before = self._before[i].ids
        return float("nan") if ids is None or before is None else scores.agreement(ids, before)

    def _of_frames(self, name: str, log_probs: NDArray[Any]) -> float:
        if name == "nbest_posterior":
            return scores.nbest_posterior(log_probs, self.blank, drop=tuple(self.drop))
        of: scores.OfFrames = getattr(scores, name)
        return of(log_probs, self.blank)


class _Decoded:
    """One utterance at one exit, decoded on demand."""

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
