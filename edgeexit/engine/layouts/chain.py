"""Layout chain: one file per stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.manifest import Artifact, Manifest
from edgeexit.common.finite import finite, sound, unsound_rows
from edgeexit.engine.backends import Runnable
from edgeexit.engine.layouts.base import (
    AllExitOutputs,
    Array,
    Base,
    BatchResult,
    ExitOutput,
    RunResult,
)
from edgeexit.engine.layouts.memory import Memory, Waiting
from edgeexit.errors import BundleError, PolicyError
from edgeexit.policy.policies import Policy
from edgeexit.policy.scores import SCORES, valid_positions


class Chain(Base):
    """One file per stage; decides between calls, looks ahead at deadlines, thins batches out."""

    def __init__(
        self, manifest: Manifest, artifact: Artifact, models: Sequence[Runnable], clock: Callable[[], float]
    ) -> None:
        super().__init__(manifest, artifact, models, clock)
        known = list(self.names)
        self.given_names = {t.name for t in manifest.inputs}
        self.reads: list[list[str]] = []
        for k, model in enumerate(models):
            own = [t.name for t in manifest.exits[k].outputs]
            self.reads.append(self.bound(model, own, known))
            known += model.outputs
        self.where = [
            tuple(None if n is None else m.outputs.index(n) for n in names)
            for m, *names in zip(models, self.exit_names, self.uncertain, self.learned, self.lengths, strict=True)
        ]
        cuts = manifest.cuts if artifact.cuts is None else artifact.cuts
        self.axes: dict[str, int | None] = {t.name: t.batch_axis for t in (*manifest.feeds, *cuts)}
        carried = [{s.output: s.input.name for s in stage.states} for stage in manifest.stages]
        self.carried = [
            [(names[n], i) for i, n in enumerate(m.outputs) if n in names]
            for m, names in zip(models, carried, strict=True)
        ]
        """Per stage, its states' inputs and where among its outputs their next values are."""
        for k, (names, found) in enumerate(zip(carried, self.carried, strict=True)):
            if len(found) < len(names):
                lost = sorted(set(names) - set(models[k].outputs))
                raise BundleError(f"artifact {artifact.name}: the file of stage {k} gives no state {lost[0]!r}")
        self.owes = [any(self.carried[k:]) for k in range(self.count)]
        """Whether an input that leaves before stage k must go through it later on."""
        self.needs = [{n for reads in self.reads[k:] for n in reads} for k in range(self.count)]
        last_use = {n: k for k, reads in enumerate(self.reads) for n in reads}
        self.drop = [[n for n, last in last_use.items() if last == k] for k in range(self.count)]

    def run(
        self,
        inputs: Sequence[Array],
        policy: Policy,
        left: Callable[[], float] | None,
        memory: Memory | None = None,
    ) -> RunResult:
        """As `Driver.run`; with a memory, the next input of its stream."""
        known = dict(zip(self.names, inputs, strict=True))
        if memory is None:
            return self._run(known, policy, left, None)
        before, step = known, memory.steps
        memory.steps += 1
        found = self._run(known, policy, left, memory)
        if found.exit < self.count - 1 and self.owes[found.exit + 1]:
            self._wait(found.exit + 1, Waiting(step, before), memory)
        return found

    def _run(
        self, known: dict[str, Array], policy: Policy, left: Callable[[], float] | None, memory: Memory | None
    ) -> RunResult:
        scores: list[Any] = []
        labels: list[Any] = []
        temperatures = self.temperatures(policy)
        name = policy.score or "maxprob"
        last = self.count - 1
        scorer = self.scorer(policy)
        for k, model in enumerate(self.models):
            if memory is None:
                found = model.run([known[n] for n in self.reads[k]])
                known.update(zip(model.outputs, found, strict=True))
            else:
                self.catch_up(k, memory)
                found = self._carry(k, known, memory)
            if k < last and left is None and scorer is None and policy.forbids(k):
                scores.append(None)
                continue
            given = self.given(found, k)
            output = given.answer
            sure = self.score(given, k, name, temperatures[k], scorer)[0]
            told = None if given.uncertainty is None else float(given.uncertainty[0])
            if k == last:
                return RunResult(k, output, float(sure), "last", told, given.lengths)
            if sure != sure or (name not in SCORES and not sound(given.single, self.kinds[k])):
                # NaN is below every threshold; what is none must not send an input deeper. The engine refuses it.
                return RunResult(k, output, float(sure), policy.reason(k, sure), told, given.lengths)
            scores.append(sure)
            if policy.needs_labels:  # with the batch axis: without it, a sequence's positions would look like inputs
                labels.append(given.labels if scorer is None else scorer.labels())
            if policy.stop(scores, labels):
                return RunResult(k, output, float(sure), policy.reason(k, sure), told, given.lengths)
            if left is not None and self.seconds is not None:
                runs = 1 if memory is None else 1 + len(memory.waiting[k + 1])
                if self.slowdown * self.seconds[k + 1] * runs > left():
                    return RunResult(k, output, float(sure), "deadline", told, given.lengths)
        raise AssertionError("the last stage answers")

    def catch_up(self, k: int, memory: Memory, most: int | None = None) -> list[tuple[int, ExitOutput]]:
        """Take inputs that wait for stage `k`, and for those before it, through them, oldest first.

        Args:
            k: a stage.
            memory: the stream's.
            most: inputs to take through stage `k` alone, at most; None = all.

        Returns:
            Their places in the stream, and what exit `k` gives for them.
        """
        if most is None:
            for before in range(1, k):
                self.catch_up(before, memory, len(memory.waiting[before]))
        queue, done = memory.waiting[k], []
        for _ in range(len(queue) if most is None else min(most, len(queue))):
            late = queue.popleft()
            done.append((late.step, self.given(self._carry(k, late.known, memory), k)))
            if k < self.count - 1 and self.owes[k + 1]:
                self._wait(k + 1, late, memory)
        return done

    def _carry(self, k: int, known: dict[str, Array], memory: Memory) -> list[Array]:
        """Run stage `k` on the stream's states; `known` gets its outputs."""
        # Later stages read a state of this one as it was, whenever they get there: so it stays in `known`.
        known.update((name, memory.states[name]) for name, _ in self.carried[k])
        model = self.models[k]
        found = model.run([known[n] for n in self.reads[k]])
        memory.states.update((name, found[i]) for name, i in self.carried[k])
        known.update(zip(model.outputs, found, strict=True))
        return found

    def _wait(self, k: int, late: Waiting, memory: Memory) -> None:
        """Keep what stage `k` and those behind it read; where too many wait, the oldest goes through it now."""
        # The caller may fill his arrays anew; what stages gave is ours.
        kept = {n: a.copy() if n in self.given_names else a for n, a in late.known.items() if n in self.needs[k]}
        memory.waiting[k].append(Waiting(late.step, kept))
        if len(memory.waiting[k]) > memory.limit:
            self.catch_up(k, memory, 1)

    def given(self, found: Sequence[Array], k: int) -> ExitOutput:
        """What exit `k` gives among the outputs of its stage."""
        answer, *others = self.where[k]
        assert answer is not None
        return ExitOutput(found[answer], *(None if i is None else found[i] for i in others))

    def run_batch(self, inputs: Sequence[Array], policy: Policy) -> BatchResult:
        known = dict(zip(self.names, inputs, strict=True))
        rows = np.arange(len(inputs[0]))  # inputs still on their way
        exits = np.full(len(rows), self.count - 1, np.int64)
        sure = np.full(len(rows), np.nan, np.float32)
        told = np.full(len(rows), np.nan, np.float32) if self.any_uncertain else None
        lengths = None if None in self.lengths else np.zeros(len(rows), np.int64)
        outputs: Array | None = None
        scores: list[Array] = []
        labels: list[Array] = []
        scorer = self.scorer(policy)
        for k, model in enumerate(self.models):
            found = model.run([known[n] for n in self.reads[k]])
            given = self.given(found, k)
            output = given.answer
            scores.append(self.score(given, k, policy.score or "maxprob", self.temperatures(policy)[k], scorer))
            if policy.needs_labels:
                labels.append(given.labels if scorer is None else scorer.labels())
            last = k == self.count - 1
            stop = np.ones(len(rows), bool) if last else np.asarray(policy.stop(scores, labels), bool)
            stop |= self._unsound(given, k, scores[-1])  # which the engine refuses
            if outputs is None:
                outputs = np.empty((len(rows), *output.shape[1:]), output.dtype)
            if outputs.shape[1:] != output.shape[1:]:
                raise PolicyError("the exits' outputs differ in shape: run these inputs one by one")
            done = rows[stop]
            exits[done], sure[done], outputs[done] = k, scores[-1][stop], output[stop]
            if told is not None and given.uncertainty is not None:
                told[done] = given.uncertainty[stop]
            if lengths is not None and given.lengths is not None:
                lengths[done] = given.lengths[stop]
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
                if scorer is not None:
                    scorer.keep(keep)
        assert outputs is not None
        return BatchResult(exits, outputs, sure, told, lengths)

    def _unsound(self, given: ExitOutput, k: int, sure: Array) -> Array:
        """`(n,)` inputs whose answer is none, so that it must not send them deeper."""
        if finite(sure) and finite(given.answer):
            return np.zeros(len(sure), bool)
        valid = None if given.lengths is None else valid_positions(given.lengths, given.answer.shape[1])
        return unsound_rows(given.answer, self.kinds[k], valid) | np.isnan(sure)

    def all_exits(self, inputs: Sequence[Array]) -> AllExitOutputs:
        known = dict(zip(self.names, inputs, strict=True))
        start, seconds = self.clock(), []
        for k, model in enumerate(self.models):
            known.update(zip(model.outputs, model.run([known[n] for n in self.reads[k]]), strict=True))
            seconds.append(self.clock() - start)
        found = self.recorded(known)
        found.seconds = seconds
        return found

    def profile(self, inputs: Sequence[Array], repeats: int) -> tuple[float, ...]:
        known = dict(zip(self.names, inputs, strict=True))
        spent = []
        for k, model in enumerate(self.models):
            values = [known[n] for n in self.reads[k]]
            spent.append(self.time(lambda model=model, values=values: model.run(values), repeats))  # type: ignore[misc]
            known.update(zip(model.outputs, model.run(values), strict=True))
        return tuple(spent)


def _take(array: Array, keep: NDArray[np.bool_], axis: int | None) -> Array:
    return array if axis is None else np.compress(keep, array, axis)
