"""Decider of an engine: policy, prediction sets and drift monitor, replaced between two inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.layouts import LAYOUTS
from edgeexit.bundle.manifest import Artifact
from edgeexit.engine.layouts.base import Driver
from edgeexit.errors import PolicyError
from edgeexit.policy.drift import DriftMonitor
from edgeexit.policy.operating_point import OperatingPoint
from edgeexit.policy.policies import Policy
from edgeexit.policy.sets import ConformalSets


class Decider:
    """The part of `edgeexit.engine.engine.Engine` that holds and checks what decides."""

    def __init__(self, artifact: Artifact, driver: Driver, exits: int, policy: Policy) -> None:
        self.artifact, self.driver, self._exits = artifact, driver, exits
        self._held: tuple[Policy, ConformalSets | None] = policy, None
        """One object, so that another thread replaces both between two inputs or neither."""
        self._drift: DriftMonitor | None = None
        self.point: OperatingPoint | None = None
        """What `follow` took over; None = a policy that was assigned, with which no promise comes."""
        self.policy_source = f"a policy {policy.kind!r} of the caller"
        """What decides and why, in words: which operating point it is, or why there is none."""
        self.layout = LAYOUTS[artifact.layout]
        if self.layout.answers:  # the one that does not records, whatever the policy, and refuses when run
            driver.fits(policy)

    @property
    def exits(self) -> int:
        return self._exits

    @property
    def policy(self) -> Policy:
        """What decides; assigning checks that this artifact can follow it.

        A drift monitor stays attached and keeps what it has seen, though its bounds are the earlier policy's:
        assign a monitor of the new policy's regime afterwards. Before changing to another score, set `drift` to None.

        Raises:
            PolicyError: on assignment, it cannot, or the drift monitor watches another score.
        """
        return self._held[0]

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._take(policy, self._held[1], None, f"a policy {policy.kind!r} of the caller")

    def follow(self, point: OperatingPoint) -> None:
        """Take over an operating point's policy and its prediction sets; without sets, none are given.

        Raises:
            PolicyError: calibrated on another artifact, or this one cannot follow it.
        """
        check_artifact(point, self.artifact)
        sets = None if point.sets is None else ConformalSets.from_dict(point.sets)
        self._take(point.policy, sets, point, f"operating point {point.name}")

    def _take(self, policy: Policy, sets: ConformalSets | None, point: OperatingPoint | None, source: str) -> None:
        self.driver.fits(policy)
        if self._drift is not None:
            self._drift.regime.fits(policy, self.exits)
        if sets is not None:
            sets.fits(policy, self.exits)
        self._held, self.point, self.policy_source = (policy, sets), point, source

    @property
    def drift(self) -> DriftMonitor | None:
        """What is shown every answer, to fill in `Decision.drifted`; None = no monitor.

        Assign a new one, or `reset()` it, after recalibration.

        Raises:
            PolicyError: on assignment, its regime is of another number of exits or another score than the policy's.
        """
        return self._drift

    @drift.setter
    def drift(self, drift: DriftMonitor | None) -> None:
        if drift is not None:
            drift.regime.fits(self.policy, self.exits)
        self._drift = drift

    @property
    def sets(self) -> ConformalSets | None:
        """What fills in `Decision.prediction_set`; None = nothing. The promise is `sets.promise`.

        Raises:
            PolicyError: on assignment, made for another number of exits or, where it matters, another policy.
        """
        return self._held[1]

    @sets.setter
    def sets(self, sets: ConformalSets | None) -> None:
        if sets is not None:
            sets.fits(self.policy, self.exits)
        self._held = self.policy, sets


def prediction_set(sets: ConformalSets, k: int, output: NDArray[Any], reason: str) -> NDArray[np.bool_] | None:
    """`(classes,)` of an answer `(1, classes)` of exit `k`; None = a deadline forced the exit, and the promise is about
    the policy's own exits only."""
    if sets.policy is not None and reason == "deadline":
        return None
    members: NDArray[np.bool_] = sets.at(k, output)[0]
    return members


def check_artifact(point: OperatingPoint, artifact: Artifact) -> None:
    """Refuse an operating point that was calibrated on another artifact.

    Raises:
        PolicyError: it was.
    """
    if point.artifact is not None and point.artifact != artifact.name:
        raise PolicyError(
            f"operating point {point.name!r} was calibrated on {point.artifact}; {artifact.name} gives other scores: "
            f"load artifact={point.artifact!r}, or calibrate on {artifact.name}"
        )
