"""Confidence of an exit of a CTC model in its sequence: one number in [0, 1], larger = surer.

All take one utterance's valid frames `(T, V)` as normalised log-probabilities, the blank and the classes that are not
written (which most of them need not know), and give 1 where there is no frame: then every exit says the same nothing.
`agreement` takes two sequences and needs no calibration.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.common.edit_distance import edit_distance
from edgeexit.errors import DataError
from edgeexit.speech.ctc import checked, greedy, prefix_beam, sequence_logprob

BEAM = 8
"""Hypotheses that `nbest_posterior` compares by default."""


def ctc_sequence_logprob(log_probs: NDArray[Any], blank: int, drop: Sequence[int] = ()) -> float:
    """1 / (1 - ln P) of the greedy sequence's exact probability: it keeps the order and never underflows to 0.

    Long utterances score lower than short ones, so calibrate on lengths as they will come.
    """
    logprob = sequence_logprob(log_probs, greedy(log_probs, blank), blank)
    return 1.0 / (1.0 - min(logprob, 0.0))


def frame_entropy(log_probs: NDArray[Any], blank: int, drop: Sequence[int] = ()) -> float:
    """1 - H / ln V, the mean over the frames."""
    lp = checked(log_probs, blank)
    return _mean(_certainty(lp))


def frame_entropy_nonblank(log_probs: NDArray[Any], blank: int, drop: Sequence[int] = ()) -> float:
    """`frame_entropy` over the frames that say something; over all where none does.

    Blanks are most of the frames and nearly always certain, which hides the uncertainty of the other classes.
    """
    lp = checked(log_probs, blank)
    spoken = lp[lp.argmax(-1) != blank]
    return _mean(_certainty(spoken if len(spoken) else lp))


def greedy_path(log_probs: NDArray[Any], blank: int, drop: Sequence[int] = ()) -> float:
    """The mean over the frames of the largest probability."""
    return _mean(np.exp(checked(log_probs, blank).max(-1, initial=-np.inf)))


def nbest_posterior(log_probs: NDArray[Any], blank: int, drop: Sequence[int] = (), *, beam: int = BEAM) -> float:
    """The share of the best of N hypotheses in their sum (Wright et al., 2024).

    It needs a beam search, which may cost more than the next stage; `ctc_sequence_logprob` is nearly as good.

    Args:
        log_probs: `(T, V)`
        blank: index of the blank.
        beam: N, at least 2: the share of a single hypothesis is always 1.
        drop: classes left out of the text: hypotheses that differ in them only are merged.
    """
    if beam < 2:
        raise DataError(f"beam: the posterior compares at least 2 hypotheses, found {beam}")
    merged: dict[tuple[int, ...], float] = {}
    for ids, logprob in prefix_beam(log_probs, blank, beam):
        text = tuple(i for i in ids if i not in drop)
        merged[text] = float(np.logaddexp(merged.get(text, -np.inf), logprob))
    if not merged:
        return 0.0
    shares = np.array(list(merged.values()))
    return float(1.0 / np.exp(shares - shares.max()).sum())


def agreement(ids: Sequence[int], before: Sequence[int] | None) -> float:
    """1 - edit distance / longer length of this exit's sequence and the one of the exit before; 1 = they are the same.

    Args:
        ids: this exit's sequence.
        before: the earlier one's; None = there is none, which agrees with nothing: 0.
    """
    if before is None:
        return 0.0
    if list(ids) == list(before):  # mostly, and then nothing need be counted
        return 1.0
    return 1.0 - edit_distance(ids, before) / max(len(ids), len(before))


def _certainty(lp: NDArray[Any]) -> NDArray[np.float64]:
    p = np.exp(lp.astype(np.float64, copy=False))
    entropy = -np.where(p > 0, p * np.where(p > 0, lp, 0.0), 0.0).sum(-1)
    return np.asarray(1.0 - entropy / np.log(lp.shape[-1]))


def _mean(values: NDArray[Any]) -> float:
    return float(np.clip(values.mean(), 0.0, 1.0)) if len(values) else 1.0
