"""Evaluation of a speech model: error rates of every exit, of policies, and of the oracle.

Word and character errors of each exit are counted by jiwer; everything else is a sweep over the recorded rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibrate.families import candidate_family
from edgeexit.calibrate.guarantees.promises import ALPHAS, DELTA
from edgeexit.calibrate.metrics.intervals import paired
from edgeexit.calibrate.metrics.uncertainty import auroc
from edgeexit.calibrate.search.cross_fit import for_drop
from edgeexit.calibrate.sweep import Sweep, sweep
from edgeexit.common.measures import shown
from edgeexit.errors import BackendMissing, DataError, PolicyError
from edgeexit.policy.policies import Policy, Threshold
from edgeexit.records.base import outcome, replay
from edgeexit.records.transcripts import SequenceRecords
from edgeexit.speech.record import Recording

DROP = 0.005


@dataclass(frozen=True)
class Errors:
    """Errors that jiwer counts in the transcripts of one exit, over all words together."""

    wer: float
    cer: float
    substitutions: int
    deletions: int
    insertions: int
    words: int
    """In the references."""


@dataclass(frozen=True)
class PolicyResult:
    """Error rate and cost of one policy on the held-out rows."""

    name: str
    error: float
    """The recorded error rate, as a fraction: of words, or of characters."""
    cost: float
    """Mean, as a fraction of the last exit's."""
    depth: float
    """Mean number of exits computed, 1 = the first alone."""
    exit_rates: tuple[float, ...]
    real_time_factor: float | None
    """Features, stages and scores; None = not timed."""
    more: float
    """Error rate above the last exit's, over the same rows; negative = fewer errors."""
    more_half: float
    """Half-width of its 95 % interval."""
    policy: Mapping[str, Any] | None = None
    """The policy as JSON; None = the oracle, which no policy can be."""


@dataclass(frozen=True)
class Evaluation:
    """Results on the held-out rows."""

    error: str
    """The error rate: "WER" or "CER"."""
    n: int
    """Utterances."""
    audio_s: float
    """Seconds of sound."""
    exits: tuple[Errors, ...]
    taken: tuple[PolicyResult, ...]
    """The default policy without calibration, then thresholds on every score, chosen on the design rows to lose at
    most `drop`; the last is the oracle, which knows the references: the first of the exits with the fewest edits."""
    drop: float
    ranking: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    """By score and exit: probability that an utterance without an error has a higher score than one with (AUROC);
    None = they are all alike."""
    scoring_s: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """By score and exit, mean seconds that the score took there."""
    sweep: Sweep | None = None
    """Policies at budgets; None = not asked for."""


