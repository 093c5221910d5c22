"""Proof of speculation: compares the logits of tokens run together with those of tokens run one by one.

Engines pick kernels by the processor, so a proof made with the bundle is measured again where it runs: `edgeexit
verify`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.lm_spec import LmProof
from edgeexit.errors import DataError
from edgeexit.lm.cache import Cache
from edgeexit.lm.model import LanguageModel

Array = NDArray[np.float32]

TOLERANCE = 1e-3
"""Largest change of a logit. Products in float32 summed in another order change logits by 1e-5 to 1e-4, kernels that
round activations to 8 bits by 1 and more. Verified speculation may still change a token whose two
largest logits lie closer than that."""
PIECE = 64
"""Tokens per sequence."""


@dataclass(frozen=True)
class Proof:
    """A proof, and the logits of the run one by one."""

    proof: LmProof
    logits: Array
    """`(sequences, positions, vocab)` one by one."""


def prove(
    lm: LanguageModel,
    ids: NDArray[np.int64],
    block: int,
    *,
    tolerance: float = TOLERANCE,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Proof:
    """Run text one token at a time, then in blocks of 2 to `block` tokens, and compare all logits.

    Blocks go through all stages together, as the check of prompt-lookup drafts does; and for every early exit through
    the later stages only, after the first ones ran the tokens one by one, as self-speculation does.

    Args:
        lm: the artifact.
        ids: `(sequences, positions)`, real text.
        block: the most tokens together, at least 2.
        tolerance: largest change of a logit; see `TOLERANCE`.
        progress: called with runs done and runs in total.

    Raises:
        DataError: a block that does not fit the text, or logits that are not finite.
    """
    count, last = ids.shape[1], lm.count - 1
    if not 2 <= block <= count or not len(ids):
        raise DataError(f"a block of {block} tokens: expected 2 to the {count} tokens of a piece of text")
    difference, flips = 0.0, np.zeros(ids.shape, bool)
    rows = []
    runs, done = len(ids) * (1 + (block - 1) * (last + 1)), 0
    for number, sequence in enumerate(ids):
        alone, hidden = _run(lm, sequence, 1)
        if not np.isfinite(alone).all():
            raise DataError(f"{lm.artifact}: logits are not finite; export the bundle again from sound weights")
        rows.append(alone)
        progress(done := done + 1, runs)
        for size in range(2, block + 1):
            for first in range(last + 1):
                together, _ = _run(lm, sequence, size, first, hidden)
                difference = max(difference, float(np.abs(together - alone).max()))
                flips[number] |= together.argmax(-1) != alone.argmax(-1)
                progress(done := done + 1, runs)
    changed = int(flips.sum())
    word = LmProof.word(difference, changed, tolerance)
    return Proof(LmProof(word, ids.size, block, difference, changed, tolerance), np.stack(rows))


def _run(
    lm: LanguageModel, ids: NDArray[np.int64], size: int, first: int = 0, outputs: list[Array] | None = None
) -> tuple[Array, list[Array]]:
    """A text in blocks of `size` through the stages from `first` on; `outputs` holds those of each stage one by one.

    Returns:
        Logits `(positions, vocab)`, and per stage its hidden states `(1, positions, width)`.
    """
    cache = Cache(lm.spec)
    logits: list[Array] = []
    outs: list[list[Array]] = [[] for _ in range(lm.count)]
    for at in range(0, len(ids), size):
        hidden = lm.embed(ids[at : at + size].tolist())
        if first and outputs is not None:
            hidden = outputs[first - 1][:, at : at + size]
        for k in range(first, lm.count):
            hidden = lm.run_stage(k, hidden, cache)
            outs[k].append(hidden)
        logits.append(lm.logits(hidden))
    return np.concatenate(logits), [np.concatenate(o, axis=1) if o else np.zeros(0, np.float32) for o in outs]
