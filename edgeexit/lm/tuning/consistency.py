"""Textual consistency of exits by confidence: a threshold that keeps answers near plain decoding's, with a promise.

Textual consistency of CALM (Schuster et al. 2022) by Learn-then-Test: thresholds from safe to bold, every one tested on
answers to the same prompts, stop at the first that fails. The promise is about whole answers, which is why every
threshold really decodes: a token that differs changes all that follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeexit.calibrate.guarantees.bounds import HoeffdingBentkus, least_rows
from edgeexit.calibrate.guarantees.risk import CONDITION
from edgeexit.common.edit_distance import edit_distance
from edgeexit.errors import DataError, Infeasible
from edgeexit.lm.generate import Answer
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.settings import Decoding

GRID = tuple(float(t) for t in np.round(np.arange(1.0, 0.09, -0.05), 2))
"""Thresholds from safe to bold."""


@dataclass(frozen=True)
class Consistency:
    """A threshold that passed."""

    setting: Decoding
    alpha: float
    delta: float
    n: int
    """Prompts."""
    measured: float
    """Mean distance of the answers from plain decoding's."""
    early: float
    """Share of tokens that left before the last exit."""
    text: str
    """The promise."""


def certify(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    setting: Decoding,
    *,
    alpha: float,
    delta: float = 0.05,
    max_tokens: int = 64,
    grid: Sequence[float] = GRID,
    progress: Callable[[float, float], None] = lambda threshold, distance: None,
) -> Consistency:
    """The boldest threshold whose answers are at most `alpha` from plain decoding's, on average, with a promise.

    Args:
        model: the model.
        prompts: that nothing was chosen on, drawn as prompts come in use.
        setting: of method calm; its threshold is the result.
        alpha: largest mean distance, in (0, 1): edits per token of the longer answer.
        delta: the probability that the promise may be broken.
        max_tokens: largest number of tokens of an answer.
        grid: thresholds, from safe to bold, fixed beforehand.
        progress: called with every threshold tried and its mean distance.

    Raises:
        DataError: not calm, or numbers outside (0, 1).
        Infeasible: not even the first passes; the message has the prompts needed.
    """
    if setting.method != "calm" or not 0 < alpha < 1 or not 0 < delta < 1 or not grid:
        raise DataError("consistency is of calm, with alpha and delta in (0, 1) and at least one threshold")
    if len(prompts) < (least := least_rows(alpha, delta)):
        raise Infeasible(
            f"a distance of at most {alpha:g} with confidence {1 - delta:g} needs at least {least} prompts even "
            f"without a single difference; found {len(prompts)}: give more, or ask for a larger alpha"
        )
    full = [Answer(model, p, max_tokens=max_tokens).run().ids for p in prompts]
    test = HoeffdingBentkus(len(prompts), alpha)

    passed: Consistency | None = None
    text = (
        f"answers differ from plain decoding's in at most {alpha:g} of their tokens on average, with probability "
        f"{1 - delta:g} over calibration prompts, {CONDITION}"
    )
    for threshold in grid:  # a fixed sequence: nothing after the first that fails is tested
        asked = replace(setting, threshold=threshold)
        answers = [Answer(model, p, asked, max_tokens=max_tokens).run() for p in prompts]
        losses = np.array([distance(a.ids, b) for a, b in zip(answers, full, strict=True)])
        exits = np.sum([a.exits for a in answers], axis=0)
        mean = float(losses.mean())
        progress(threshold, mean)
        if not (mean <= alpha and test.p_value(losses) <= delta):
            break
        early = float(exits[:-1].sum() / exits.sum())
        passed = Consistency(asked, alpha, delta, len(prompts), mean, early, text)
    if passed is None:
        raise Infeasible(
            f"no threshold keeps answers within {alpha:g} of plain decoding's with confidence {1 - delta:g} on these "
            f"{len(prompts)} prompts: give more prompts, a larger alpha, or leave exits off"
        )
    return passed


def distance(a: Sequence[int], b: Sequence[int]) -> float:
    """Edits (insert, delete, replace) from one to the other, per token of the longer: in [0, 1]."""
    if not a or not b:
        return float(len(a) != len(b))
    return edit_distance(a, b) / max(len(a), len(b))
