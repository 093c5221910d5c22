"""Confidence scores: one number per input from an exit's outputs, larger = surer, in [0, 1].

A score is one row of `SCORES`, or of the entry-point group ``edgeexit.scores`` of another distribution. Those with
`in_graph` also stand as nodes in fused graphs (`edgeexit_exporters`); both work in float32, so that a threshold means
the same on either side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgeexit.common.plugins import plugin, resolve
from edgeexit.errors import PolicyError

Kind = Literal["logits", "probs"]
"""What an exit's output holds: unnormalised logits, or probabilities that a Softmax already made."""

_TINY = np.float32(1e-30)
"""Floor under a probability before its logarithm; above float32's smallest normal number, 1.2e-38."""


def tempered(outputs: NDArray[Any], kind: Kind, temperature: float) -> NDArray[np.float32]:
    """Logits of the softmax that scores are taken from: ``z / T``, or ``ln p / T`` for probabilities."""
    z = outputs if outputs.dtype == np.float32 else outputs.astype(np.float32)
    if kind == "probs":
        z = np.log(np.maximum(z, _TINY))
    return z if temperature == 1.0 else np.asarray(z / np.float32(temperature))


def probabilities(outputs: NDArray[Any], kind: Kind = "logits", temperature: float = 1.0) -> NDArray[np.float32]:
    """Softmax over the last axis; shape as `outputs`."""
    if kind == "probs" and temperature == 1.0:
        return outputs.astype(np.float32, copy=False)
    z = tempered(outputs, kind, temperature)
    e: NDArray[np.float32] = np.exp(z - z.max(-1, keepdims=True))
    e /= e.sum(-1, keepdims=True)
    return e


def _maxprob(z: NDArray[np.float32]) -> NDArray[np.float32]:
    # The ufuncs' own reduce: the array methods cost another microsecond each, and this runs per input and exit.
    total = np.add.reduce(np.exp(z - np.maximum.reduce(z, -1, keepdims=True)), -1)
    largest: NDArray[np.float32] = np.reciprocal(total)
    return largest


def _entropy(z: NDArray[np.float32]) -> NDArray[np.float32]:
    z = z - z.max(-1, keepdims=True)
    e = np.exp(z)
    total = e.sum(-1)
    # H = ln(sum e) - sum(e z) / sum e; the product is finite because z is at most 0 and e underflows first.
    entropy = np.log(total) - np.where(e > 0, e * z, np.float32(0)).sum(-1) / total
    return np.asarray(np.float32(1) - entropy / np.float32(np.log(z.shape[-1])), np.float32)


def _margin(z: NDArray[np.float32]) -> NDArray[np.float32]:
    top = np.partition(z, z.shape[-1] - 2, -1)
    first, second = top[..., -1], top[..., -2]
    total = np.exp(z - first[..., None]).sum(-1)
    return np.asarray((np.float32(1) - np.exp(second - first)) / total, np.float32)


def _learned(learned: NDArray[Any]) -> NDArray[Any]:
    return learned


def uncertainty_score(uncertainty: Any) -> Any:
    """The score "ensemble" of an uncertainty, a number or an array, in float32."""
    return np.float32(1) - uncertainty


Needs = Literal["answer", "learned", "uncertainty", "frames", "transcript"]


@dataclass(frozen=True)
class Score:
    """One score, as engine, records, exporters and documentation read it."""

    name: str
    needs: Needs
    """answer: logits `(..., classes)` that temperatures have divided. learned, uncertainty: the exit's output of that
    name, `(n,)`. frames: log-probabilities `(frames, classes)` of one utterance, the blank's number, and the numbers
    of classes that are not written. transcript: token ids that this exit wrote, and those of the exit before (None at
    the first)."""
    function: Callable[..., Any] | str
    """What it needs -> the score, `(...)` of an answer, `(n,)` of a head, else one number; or "module:function",
    imported when used."""
    description: str
    """As in `docs/bundle-format.md`."""
    in_graph: bool = False
    """Whether a fused graph can hold it: `edgeexit_exporters` has its nodes."""
    of_frames: str | None = None
    """Its name where utterances are recorded, if that is another."""

    @cached_property
    def compute(self) -> Callable[..., Any]:
        """The function."""
        if isinstance(self.function, str):
            resolved: Callable[..., Any] = resolve(self.function)
            return resolved
        return self.function

    @property
    def of_text(self) -> bool:
        """Whether it is of one utterance, which takes the memory of a run (`edgeexit.bundle.tasks.RunScorer`)."""
        return self.needs in ("frames", "transcript")

    def of_answer(
        self, outputs: NDArray[Any], kind: Kind, temperature: float, lengths: NDArray[Any] | None
    ) -> NDArray[np.float32]:
        """As `score`, for a score that needs the answer."""
        if outputs.shape[-1] < 2:
            raise PolicyError(f"a score needs at least 2 classes in the last axis, found shape {outputs.shape}")
        with np.errstate(invalid="ignore", over="ignore"):  # an infinite output gives NaN, which never stops
            s: NDArray[np.float32] = np.asarray(self.compute(tempered(outputs, kind, temperature)), np.float32)
        if lengths is not None:
            return mean_over_valid(s, lengths)
        return s if s.ndim == 1 else s.reshape(len(s), -1).mean(-1)


