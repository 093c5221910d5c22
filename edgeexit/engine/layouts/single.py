"""Layouts that do not decide: prefix, a network per exit, and all, one network for every exit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgeexit.bundle.manifest import Artifact, Manifest
from edgeexit.engine.backends import Runnable
from edgeexit.engine.decision import Reason
from edgeexit.engine.layouts.base import AllExitOutputs, Array, Base, BatchResult, ExitOutput, RunResult
from edgeexit.engine.layouts.exit_loop import Scoring
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

    def scored(self, outputs: Mapping[str | None, Array], k: int, policy: Policy) -> tuple[ExitOutput, Array]:
        """What exit `k` gives, and its scores `(n,)`."""
        others = (outputs.get(names[k]) for names in (self.uncertain, self.learned, self.lengths))
        output = ExitOutput(outputs[self.exit_names[k]], *others)
        return output, Scoring(self, policy).score(output, k)

    def run(self, inputs: Sequence[Array], policy: Policy, left: Callable[[], float] | None) -> RunResult:
        k = policy.fixed
        assert k is not None
        start = self.clock()
        outputs = self.call(inputs, k)
        network = self.clock() - start
        output, scores = self.scored(outputs, k, policy)
        uncertainty = None if output.uncertainty is None else float(output.uncertainty[0])
        reason: Reason = "last" if k == self.count - 1 else "forced"
        return RunResult(k, output.answer, float(scores[0]), reason, uncertainty, output.lengths, network)

    def run_batch(self, inputs: Sequence[Array], policy: Policy) -> BatchResult:
        k = policy.fixed
        assert k is not None
        output, scores = self.scored(self.call(inputs, k), k, policy)
        return BatchResult(np.full(len(scores), k, np.int64), output.answer, scores, output.uncertainty, output.lengths)

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
