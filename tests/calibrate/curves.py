"""Curves of risk against coverage: the best that one threshold reaches."""

from __future__ import annotations

import numpy as np

from edgeexit.calibrate.rejection.selective import risk_coverage


def coverage_at_risk(score: np.ndarray, correct: np.ndarray, risk: float) -> float:
    """The largest share of rows that one threshold accepts at a risk of at most `risk`; 0 where none can."""
    curve = risk_coverage(score, correct)
    block = curve.for_risk(risk)
    return 0.0 if block is None else float(curve.coverage[block])


def risk_at_coverage(score: np.ndarray, correct: np.ndarray, coverage: float) -> float:
    """The risk where one threshold accepts at least `coverage` of the rows."""
    curve = risk_coverage(score, correct)
    return float(curve.risk[curve.for_coverage(coverage)])
