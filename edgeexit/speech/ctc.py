"""CTC (Graves et al., 2006): greedy decoding, exact probability of a sequence, N-best hypotheses.

A sequence is a path, one class per frame, with equal neighbours merged and blanks dropped.
Everything here works on one utterance, in float64 and in logarithms, with one vectorised step per frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError

MOST_BEAM = 4096


class Timed(NamedTuple):
    """A sequence and the frames in which its classes began."""

    ids: NDArray[np.int64]
    """`(n,)`"""
    frames: NDArray[np.int64]
    """`(n,)`"""


def checked(log_probs: NDArray[Any], blank: int) -> NDArray[Any]:
    """Check an utterance's log-probabilities `(T, V)`; -inf = impossible.

    Raises:
        DataError: of another shape or dtype, without the blank, or with NaN or +inf.
    """
    lp = np.asarray(log_probs)
    if lp.ndim != 2 or lp.dtype.kind != "f" or lp.shape[1] < 2:
        raise DataError(f"log-probabilities: expected floats (frames, classes), found {lp.dtype} {lp.shape}")
    if not 0 <= blank < lp.shape[1]:
        raise DataError(f"blank: expected one of the {lp.shape[1]} classes, found {blank}")
    if lp.size and not lp.max() < np.inf:  # NaN wins in max, and is not below
        raise DataError("log-probabilities: found NaN or +inf; the model or its input is damaged")
    return lp


def normalised(outputs: NDArray[Any]) -> NDArray[np.float64]:
    """Log-softmax over the last axis, in float64; log-probabilities stay as they are."""
    z = np.asarray(outputs, np.float64)
    top = z.max(-1, keepdims=True, initial=-np.inf)
    z = z - np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(z - np.log(np.exp(z).sum(-1, keepdims=True)))


def greedy(log_probs: NDArray[Any], blank: int) -> list[int]:
    """The sequence of the most likely path.

    Args:
        log_probs: `(T, V)`; logits serve as well.
        blank: index of the blank.

    Raises:
        DataError: arrays that are not log-probabilities.
    """
    ids: list[int] = greedy_timed(log_probs, blank).ids.tolist()
    return ids


def greedy_timed(log_probs: NDArray[Any], blank: int, before: int | None = None) -> Timed:
    """`greedy` with the frame in which each class begins.

    Args:
        log_probs: `(T, V)`; logits serve as well.
        blank: index of the blank.
        before: the best class of the frame before these; None = there is none, as the utterance begins here.
    """
    path = checked(log_probs, blank).argmax(-1)
    changed = np.ones(len(path), bool)
    changed[1:] = path[1:] != path[:-1]
    if before is not None and len(path):
        changed[0] = path[0] != before
    frames = np.flatnonzero(changed & (path != blank))
    return Timed(path[frames], frames)


def sequence_logprob(log_probs: NDArray[Any], ids: Sequence[int] | NDArray[Any], blank: int) -> float:
    """ln P(sequence), the sum over all its paths: CTC's forward algorithm, exact.

    Args:
        log_probs: `(T, V)`, normalised.
        ids: the classes of the sequence, without blanks.
        blank: index of the blank.

    Returns:
        At most 0 up to rounding; -inf where no path of T frames spells the sequence.

    Raises:
        DataError: arrays that are not log-probabilities, or ids that are not classes, or blank.
    """
    lp = checked(log_probs, blank)
    labels = np.asarray(ids, np.int64).reshape(-1)
    if len(labels) and (labels.min() < 0 or labels.max() >= lp.shape[1] or (labels == blank).any()):
        raise DataError(f"ids: expected classes from 0 to {lp.shape[1] - 1} other than the blank {blank}")
    # States: a blank, the first class, a blank, the second, ..., a blank; two dead ones before them spare a case.
    states = np.full(2 * len(labels) + 1, blank)
    states[1::2] = labels
    # A class may follow another without a blank between them only where they differ.
    skip = np.full(len(states), -np.inf)
    skip[3::2][labels[1:] != labels[:-1]] = 0.0
    emitted = lp.astype(np.float64, copy=False)[:, states]
    alpha = np.full(len(states) + 2, -np.inf)
    alpha[1] = 0.0  # before the first frame, as if in a state before all: the first frame begins in state 0 or 1
    skip[1 : 2 if len(labels) else 1] = 0.0
    now = np.empty(len(states))
    for row in emitted:
        np.logaddexp(alpha[2:], alpha[1:-1], out=now)
        np.logaddexp(now, alpha[:-2] + skip, out=now)
        np.add(now, row, out=alpha[2:])
        alpha[1] = -np.inf
    if not len(emitted):
        return 0.0 if not len(labels) else -np.inf
    return float(np.logaddexp(alpha[-1], alpha[-2])) if len(labels) else float(alpha[-1])


def prefix_beam(log_probs: NDArray[Any], blank: int, beam: int) -> list[tuple[tuple[int, ...], float]]:
    """The N most likely sequences, best first: prefix beam search (Hannun et al., 2014) without a language model.

    Probabilities of paths with the same sequence are added: the sum is exact while no more than `beam` prefixes
    are alive, and a lower bound when some were pruned.

    Args:
        log_probs: `(T, V)`, normalised.
        blank: index of the blank.
        beam: prefixes that are kept from frame to frame, and the most that are returned.

    Returns:
        `(ids, ln P)` pairs; at least one, unless nothing is possible at all.

    Raises:
        DataError: arrays that are not log-probabilities, or a beam below 1 or above 4096.
    """
    lp = checked(log_probs, blank).astype(np.float64, copy=False)
    if not 1 <= beam <= MOST_BEAM:
        raise DataError(f"beam: expected 1 to {MOST_BEAM}, found {beam}")
    tree = _Tree()
    nodes = np.zeros(1, np.int64)  # the prefixes alive, as nodes of the tree
    ends_blank, ends_class = np.zeros(1), np.full(1, -np.inf)
    classes = lp.shape[1]
    for row in lp:
        last, parent = tree.last[nodes], tree.parent[nodes]
        either = np.logaddexp(ends_blank, ends_class)
        stay_blank = either + row[blank]
        stay_class = np.where(nodes > 0, ends_class + row[last], -np.inf)
        grown = either[:, None] + row
        spoken = np.flatnonzero(nodes)
        grown[spoken, last[spoken]] = ends_blank[spoken] + row[last[spoken]]  # an equal class needs a blank between
        grown[:, blank] = -np.inf
        # Growing a prefix may give one that is alive already: there its paths go.
        place = {int(n): i for i, n in enumerate(nodes)}
        for i in spoken:
            if (j := place.get(int(parent[i]))) is not None:
                stay_class[i] = np.logaddexp(stay_class[i], grown[j, last[i]])
                grown[j, last[i]] = -np.inf
        kept_blank = np.concatenate([stay_blank, np.full(grown.size, -np.inf)])
        kept_class = np.concatenate([stay_class, grown.ravel()])
        total = np.logaddexp(kept_blank, kept_class)
        best = np.argpartition(-total, beam - 1)[:beam] if len(total) > beam else np.arange(len(total))
        best = np.sort(best[total[best] > -np.inf])
        new = [
            tree.child(int(nodes[i // classes]), i % classes) for i in (best[best >= len(nodes)] - len(nodes)).tolist()
        ]
        nodes = np.concatenate([nodes[best[best < len(nodes)]], np.array(new, np.int64)])
        ends_blank, ends_class = kept_blank[best], kept_class[best]
    logprobs = np.logaddexp(ends_blank, ends_class)
    return [(tree.spelled(int(nodes[i])), float(logprobs[i])) for i in np.argsort(-logprobs, kind="stable")]


class _Tree:
    """All prefixes seen, each once: its last class, and its parent's node; node 0 is the empty prefix."""

    def __init__(self) -> None:
        self.last, self.parent = np.zeros(64, np.int64), np.full(64, -1)
        self._children: dict[tuple[int, int], int] = {}

    def child(self, node: int, label: int) -> int:
        index = self._children.setdefault((node, label), len(self._children) + 1)
        if index == len(self.last):
            self.last, self.parent = np.resize(self.last, 2 * index), np.resize(self.parent, 2 * index)
        self.last[index], self.parent[index] = label, node
        return index

    def spelled(self, node: int) -> tuple[int, ...]:
        ids: list[int] = []
        while node:
            ids.append(int(self.last[node]))
            node = int(self.parent[node])
        return tuple(reversed(ids))
