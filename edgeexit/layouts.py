"""How the artifact layouts are driven: one interface over fused, chain, prefix and all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeexit.backends import Backend, Runnable
from edgeexit.bundle import Bundle
from edgeexit.decision import Reason
from edgeexit.errors import BundleError, PolicyError
from edgeexit.manifest import Artifact, Manifest
from edgeexit.policy import Policy, Threshold, fixed_exit
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


def make(bundle: Bundle, artifact: Artifact, backend: Backend, threads: int, clock: Callable[[], float]) -> Driver:
    """Load an artifact's files."""
    models = [backend.load(bundle.file(f), threads) for f in artifact.models]
    return _DRIVERS[artifact.layout](bundle.manifest, artifact, models, clock)


class _Base:
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


class Chain(_Base):
    """One file per stage; decides between calls, looks ahead at deadlines, thins batches out."""

    def __init__(
        self, manifest: Manifest, artifact: Artifact, models: Sequence[Runnable], clock: Callable[[], float]
    ) -> None:
        super().__init__(manifest, artifact, models, clock)
        known = list(self.names)
        self.reads: list[list[str]] = []
        for k, (model, stage) in enumerate(zip(models, manifest.stages, strict=True)):
            self.reads.append(self.bound(model, [self.exit_names[k], *stage.outputs], known))
            known += stage.outputs
        self.where = [m.outputs.index(n) for m, n in zip(models, self.exit_names, strict=True)]
        self.axes: dict[str, int | None] = {t.name: t.batch_axis for t in (*manifest.inputs, *manifest.cuts)}
        last_use = {n: k for k, reads in enumerate(self.reads) for n in reads}
        self.drop = [[n for n, last in last_use.items() if last == k] for k in range(self.count)]

    def run(self, inputs: Sequence[Array], policy: Policy, left: Callable[[], float] | None) -> Found:
        known = dict(zip(self.names, inputs, strict=True))
        scores: list[Any] = []
        labels: list[Any] = []
        temperatures = self.temperatures(policy)
        name = policy.score or "maxprob"
        last = self.count - 1
        for k, model in enumerate(self.models):
            found = model.run([known[n] for n in self.reads[k]])
            output = found[self.where[k]]
            sure = score_of(output, name, kind=self.kinds[k], temperature=temperatures[k])[0]
            if k == last:
                return k, output, float(sure), "last"
            scores.append(sure)
            if policy.needs_labels:  # with the batch axis: without it, a sequence's positions would look like inputs
                labels.append(np.argmax(output, -1))
            if policy.stop(scores, labels):
                return k, output, float(sure), _stopped(policy, k)
            if left is not None and self.seconds is not None and self.seconds[k + 1] > left():
                return k, output, float(sure), "deadline"
            known.update(zip(model.outputs, found, strict=True))
        raise AssertionError("the last stage answers")

    def run_batch(self, inputs: Sequence[Array], policy: Policy) -> tuple[Array, Array, Array]:
        known = dict(zip(self.names, inputs, strict=True))
        rows = np.arange(len(inputs[0]))  # inputs still on their way
        exits = np.full(len(rows), self.count - 1, np.int64)
        sure = np.full(len(rows), np.nan, np.float32)
        outputs: Array | None = None
        scores: list[Array] = []
        labels: list[Array] = []
        for k, model in enumerate(self.models):
            found = model.run([known[n] for n in self.reads[k]])
            output = found[self.where[k]]
            scores.append(self.score(output, k, policy))
            labels.append(np.argmax(output, -1))
            last = k == self.count - 1
            stop = np.ones(len(rows), bool) if last else np.asarray(policy.stop(scores, labels), bool)
            if outputs is None:
                outputs = np.empty((len(rows), *output.shape[1:]), output.dtype)
            if outputs.shape[1:] != output.shape[1:]:
                raise PolicyError("the exits' outputs differ in shape: run these inputs one by one")
            done = rows[stop]
            exits[done], sure[done], outputs[done] = k, scores[-1][stop], output[stop]
            if stop.all():
                break
            known.update(zip(model.outputs, found, strict=True))
            for name in self.drop[k]:
                known.pop(name, None)
            if stop.any():
                keep = ~stop
                rows = rows[keep]
                known = {n: _take(a, keep, self.axes.get(n, 0)) for n, a in known.items()}
                scores = [s[keep] for s in scores]
                labels = [s[keep] for s in labels]
        assert outputs is not None
        return exits, outputs, sure

    def all_exits(self, inputs: Sequence[Array]) -> tuple[list[Array], list[Array] | None]:
        known = dict(zip(self.names, inputs, strict=True))
        for k, model in enumerate(self.models):
            known.update(zip(model.outputs, model.run([known[n] for n in self.reads[k]]), strict=True))
        return [known[n] for n in self.exit_names], None

    def profile(self, inputs: Sequence[Array], repeats: int) -> tuple[float, ...]:
        known = dict(zip(self.names, inputs, strict=True))
        spent = []
        for k, model in enumerate(self.models):
            values = [known[n] for n in self.reads[k]]
            spent.append(self.time(lambda model=model, values=values: model.run(values), repeats))  # type: ignore[misc]
            known.update(zip(model.outputs, model.run(values), strict=True))
        return tuple(spent)


