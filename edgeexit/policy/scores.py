"""Confidence scores: one number per input from an exit's outputs, larger = surer, in [0, 1].

The functions of `SCORES` also stand as nodes in every fused graph (`edgeexit_exporters.layouts.fuse`); both work in
float32, so that a threshold means the same on either side. The scores of `GIVEN` are outputs of the network itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

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
    found: NDArray[np.float32] = np.reciprocal(total)
    return found


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


SCORES: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "maxprob": _maxprob,  # max_k p_k
    "entropy": _entropy,  # 1 - H(p) / ln K
    "margin": _margin,  # p_(1) - p_(2)
}

GIVEN = ("learned", "ensemble")
"""Scores that an exit gives itself: the learned one of a predicted-error head, and 1 less the uncertainty of heads that
answer together."""
SEQUENCE = (
    "agreement",
    "ctc_sequence_logprob",
    "frame_entropy",
    "frame_entropy_nonblank",
    "greedy_path",
    "nbest_posterior",
)
"""Scores of what an exit wrote, for bundles with `speech`; see `edgeexit.speech.scores`. "agreement" compares with the
exit before."""
SEQUENCE_BEST = "ctc_sequence_logprob"
"""The one that ranks transcripts best for what it costs; thresholds on it must be calibrated."""
GRAPH = (*SCORES, *GIVEN)
"""What a fused graph can compute."""
OF_FRAMES = {"maxprob": "greedy_path", "entropy": "frame_entropy"}
"""What a graph's scores are called where sequences are recorded."""
NAMES = (*GRAPH, *SEQUENCE)


def check_name(name: str) -> None:
    """Refuse an unknown score.

    Raises:
        PolicyError: not in `NAMES`.
    """
    if name not in NAMES:
        raise PolicyError(f"unknown score {name!r}; known: {', '.join(NAMES)}")


def uncertainty_score(uncertainty: Any) -> Any:
    """The score "ensemble" of an uncertainty, a number or an array, in float32."""
    return np.float32(1) - uncertainty


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
        name: a key of `SCORES`.
        kind: whether `outputs` are logits or probabilities.
        temperature: divides the logits; 1 leaves them.
        lengths: `(n,)` how many positions of `outputs` `(n, positions, classes)` are valid, the others being padding;
            None = all. An input without any has score 0: there is nothing to be sure of.

    Returns:
        `(n,)` float32; NaN where an output is NaN, and a NaN score never stops.

    Raises:
        PolicyError: an unknown score, one of `GIVEN`, or fewer than two classes.
    """
    check_name(name)
    if name in GIVEN:
        raise PolicyError(f"score {name!r} is an output of the network; it cannot be computed from the others")
    if outputs.shape[-1] < 2:
        raise PolicyError(f"a score needs at least 2 classes in the last axis, found shape {outputs.shape}")
    with np.errstate(invalid="ignore", over="ignore"):  # an infinite output gives NaN, which never stops
        s = SCORES[name](tempered(outputs, kind, temperature))
    if lengths is not None:
        return mean_over_valid(s, lengths)
    return s if s.ndim == 1 else s.reshape(len(s), -1).mean(-1)
