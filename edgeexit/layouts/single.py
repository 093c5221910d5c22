"""Layouts that do not decide: prefix, a network per exit, and all, one network for every exit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgeexit.backends import Runnable
from edgeexit.errors import PolicyError
from edgeexit.layouts.base import Array, Base, Found
from edgeexit.manifest import Artifact, Manifest
from edgeexit.policy import Policy, Threshold


class Prefix(Base):
    """One self-contained file per exit: for a fixed exit, the static baseline."""

    def __init__(
        self, manifest: Manifest, artifact: Artifact, models: Sequence[Runnable], clock: Callable[[], float]
    ) -> None:
        super().__init__(manifest, artifact, models, clock)
        self.reads = [self.bound(m, [n], self.names) for m, n in zip(models, self.exit_names, strict=True)]

    def fits(self, policy: Policy) -> None:
        super().fits(policy)
        if self.fixed(policy) is None:
            raise PolicyError("layout prefix holds every exit as a network of its own; it answers at a fixed exit only")

    def fixed(self, policy: Policy) -> int | None:
        if isinstance(policy, Threshold) and all(abs(t) == np.inf for t in policy.thresholds):
            return next((k for k, t in enumerate(policy.thresholds) if t < 0), self.count - 1)
        return None

    def call(self, inputs: Sequence[Array], k: int) -> Array:
        known = dict(zip(self.names, inputs, strict=True))
        model = self.models[k]
        return model.run([known[n] for n in self.reads[k]])[model.outputs.index(self.exit_names[k])]

    def run(self, inputs: Sequence[Array], policy: Policy, left: Callable[[], float] | None) -> Found:
        k = self.fixed(policy)
        assert k is not None
        output = self.call(inputs, k)
        return k, output, float(self.score(output, k, policy)[0]), "last" if k == self.count - 1 else "forced"

    def run_batch(self, inputs: Sequence[Array], policy: Policy) -> tuple[Array, Array, Array]:
        k = self.fixed(policy)
        assert k is not None
        output = self.call(inputs, k)
        return np.full(len(output), k, np.int64), output, self.score(output, k, policy)

    def all_exits(self, inputs: Sequence[Array]) -> tuple[list[Array], list[Array] | None]:
        return [self.call(inputs, k) for k in range(self.count)], None

    def profile(self, inputs: Sequence[Array], repeats: int) -> tuple[float, ...]:
        return tuple(self.time(lambda k=k: self.call(inputs, k), repeats) for k in range(self.count))  # type: ignore[misc]


class AllExits(Base):
    """One file that computes everything: for calibration; it cannot stop, so it follows no policy."""

    def __init__(
        self, manifest: Manifest, artifact: Artifact, models: Sequence[Runnable], clock: Callable[[], float]
    ) -> None:
        super().__init__(manifest, artifact, models, clock)
        self.reads = self.bound(models[0], self.exit_names, self.names)
        self.picks = [models[0].outputs.index(n) for n in self.exit_names]

    def fits(self, policy: Policy) -> None:
        raise PolicyError("layout all computes every exit of every input; it is for calibration, run fused or chain")

    def run(self, inputs: Sequence[Array], policy: Policy, left: Callable[[], float] | None) -> Found:
        self.fits(policy)  # which refuses every policy
        raise AssertionError

    def run_batch(self, inputs: Sequence[Array], policy: Policy) -> tuple[Array, Array, Array]:
        self.fits(policy)  # which refuses every policy
        raise AssertionError

    def all_exits(self, inputs: Sequence[Array]) -> tuple[list[Array], list[Array] | None]:
        known = dict(zip(self.names, inputs, strict=True))
        found = self.models[0].run([known[n] for n in self.reads])
        return [found[i] for i in self.picks], None

    def profile(self, inputs: Sequence[Array], repeats: int) -> tuple[float, ...]:
        return (self.time(lambda: self.all_exits(inputs), repeats),) * self.count