_WRITTEN = "edgeexit.speech.scores:"
SCORES: Mapping[str, Score] = {
    row.name: row
    for row in (
        Score("maxprob", "answer", _maxprob, "max p", True, "greedy_path"),
        Score("entropy", "answer", _entropy, "1 + (sum of p ln p) / ln C, with 0 ln 0 = 0", True, "frame_entropy"),
        Score("margin", "answer", _margin, "largest p - second largest p", True),
        Score(
            "learned", "learned", _learned, "the exit's output `learned`, computed by a separate head", True
        ),
        Score("ensemble", "uncertainty", uncertainty_score, "1 - the exit's output `uncertainty`", True),
        Score(
            "agreement", "transcript", f"{_WRITTEN}agreement",
            "1 - edit distance / longer length, of this exit's and the previous exit's transcript; 0 at exit 0",
        ),
        Score(
            "ctc_sequence_logprob", "frames", f"{_WRITTEN}ctc_sequence_logprob",
            "1 / (1 - ln P), P = the exact CTC probability of the greedy sequence (forward algorithm)",
        ),
        Score("frame_entropy", "frames", f"{_WRITTEN}frame_entropy", "`entropy`"),
        Score(
            "frame_entropy_nonblank", "frames", f"{_WRITTEN}frame_entropy_nonblank",
            "the same over the frames whose best class is not the blank; over all where there is none",
        ),
        Score("greedy_path", "frames", f"{_WRITTEN}greedy_path", "`maxprob`"),
        Score(
            "nbest_posterior", "frames", f"{_WRITTEN}nbest_posterior",
            "P of the best of 8 hypotheses of a prefix beam search / the sum of theirs; hypotheses of one text count "
            "as one",
        ),
    )
}  # fmt: skip
"""Name -> score."""
GROUP = "edgeexit.scores"
"""Entry points of other distributions, each a `Score` under its name."""

NAMES = tuple(SCORES)
ANSWER_SCORES = tuple(s.name for s in SCORES.values() if s.needs == "answer")
"""Computed from the answer alone."""
HEAD_SCORES = tuple(s.name for s in SCORES.values() if s.needs in ("learned", "uncertainty"))
"""From outputs of the exit beside its answer."""
TEXT_SCORES = tuple(s.name for s in SCORES.values() if s.of_text)
"""Of what an exit wrote, for bundles whose task writes transcripts."""
GRAPH_SCORES = tuple(s.name for s in SCORES.values() if s.in_graph)
"""What a fused graph can hold."""


def score_named(name: str) -> Score:
    """The score of that name, of this package or of another distribution.

    Raises:
        PolicyError: there is none, or what another distribution registers is none.
    """
    own = SCORES.get(name)
    if own is not None:
        return own
    registered = plugin(GROUP, name, PolicyError)
    if registered is None:
        raise PolicyError(f"unknown score {name!r}; known: {', '.join(NAMES)}")
    if not isinstance(registered, Score) or registered.name != name or registered.needs not in get_args(Needs):
        raise PolicyError(
            f"entry point {name!r} of group {GROUP} is {registered!r:.120}; expected an `edgeexit.policy.scores.Score` "
            f"of that name which needs one of {', '.join(get_args(Needs))}"
        )
    return registered


def valid_positions(lengths: NDArray[Any], positions: int) -> NDArray[np.bool_]:
    """`(..., positions)`: True before each of the `lengths` `(...)`, False in the padding behind."""
    return np.asarray(np.arange(positions) < lengths[..., None])


def mean_over_valid(values: NDArray[Any], lengths: NDArray[Any]) -> NDArray[Any]:
    """`(n,)` means of `values` `(n, positions)` over their first `lengths` `(n,)` positions; 0 where there are none."""
    valid = valid_positions(lengths, values.shape[1])
    total = np.where(valid, values, np.zeros((), values.dtype)).sum(1)
    return np.asarray(total / np.maximum(valid.sum(1), 1).astype(values.dtype))


def score(
    outputs: NDArray[Any],
    name: str = "maxprob",
    *,
    kind: Kind = "logits",
    temperature: float = 1.0,
    lengths: NDArray[Any] | None = None,
) -> NDArray[np.float32]:
    """Score every input.

    Args:
        outputs: `(n, classes)`, or `(n, ..., classes)` for sequences and maps: the score is then the mean
            over the positions.
        name: of a score that needs the answer.
        kind: whether `outputs` are logits or probabilities.
        temperature: divides the logits; 1 leaves them.
        lengths: `(n,)` how many positions of `outputs` `(n, positions, classes)` are valid, the others being padding;
            None = all. An input without any has score 0.

    Returns:
        `(n,)` float32; NaN where an output is NaN, and a NaN score never stops.

    Raises:
        PolicyError: an unknown score, one that needs more than the answer, or fewer than two classes.
    """
    row = score_named(name)
    if row.needs != "answer":
        raise PolicyError(f"score {name!r} needs the exit's {row.needs}; it cannot be computed from the answer")
    return row.of_answer(outputs, kind, temperature, lengths)
