"""Recorded transcripts made by chance: deeper exits make fewer errors, and mostly know it."""

from __future__ import annotations

import numpy as np

from edgeexit.policy.scores import TEXT_SCORES
from edgeexit.records.transcripts import SequenceRecords


def transcripts(n: int, seed: int = 0, name: str = "made", *, timed: bool = True) -> SequenceRecords:
    """Four exits, utterances of 1 to 7 words; a third of them are hard for the first exits."""
    rng = np.random.default_rng(seed)
    units = rng.integers(1, 8, n)
    trouble = np.where(rng.random(n) < 0.3, 3.0, 0.4) * rng.uniform(0.5, 1.5, n)
    wrong = np.clip(np.array([0.16, 0.1, 0.06, 0.05])[:, None] * trouble, 0, 0.9)
    # Nested chances: what a deeper exit gets wrong, an earlier one mostly gets wrong too.
    draws = rng.random((7, n))
    said = np.arange(7)[:, None] < units
    edits = ((draws < wrong[:, None]) & said).sum(1) + rng.poisson(0.02, (4, n))
    sure = 1 / (1 + 6 * wrong + 0.15 * units / 7 + rng.uniform(0, 0.2, (4, n)))
    given = {s: np.clip(sure + rng.normal(0, 0.02, (4, n)), 0, 1).astype(np.float32) for s in TEXT_SCORES}
    answers = edits * 1000 + np.where(edits > 0, rng.integers(0, 3, (4, n)), 0)
    given["agreement"] = np.where(answers == np.roll(answers, 1, 0), 1.0, sure / 2).astype(np.float32)
    given["agreement"][0] = 0
    audio = 0.4 * units + 0.2
    cost = np.array([1.0, 2.0, 3.0, 4.0])
    return SequenceRecords(
        answers,
        cost,
        given,
        edits,
        units,
        static_cost=cost - 0.02,
        seconds=cost[:, None] * audio / 1000 if timed else None,
        audio=audio if timed else None,
        scoring={s: np.arange(1.0, 5) * 1e-5 for s in TEXT_SCORES} if timed else {},
        name=name,
    )
