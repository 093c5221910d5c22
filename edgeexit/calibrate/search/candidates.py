"""Candidate policies of one family, by increasing cost: what a target is chosen from and a guarantee is tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeexit.calibrate.search.eero import BETA, eero_policy
from edgeexit.calibrate.search.front import ParetoFront, Point
from edgeexit.calibrate.search.pareto import SHARED_CUTS, measured, pareto, patience_path, qexit_path
from edgeexit.calibrate.search.thresholds import place_cuts
from edgeexit.errors import PolicyError
from edgeexit.policy.policies import Policy, Threshold, fixed_exit
from edgeexit.records.base import Rows

FAMILIES = ("threshold", "shared", "eero", "window", "qute", "qexit", "patience", "fixed")
DEFAULT_FAMILY = "eero"
"""Its thresholds follow from exit rates, one number along the path, so that few rows are enough; with thousands of rows
"threshold" can cost less. Measured in docs/decisions/few-rows.md."""
_BUDGETS = 60
_RATES: Mapping[str, Any] = {"mode": "survivors", "prior": "uniform", "beta": BETA}
"""EERO's options along a path: budgets are used fully, and nothing but the exits' error rates is fitted."""


@dataclass(frozen=True)
class CandidateFamily:
    """A family of policies on one score; builds its candidates on any rows."""

    policy: str = DEFAULT_FAMILY
    """One of `FAMILIES`; those that reject inputs (window, qute) have no candidates."""
    score: str = "maxprob"
    temperatures: tuple[float, ...] | None = None
    """`(exits,)` divisors of the logits; None = the artifact's own."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of `eero.eero`: mode, beta, prior, spend."""

    def candidates(self, rows: Rows) -> tuple[Point, ...]:
        """Policies with their cost and accuracy on these rows, by increasing cost; the last exit alone is the last.

        Raises:
            PolicyError: an unknown family, score or option.
        """
        last = fixed_exit(rows.exits - 1, rows.exits, self.score)
        return tuple(sorted(measured([*dict.fromkeys(self._policies(rows)), last], rows), key=lambda p: p.cost))

    def front(self, rows: Rows) -> ParetoFront:
        """The candidates that no cheaper one equals in accuracy on these rows."""
        return ParetoFront.of(self.name, rows.measure, self.candidates(rows))

    @property
    def name(self) -> str:
        """For messages."""
        names = {"eero": f"EERO on {self.score}", "patience": "patience", "fixed": "fixed exits"}
        names |= {"shared": f"shared {self.score} threshold", "qexit": f"Q-exit on {self.score}"}
        return names.get(self.policy, f"{self.score} thresholds")

    def _policies(self, rows: Rows) -> Sequence[Policy]:
        score, temperatures, early = self.score, self.temperatures, rows.exits - 1
        if self.policy == "eero":
            budgets = np.geomspace(rows.relative_cost[0], 1.0, _BUDGETS)
            options = {"temperatures": temperatures, **_RATES, **self.options}
            return [eero_policy(rows, float(b), score, **options)[0] for b in budgets]
        if self.policy == "shared":
            cuts = place_cuts(rows.scores(score, temperatures)[:-1], SHARED_CUTS)
            return [Threshold((float(c),) * early, score, temperatures) for c in cuts]
        if self.policy == "fixed":
            return [fixed_exit(k, rows.exits, score) for k in range(early)]
        if self.policy == "threshold":
            path = pareto(rows, score, temperatures=temperatures)
        elif self.policy == "qexit":
            path = qexit_path(rows, score, temperatures=temperatures)
        elif self.policy == "patience":
            path = patience_path(rows)
        else:
            raise PolicyError(f"unknown policy {self.policy!r}; known: {', '.join(FAMILIES)}")
        return [point.policy for point in path.points]
