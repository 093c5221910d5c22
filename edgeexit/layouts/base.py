"""What every layout's driver offers, and what they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeexit.backends import Runnable
from edgeexit.decision import Reason
from edgeexit.errors import BundleError, PolicyError
from edgeexit.manifest import Artifact, Manifest
from edgeexit.policy import Policy, Threshold
from edgeexit.scores import Kind
from edgeexit.scores import score as score_of

Array = NDArray[Any]
Found = tuple[int, Array, float, Reason]
"""Exit, output with its batch axis, score, reason."""


class Driver(Protocol):
    """One loaded artifact."""

    seconds: tuple[float, ...] | None
    """What `profile` measured; deadlines look ahead with it."""

    def fits(self, policy: Policy) -> None:
        """Raise PolicyError unless this artifact can follow the policy."""

    def run(self, inputs: Sequence[Array], policy: Policy, left: Callable[[], float] | None) -> Found:
        """Answer one input; `left` gives the seconds until the deadline."""

    def run_batch(self, inputs: Sequence[Array], policy: Policy) -> tuple[Array, Array, Array]:
        """Answer many: exits `(n,)`, outputs `(n, ...)`, scores `(n,)`."""

    def all_exits(self, inputs: Sequence[Array]) -> tuple[list[Array], list[Array] | None]:
        """Every exit's output for these inputs, and the scores the artifact computed itself, if it does."""

    def profile(self, inputs: Sequence[Array], repeats: int) -> tuple[float, ...]:
        """Median seconds of each stage (chain), or to each exit (the others), on one input."""


class Base:
    """What the layouts share: names, scores and the step-by-step decision over given outputs."""

    def __init__(
        self, manifest: Manifest, artifact: Artifact, models: Sequence[Runnable], clock: Callable[[], float]
    ) -> None:
        self.manifest, self.artifact, self.models, self.clock = manifest, artifact, models, clock
        self.count = len(manifest.exits)
        self.names = [i.name for i in manifest.inputs]
        self.exit_names = [e.outputs[0].name for e in manifest.exits]
        self.kinds: list[Kind] = ["probs" if e.kind == "probs" else "logits" for e in manifest.exits]
        self.seconds: tuple[float, ...] | None = None

    def fits(self, policy: Policy) -> None:
        if policy.exits not in (None, self.count):
            raise PolicyError(f"the policy is made for {policy.exits} exits, {self.manifest.name} has {self.count}")

    def temperatures(self, policy: Policy) -> tuple[float, ...]:
        return policy.temperatures or self.artifact.temperatures

    def score(self, output: Array, k: int, policy: Policy) -> Any:
        return score_of(output, policy.score or "maxprob", kind=self.kinds[k], temperature=self.temperatures(policy)[k])

    def time(self, call: Callable[[], Any], repeats: int) -> float:
        call()
        spent = []
        for _ in range(repeats):
            start = self.clock()
            call()
            spent.append(self.clock() - start)
        return float(np.median(spent))

    def bound(self, model: Runnable, required: Sequence[str], available: Sequence[str]) -> list[str]:
        """Check a model file's names against the manifest; its inputs in order."""
        if lacking := [n for n in required if n not in model.outputs]:
            raise BundleError(f"artifact {self.artifact.name}: the model file gives no {lacking[0]!r}")
        if strange := [n for n in model.inputs if n not in available]:
            raise BundleError(
                f"artifact {self.artifact.name}: the model file wants {strange[0]!r}, unknown to the manifest"
            )
        return list(model.inputs)


def one_by_one(driver: Driver, inputs: Sequence[Array], policy: Policy) -> tuple[Array, Array, Array]:
    """A batch as single inputs, for layouts and models that take one at a time."""
    found = [driver.run([a[i : i + 1] for a in inputs], policy, None) for i in range(len(inputs[0]))]
    return (
        np.array([f[0] for f in found], np.int64),
        np.concatenate([f[1] for f in found]),
        np.array([f[2] for f in found], np.float32),
    )


def stopped(policy: Policy, k: int) -> Reason:
    """Why an input left before the last exit: sure enough, or allowed no deeper."""
    return "forced" if isinstance(policy, Threshold) and policy.thresholds[k] == -np.inf else "confident"
