"""Accuracy and error-rate measures: internal values, where larger is better, and values for reports.

Internally every measure is an accuracy; for an error rate it is 1 - rate. Reports, messages and operating points show
the error rate itself.
"""

from __future__ import annotations

ERROR_RATES = {"WER": "word", "CER": "character"}
"""Measures of which smaller is better -> the unit that they count."""
MEASURES = ("accuracy", "agreement", *ERROR_RATES)


def is_error(measure: str) -> bool:
    """Whether smaller is better."""
    return measure in ERROR_RATES


def shown(measure: str, accuracy: float) -> float:
    """An accuracy in the form of its measure, e.g. 0.9 as a WER of 0.1."""
    return 1 - accuracy if is_error(measure) else accuracy


def shown_range(measure: str, low: float, high: float) -> tuple[float, float]:
    """An interval of accuracies in the form of its measure, the lower end first."""
    return (1 - high, 1 - low) if is_error(measure) else (low, high)


def inside(measure: str) -> str:
    """Name of the accuracy of a measure, where larger is better, e.g. "1 - WER"."""
    return f"1 - {measure}" if is_error(measure) else measure


def article(measure: str) -> str:
    """The measure with "a" or "an" before it."""
    return f"{'a' if is_error(measure) else 'an'} {measure}"
