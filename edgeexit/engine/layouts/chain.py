"""Layout chain: one file per stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.manifest import Artifact, Manifest
from edgeexit.engine.backends import Runnable
from edgeexit.engine.layouts.base import (
    AllExitOutputs,
    Array,
    Base,
    BatchResult,
    ExitOutput,
    RunResult,
)
from edgeexit.engine.layouts.exit_loop import BatchLoop, ExitLoop
from edgeexit.engine.layouts.memory import StreamMemory, Waiting
from edgeexit.errors import BundleError
from edgeexit.policy.policies import Policy

_ANSWER_ONLY = [None, None, None]


class Chain(Base):
    """One file per stage; decides between calls, looks ahead at deadlines, thins batches out."""

    def __init__(
        self, manifest: Manifest, artifact: Artifact, models: Sequence[Runnable], clock: Callable[[], float]
    ) -> None:
        super().__init__(manifest, artifact, models, clock)
        known = list(self.names)
        self.input_names = {t.name for t in manifest.inputs}
        self.reads: list[list[str]] = []
        for k, model in enumerate(models):
            own = [t.name for t in manifest.exits[k].outputs]
            self.reads.append(self.bound(model, own, known))
            known += model.outputs
        self.where: list[tuple[int, list[int | None]]] = [
            (m.outputs.index(answer), [None if n is None else m.outputs.index(n) for n in names])
            for m, answer, *names in zip(
                models, self.exit_names, self.uncertain, self.learned, self.lengths, strict=True
            )
        ]
        cuts = manifest.cuts if artifact.cuts is None else artifact.cuts
        self.axes: dict[str, int | None] = {t.name: t.batch_axis for t in (*manifest.feeds, *cuts)}
        carried = [{s.output: s.input.name for s in stage.states} for stage in manifest.stages]
        self.carried = [
            [(names[n], i) for i, n in enumerate(m.outputs) if n in names]
            for m, names in zip(models, carried, strict=True)
        ]
        """Per stage, its states' inputs and where among its outputs their next values are."""
        for k, (names, outputs) in enumerate(zip(carried, self.carried, strict=True)):
            if len(outputs) < len(names):
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
        memory: StreamMemory | None = None,
    ) -> RunResult:
        """As `Driver.run`; with a memory, the next input of its stream."""
        known = dict(zip(self.names, inputs, strict=True))
        if memory is None:
            return self._run(known, policy, left, None)
        before, step = known, memory.steps
        memory.steps += 1
        result = self._run(known, policy, left, memory)
        if result.exit == self.count - 1 or not self.owes[result.exit + 1]:
            return result
        start = self.clock()
        self._wait(result.exit + 1, Waiting(step, before), memory)
        return result._replace(others=result.others + self.clock() - start)

    def _run(
        self, known: dict[str, Array], policy: Policy, left: Callable[[], float] | None, memory: StreamMemory | None
    ) -> RunResult:
        loop = ExitLoop(self, policy)
        clock, network, others = self.clock, 0.0, 0.0
        outputs: list[Array] = []
        for k, model in enumerate(self.models):
            if memory is None:
                if k:
                    known.update(zip(self.models[k - 1].outputs, outputs, strict=True))
                values = [known[n] for n in self.reads[k]]
                start = clock()
                outputs = model.run(values)
                network += clock() - start
            else:
                before = clock()
                self.catch_up(k, memory)
                start = clock()
                outputs = self._carry(k, known, memory)
                others += start - before
                network += clock() - start
            if left is None and loop.skips(k):
                continue
            output = self.output(outputs, k)
            reason = loop.decide(output, k)
            if reason is None and left is not None and self.times.seconds is not None:
                runs = 1 if memory is None else 1 + len(memory.waiting[k + 1])
                if self.times.predicted(k + 1, runs) > left():
                    reason = "deadline"
            if reason is not None:
                return loop.result(output, k, reason, network, others)
        raise AssertionError("the last stage answers")

    def catch_up(self, k: int, memory: StreamMemory, most: int | None = None) -> list[tuple[int, ExitOutput]]:
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
            done.append((late.step, self.output(self._carry(k, late.known, memory), k)))
            if k < self.count - 1 and self.owes[k + 1]:
                self._wait(k + 1, late, memory)
        return done

    def _carry(self, k: int, known: dict[str, Array], memory: StreamMemory) -> list[Array]:
        """Run stage `k` on the stream's states; `known` gets its outputs."""
        # Later stages read a state of this one as it was, whenever they get there: so it stays in `known`.
        known.update((name, memory.states[name]) for name, _ in self.carried[k])
        model = self.models[k]
        outputs = model.run([known[n] for n in self.reads[k]])
        memory.states.update((name, outputs[i]) for name, i in self.carried[k])
        known.update(zip(model.outputs, outputs, strict=True))
        return outputs

    def _wait(self, k: int, late: Waiting, memory: StreamMemory) -> None:
        """Keep what stage `k` and those behind it read; where too many wait, the oldest goes through it now."""
        # The caller may fill his arrays anew; what stages gave is ours.
        values = {n: a.copy() if n in self.input_names else a for n, a in late.known.items() if n in self.needs[k]}
        memory.waiting[k].append(Waiting(late.step, values))
        if len(memory.waiting[k]) > memory.limit:
            self.catch_up(k, memory, 1)

    def output(self, outputs: Sequence[Array], k: int) -> ExitOutput:
        """What exit `k` gives, of its stage's outputs."""
        answer, others = self.where[k]
        if others == _ANSWER_ONLY:
            return ExitOutput(outputs[answer], None, None)
        return ExitOutput(outputs[answer], *(None if i is None else outputs[i] for i in others))

    def run_batch(self, inputs: Sequence[Array], policy: Policy) -> BatchResult:
        known = dict(zip(self.names, inputs, strict=True))
        loop = BatchLoop(self, policy, len(inputs[0]))
        for k, model in enumerate(self.models):
            outputs = model.run([known[n] for n in self.reads[k]])
            going = loop.decide(self.output(outputs, k), k)
            if going is None:
                break
            known.update(zip(model.outputs, outputs, strict=True))
            for name in self.drop[k]:
                known.pop(name, None)
            if not going.all():
                known = {n: _take(a, going, self.axes.get(n, 0)) for n, a in known.items()}
        return loop.result()

    def all_exits(self, inputs: Sequence[Array]) -> AllExitOutputs:
        known = dict(zip(self.names, inputs, strict=True))
        start, seconds = self.clock(), []
        for k, model in enumerate(self.models):
            known.update(zip(model.outputs, model.run([known[n] for n in self.reads[k]]), strict=True))
            seconds.append(self.clock() - start)
        result = self.recorded(known)
        result.seconds = seconds
        return result

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