class Fused(_Base):
    """One graph that decides itself; the policy is the array of thresholds handed in."""

    def __init__(
        self, manifest: Manifest, artifact: Artifact, models: Sequence[Runnable], clock: Callable[[], float]
    ) -> None:
        super().__init__(manifest, artifact, models, clock)
        contract = ["output", "exit_index", "exit_score"]
        self.reads = self.bound(models[0], contract, [*self.names, "exit_thresholds"])
        self.picks = [models[0].outputs.index(n) for n in contract]
        self.order = [self.names.index(n) if n in self.names else len(self.names) for n in self.reads]

    def fits(self, policy: Policy) -> None:
        super().fits(policy)
        if not isinstance(policy, Threshold):
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

    def call(self, inputs: Sequence[Array], thresholds: Array) -> tuple[int, Array, Any]:
        values = [*inputs, thresholds]
        found = self.models[0].run([values[i] for i in self.order])
        output, index, sure = (found[i] for i in self.picks)
        k = int(index)
        if not 0 <= k < self.count:
            raise BundleError(f"artifact {self.artifact.name}: the graph answered at exit {k} of {self.count}")
        return k, output, sure

    def run(self, inputs: Sequence[Array], policy: Policy, left: Callable[[], float] | None) -> Found:
        assert isinstance(policy, Threshold)
        thresholds = np.array(policy.compared, np.float32)
        most = self.count - 1
        if left is not None and self.seconds is not None:
            time_left = left()
            # One call cannot be stopped half-way, so the deepest exit that fits is forced beforehand.
            most = max((k for k, s in enumerate(self.seconds) if s <= time_left), default=0)
            thresholds[most:] = -np.inf
        k, output, sure = self.call(inputs, thresholds)
        if k == most < self.count - 1 and not float(sure) >= policy.compared[k]:
            return k, output, float(sure), "deadline"
        return k, output, float(sure), "last" if k == self.count - 1 else _stopped(policy, k)

    def run_batch(self, inputs: Sequence[Array], policy: Policy) -> tuple[Array, Array, Array]:
        return one_by_one(self, inputs, policy)

    def all_exits(self, inputs: Sequence[Array]) -> tuple[list[Array], list[Array] | None]:
        outputs, scores = [], []
        for k in range(self.count):
            thresholds = self.forced(k)
            rows = [self.call([a[i : i + 1] for a in inputs], thresholds) for i in range(len(inputs[0]))]
            outputs.append(np.concatenate([r[1] for r in rows]))
            scores.append(np.array([r[2] for r in rows], np.float32))
        return outputs, scores

    def profile(self, inputs: Sequence[Array], repeats: int) -> tuple[float, ...]:
        spent = []
        for k in range(self.count):
            thresholds = self.forced(k)
            spent.append(self.time(lambda t=thresholds: self.call(inputs, t), repeats))  # type: ignore[misc]
        return tuple(spent)


class Prefix(_Base):
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


class AllExits(_Base):
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


def one_by_one(driver: Driver, inputs: Sequence[Array], policy: Policy) -> tuple[Array, Array, Array]:
    """A batch as single inputs, for layouts and models that take one at a time."""
    found = [driver.run([a[i : i + 1] for a in inputs], policy, None) for i in range(len(inputs[0]))]
    return (
        np.array([f[0] for f in found], np.int64),
        np.concatenate([f[1] for f in found]),
        np.array([f[2] for f in found], np.float32),
    )


def _stopped(policy: Policy, k: int) -> Reason:
    return "forced" if isinstance(policy, Threshold) and policy.thresholds[k] == -np.inf else "confident"


def _take(array: Array, keep: NDArray[np.bool_], axis: int | None) -> Array:
    return array if axis is None else np.compress(keep, array, axis)


_DRIVERS: dict[str, type[Chain] | type[Fused] | type[Prefix] | type[AllExits]] = {
    "chain": Chain,
    "fused": Fused,
    "prefix": Prefix,
    "all": AllExits,
}