def evaluate(
    design: SequenceRecords,
    held_out: Recording,
    *,
    drop: float = DROP,
    policies: Sequence[str] | None = None,
    budgets: Sequence[float] | None = None,
    alphas: Sequence[float] = ALPHAS,
    delta: float = DELTA,
    environment: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Evaluation:
    """Choose on design rows, measure on others of the same artifact.

    Args:
        design: rows that policies are chosen on.
        held_out: other rows, with their texts.
        drop: error rate that thresholds may add to the last exit's on the design rows, in [0, 1).
        policies, budgets, alphas, delta, environment, seed, progress: of the sweep, see `calibrate.sweep`.

    Raises:
        BackendMissing: jiwer is not installed.
        DataError, PolicyError: rows without references or that cannot be compared, or numbers out of range.
    """
    rows = held_out.rows
    if not rows.labelled or not design.labelled:
        raise DataError(f"{rows.name}: an error rate needs reference transcripts; these rows have none")
    if not 0 <= drop < 1:
        raise PolicyError(f"a drop is a fraction in [0, 1), found {drop!r}; 0.005 is half a point")
    errors = tuple(count_errors(held_out.references, texts) for texts in held_out.texts)
    swept = sweep(
        design, rows, policies, budgets, progress,
        alphas=alphas, delta=delta, environment=environment, seed=seed,
    )  # fmt: skip
    ways = [
        taken_by(name, policy, rows)
        for name, policy in (
            *((f"exit {rows.exits - 1} always", _fixed(rows, s)) for s in rows.score_names[:1]),
            *_chosen(design, drop),
        )
    ]
    oracle = np.asarray(rows.edits).argmin(0)
    scoring = {s: np.diff(t, prepend=0) for s in rows.score_names if (t := rows.scoring_seconds(s)) is not None}
    return Evaluation(
        rows.measure,
        rows.n,
        float("nan") if rows.audio is None else float(rows.audio.sum()),
        errors,
        (*ways, _taken("oracle", oracle, rows, None, None)),
        drop,
        {s: tuple(_ranking(a, b) for a, b in zip(rows.scores(s), rows.right, strict=True)) for s in rows.score_names},
        {s: tuple(float(t) for t in times) for s, times in scoring.items()},
        swept,
    )


def count_errors(references: Sequence[str], texts: Sequence[str]) -> Errors:
    """Count errors of words and characters with jiwer.

    Raises:
        BackendMissing: jiwer is not installed.
        DataError: no reference has a word.
    """
    try:
        import jiwer
    except ImportError as e:
        raise BackendMissing("error rates of texts are counted by jiwer: pip install 'edgeexit[speech]'") from e
    spoken = [(r, t) for r, t in zip(references, texts, strict=True) if r.split()]
    if not spoken:
        raise DataError("no reference has a word; an error rate needs words")
    first, second = ([" ".join(text.split()) for text in side] for side in zip(*spoken, strict=True))
    words, characters = jiwer.process_words(first, second), jiwer.process_characters(first, second)
    # jiwer refuses an empty reference; every word in its transcript is an insertion.
    inserted = [" ".join(t.split()) for r, t in zip(references, texts, strict=True) if not r.split()]
    more_words, more_letters = sum(len(t.split()) for t in inserted), sum(map(len, inserted))
    count = words.hits + words.substitutions + words.deletions
    letters = characters.hits + characters.substitutions + characters.deletions
    return Errors(
        words.wer + more_words / count,
        characters.cer + more_letters / letters,
        words.substitutions,
        words.deletions,
        words.insertions + more_words,
        count,
    )


def taken_by(name: str, policy: Policy, rows: SequenceRecords) -> PolicyResult:
    """Measure a policy on rows."""
    return _taken(name, replay(policy, rows), rows, policy, rows.scoring_seconds(policy.score))


def _fixed(rows: SequenceRecords, score: str) -> Threshold:
    return Threshold((float("inf"),) * (rows.exits - 1), score)


def _chosen(design: SequenceRecords, drop: float) -> list[tuple[str, Policy]]:
    chosen: list[tuple[str, Policy]] = []
    if "agreement" in design.score_names:
        chosen.append(("agreement, not calibrated", Threshold((1.0,) * (design.exits - 1), "agreement")))
    for score in design.score_names:
        chosen.append((score, for_drop(design, candidate_family(score=score), drop).policy))
    return chosen


def _taken(
    name: str, taken: NDArray[np.int64], rows: SequenceRecords, policy: Policy | None, scoring: NDArray[Any] | None
) -> PolicyResult:
    result = outcome(taken, rows)
    seconds, audio = result.seconds, rows.audio_seconds
    never = policy is not None and policy.fixed is not None
    if seconds is not None and scoring is not None and not never:
        seconds += float(np.dot(result.exit_rates, scoring))
    less, half = paired(rows.correct[taken, np.arange(rows.n)], rows.correct[-1])
    return PolicyResult(
        name,
        shown(rows.measure, result.accuracy),
        result.cost,
        float(np.dot(result.exit_rates, np.arange(rows.exits) + 1)),
        result.exit_rates,
        None if seconds is None or audio is None else seconds / audio,
        -less if less else 0.0,
        half,
        None if policy is None else policy.to_dict(),
    )


def _ranking(score: NDArray[Any], right: NDArray[Any]) -> float | None:
    return auroc(score, right) if 0 < right.sum() < len(right) else None
