"""A policy with the numbers it was chosen for: what a bundle stores and `load(policy=name)` follows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeexit.common.measures import MEASURES
from edgeexit.errors import PolicyError
from edgeexit.policy.policies import Policy, policy_from_dict


@dataclass(frozen=True)
class OperatingPoint:
    """One policy with the numbers it was chosen for."""

    name: str
    policy: Policy
    artifact: str | None = None
    """The artifact whose scores it was calibrated on; it may run on no other. None = recorded outputs."""
    expected: Mapping[str, Any] = field(default_factory=dict)
    """What to expect: `exit_rates` (exits,), `cost` as a fraction of the last exit's, `accuracy`,
    `agreement`, `WER` or `CER` with the ends of its 95 % interval (`accuracy_low`, `accuracy_high`) and the last exit's
    own (`last_exit_accuracy`), what is lost against that (`drop`, `drop_low`, `drop_high`), `n` rows it was measured
    on, `measured_on` in words."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """The target: `budget`, `accuracy` or `accuracy_drop`."""
    promise: Mapping[str, Any] | None = None
    """A proven bound (what, alpha, delta, n); None = the numbers are estimates, nothing is promised."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Where the calibration rows came from: file name, sha256, seed, rows."""
    drift: Mapping[str, Any] | None = None
    """The calibrated regime, for `edgeexit.policy.drift.DriftRegime.from_dict`; None = no rows were held out for it."""
    sets: Mapping[str, Any] | None = None
    """Prediction sets, for `edgeexit.policy.sets.ConformalSets.from_dict`; None = none were calibrated."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "name": self.name,
            "artifact": self.artifact,
            "policy": self.policy.to_dict(),
            "asked": dict(self.asked),
            "expected": dict(self.expected),
            "promise": None if self.promise is None else dict(self.promise),
            "data": dict(self.data),
            "drift": None if self.drift is None else dict(self.drift),
            "sets": None if self.sets is None else dict(self.sets),
        }

    @classmethod
    def from_dict(cls, table: Any) -> OperatingPoint:
        """Read what `to_dict` wrote.

        Raises:
            PolicyError: damaged, or of a schema this version does not know.
        """
        if not isinstance(table, Mapping):
            raise PolicyError(f"an operating point is a JSON object, found {type(table).__name__}")
        if table.get("schema") != 1:
            raise PolicyError(f"operating point of schema {table.get('schema')!r}; this version knows 1")
        name, artifact, promise = table.get("name"), table.get("artifact"), table.get("promise")
        drift, sets = table.get("drift"), table.get("sets")
        sections = {key: table.get(key, {}) for key in ("asked", "expected", "data")}
        if not isinstance(name, str) or not isinstance(artifact, str | None):
            raise PolicyError("operating point without a name, or with an artifact that is not text")
        if not all(isinstance(s, Mapping) for s in (*sections.values(), promise or {}, drift or {}, sets or {})):
            raise PolicyError(
                f"operating point {name!r}: asked, expected, data, promise, drift and sets must be objects"
            )
        expected = sections["expected"]
        rates = expected.get("exit_rates", [])
        numbers = [*sections["asked"].values(), *(expected.get(key, 0) for key in _MEASURED)]
        if not isinstance(rates, list) or not all(_is_number(n) for n in (*numbers, *rates)):
            raise PolicyError(f"operating point {name!r:.60}: what was asked and is expected must be numbers")
        return cls(
            name, policy_from_dict(table.get("policy")), artifact, promise=promise, drift=drift, sets=sets, **sections
        )


_MEASURED = ("cost", *MEASURES, "n")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
