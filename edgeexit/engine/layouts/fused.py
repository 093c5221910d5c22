"""Layout fused: one graph that decides itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgeexit.bundle.manifest import Artifact, Manifest
from edgeexit.engine.backends import Runnable
from edgeexit.engine.decision import Reason
from edgeexit.engine.layouts.base import AllExitOutputs, Array, Base, BatchResult, RunResult, one_by_one
from edgeexit.errors import BundleError, DataError, PolicyError
from edgeexit.policy.policies import Policy, fixed_exit


class Fused(Base):
    """One graph that decides itself; the policy is the array of thresholds handed in."""

    def __init__(
        self, manifest: Manifest, artifact: Artifact, models: Sequence[Runnable], clock: Callable[[], float]
    ) -> None:
        super().__init__(manifest, artifact, models, clock)
        contract = ["output", "exit_index", "exit_score"]
        contract += ["exit_uncertainty"] * self.any_uncertain + ["exit_lengths"] * (None not in self.lengths)
        self.reads = self.bound(models[0], contract, [*self.names, "exit_thresholds"])
        self.picks = [models[0].outputs.index(n) for n in contract]
        self._latest: tuple[Policy, tuple[np.float32, ...], Array] | None = None
        self.order = [self.names.index(n) if n in self.names else len(self.names) for n in self.reads]

    def fits(self, policy: Policy) -> None:
        super().fits(policy)
        if policy.graph_thresholds is None:
            raise PolicyError(f"policy {policy.kind!r} needs layout chain; a fused graph compares thresholds only")
        if policy.score != self.artifact.score:
            raise PolicyError(
                f"the fused graph holds score {self.artifact.score!r}, the policy wants {policy.score!r}: "
                f"use layout chain, or export with --score {policy.score}"
            )
        if policy.temperatures not in (None, self.artifact.temperatures):
            raise PolicyError(
                f"the fused graph holds temperatures {list(self.artifact.temperatures)}, the policy was calibrated "
                f"with {list(policy.temperatures or ())}: calibrate again, or use layout chain"
            )

    def forced(self, k: int) -> Array:
        """Thresholds that answer at exit `k` whatever the scores."""
        return np.array(fixed_exit(k, self.count).compared, np.float32)

    def thresholds(self, policy: Policy) -> tuple[tuple[np.float32, ...], Array]:
        """What a policy compares, and the same as an array, which must not be written to."""
        latest = self._latest
        if latest is None or latest[0] is not policy:
            compared = policy.graph_thresholds or ()
            self._latest = latest = policy, compared, np.array(compared, np.float32)
        return latest[1], latest[2]

    def call(self, inputs: Sequence[Array], thresholds: Array) -> tuple[int, Array, float, float | None, Array | None]:
        """Exit, output, score, uncertainty, lengths."""
        values = [*inputs, thresholds]
        outputs = self.models[0].run([values[i] for i in self.order])
        output, index, score, *extras = (outputs[i] for i in self.picks)
        k = int(index.item())  # ONNX gives scalars, TFLite arrays of one
        if not 0 <= k < self.count:
            raise BundleError(f"artifact {self.artifact.name}: the graph answered at exit {k} of {self.count}")
        lengths = None if None in self.lengths else extras[-1]
        return k, output, float(score.item()), None if self.uncertain[k] is None else float(extras[0]), lengths

    def run(self, inputs: Sequence[Array], policy: Policy, left: Callable[[], float] | None) -> RunResult:
        compared, thresholds = self.thresholds(policy)
        most = self.count - 1
        if left is not None and self.times.seconds is not None:
            time_left = left()
            # One call cannot be stopped half-way, so the deepest exit that fits is forced beforehand.
            most = max((k for k in range(self.count) if self.times.predicted(k) <= time_left), default=0)
            thresholds = thresholds.copy()
            thresholds[most:] = -np.inf
        start = self.clock()
        k, output, score, uncertainty, lengths = self.call(inputs, thresholds)
        network = self.clock() - start
        if k and (k > most or -np.inf in compared[:k]):
            raise self.passed(next(j for j in range(k) if j == most or compared[j] == -np.inf), k)
        reason: Reason = "last" if k == self.count - 1 else policy.reason(k, score)
        if k == most < self.count - 1 and not score >= compared[k]:
            reason = "deadline"
        return RunResult(k, output, score, reason, uncertainty, lengths, network)

    def passed(self, k: int, answering: int) -> DataError:
        """The error for a graph that went on from exit `k`, which answers always: only a NaN is below -inf."""
        exit = f"exit {k} ({self.manifest.exits[k].name!r})"
        return DataError(
            f"{self.artifact.name}: the input has a NaN score at {exit}, so that the graph answered deeper, at exit "
            f"{answering}: it lies outside what the network was trained on, or its numbers overflow"
        )

    def run_batch(self, inputs: Sequence[Array], policy: Policy) -> BatchResult:
        return one_by_one(self, inputs, policy)

    def all_exits(self, inputs: Sequence[Array]) -> AllExitOutputs:
        scores: list[Array] = []
        result = AllExitOutputs([], [], [None] * self.count, scores, lengths=None if None in self.lengths else [])
        for k in range(self.count):
            thresholds = self.forced(k)
            rows = [self.call([a[i : i + 1] for a in inputs], thresholds) for i in range(len(inputs[0]))]
            if passed := [r[0] for r in rows if r[0] != k]:
                raise self.passed(k, passed[0])
            uncertainties = None if self.uncertain[k] is None else np.array([r[3] for r in rows], np.float32)
            result.outputs.append(np.concatenate([r[1] for r in rows]))
            result.uncertainties.append(uncertainties)
            if result.lengths is not None:
                result.lengths.append(np.concatenate([r[4] for r in rows]))
            scores.append(np.array([r[2] for r in rows], np.float32))
        return result

    def profile(self, inputs: Sequence[Array], repeats: int) -> tuple[float, ...]:
        spent = []
        for k in range(self.count):
            thresholds = self.forced(k)
            spent.append(self.time(lambda t=thresholds: self.call(inputs, t), repeats))  # type: ignore[misc]
        return tuple(spent)
