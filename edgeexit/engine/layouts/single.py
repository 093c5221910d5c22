"""Layouts that do not decide: prefix, a network per exit, and all, one network for every exit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgeexit.bundle.manifest import Artifact, Manifest
from edgeexit.engine.backends import Runnable
from edgeexit.engine.layouts.base import AllExitOutputs, Array, Base, BatchResult, ExitOutput, RunResult
from edgeexit.errors import PolicyError
from edgeexit.policy.policies import Policy


class Prefix(Base):
    """One self-contained file per exit: for a fixed exit, the static baseline."""

    def __init__(
        self, manifest: Manifest, artifact: Artifact, models: Sequence[Runnable], clock: Callable[[], float]
    ) -> None:
        super().__init__(manifest, artifact, models, clock)
        self.reads = [
            self.bound(m, [t.name for t in e.outputs], self.names) for m, e in zip(models, manifest.exits, strict=True)
        ]

    def fits(self, policy: Policy) -> None:
        super().fits(policy)
        if policy.score == "agreement":
            raise PolicyError(
                "agreement compares two exits, and layout prefix runs one: use another score or layout chain"
            )
        if policy.fixed is None:
            raise PolicyError("layout prefix holds every exit as a network of its own; it answers at a fixed exit only")

    def call(self, inputs: Sequence[Array], k: int) -> dict[str | None, Array]:
        """What exit `k` gives, by name."""
        known = dict(zip(self.names, inputs, strict=True))
        model = self.models[k]
        return dict(zip(model.outputs, model.run([known[n] for n in self.reads[k]]), strict=True))

    def answered(self, inputs: Sequence[Array], k: int, policy: Policy) -> tuple[ExitOutput, Array]:
        """What exit `k` gives, and its scores `(n,)`."""
        found = self.call(inputs, k)
        others = (found.get(names[k]) for names in (self.uncertain, self.learned, self.lengths))
        given = ExitOutput(found[self.exit_names[k]], *others)
        return given, self.score(given, k, policy.score or "maxprob", self.temperatures(policy)[k], self.scorer(policy))

    def run(self, inputs: Sequence[Array], policy: Policy, left: Callable[[], float] | None) -> RunResult:
        k = policy.fixed
        assert k is not None
        given, sure = self.answered(inputs, k, policy)
        told = None if given.uncertainty is None else float(given.uncertainty[0])
        return RunResult(
            k, given.answer, float(sure[0]), "last" if k == self.count - 1 else "forced", told, given.lengths
        )

    def run_batch(self, inputs: Sequence[Array], policy: Policy) -> BatchResult:
        k = policy.fixed
        assert k is not None
        given, sure = self.answered(inputs, k, policy)
        return BatchResult(np.full(len(sure), k, np.int64), given.answer, sure, given.uncertainty, given.lengths)

    def all_exits(self, inputs: Sequence[Array]) -> AllExitOutputs:
        known: dict[str | None, Array] = {}
        for k in range(self.count):
            known |= self.call(inputs, k)
        return self.recorded(known)

    def profile(self, inputs: Sequence[Array], repeats: int) -> tuple[float, ...]:
        return tuple(self.time(lambda k=k: self.call(inputs, k), repeats) for k in range(self.count))  # type: ignore[misc]


class AllExits(Base):
    """One file that computes everything: for calibration; it cannot stop, so it follows no policy."""

    def __init__(
        self, manifest: Manifest, artifact: Artifact, models: Sequence[Runnable], clock: Callable[[], float]
    ) -> None:
        super().__init__(manifest, artifact, models, clock)
        self.reads = self.bound(models[0], [t.name for e in manifest.exits for t in e.outputs], self.names)

    def fits(self, policy: Policy) -> None:
        raise PolicyError("layout all computes every exit of every input; it is for calibration, run fused or chain")

    def run(self, inputs: Sequence[Array], policy: Policy, left: Callable[[], float] | None) -> RunResult:
        self.fits(policy)  # which refuses every policy
        raise AssertionError

    def run_batch(self, inputs: Sequence[Array], policy: Policy) -> BatchResult:
        self.fits(policy)  # which refuses every policy
        raise AssertionError

    def all_exits(self, inputs: Sequence[Array]) -> AllExitOutputs:
        known = dict(zip(self.names, inputs, strict=True))
        model = self.models[0]
        return self.recorded(dict(zip(model.outputs, model.run([known[n] for n in self.reads]), strict=True)))

    def profile(self, inputs: Sequence[Array], repeats: int) -> tuple[float, ...]:
        return (self.time(lambda: self.all_exits(inputs), repeats),) * self.count
