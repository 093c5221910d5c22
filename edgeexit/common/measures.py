"""What is measured of an answer, as choosing needs it and as people read it.

Inside, larger is always better and everything is called accuracy: of an error rate, 1 less it. Reports, messages and
operating points show the error rate itself.
"""

from __future__ import annotations

ERROR_RATES = {"WER": "word", "CER": "character"}
"""Measures of which less is better, and what they count."""
MEASURES = ("accuracy", "agreement", *ERROR_RATES)


def is_error(measure: str) -> bool:
    """Whether less of it is better."""
    return measure in ERROR_RATES


def shown(measure: str, accuracy: float) -> float:
    """An accuracy as its measure is read."""
    return 1 - accuracy if is_error(measure) else accuracy


def shown_range(measure: str, low: float, high: float) -> tuple[float, float]:
    """An interval of accuracies as its measure is read, the lower end first."""
    return (1 - high, 1 - low) if is_error(measure) else (low, high)


def inside(measure: str) -> str:
    """What an accuracy is called where it is asked for: larger is better there, whatever is measured."""
    return f"1 - {measure}" if is_error(measure) else measure


def article(measure: str) -> str:
    """The measure with "a" or "an" before it."""
    return f"{'a' if is_error(measure) else 'an'} {measure}"
