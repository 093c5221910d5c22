"""Layout chain: one file per stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.backends import Runnable
from edgeexit.errors import PolicyError
from edgeexit.layouts.base import Array, Base, Found, FoundMany, Given, Recorded, stopped
from edgeexit.manifest import Artifact, Manifest
from edgeexit.policy import Policy


class Chain(Base):
    """One file per stage; decides between calls, looks ahead at deadlines, thins batches out."""

    def __init__(
        self, manifest: Manifest, artifact: Artifact, models: Sequence[Runnable], clock: Callable[[], float]
    ) -> None:
        super().__init__(manifest, artifact, models, clock)
        known = list(self.names)
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
        self.axes: dict[str, int | None] = {t.name: t.batch_axis for t in (*manifest.inputs, *cuts)}
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
            given = self.given(found, k)
            output = given.answer
            sure = self.score(given, k, name, temperatures[k])[0]
            told = None if given.uncertainty is None else float(given.uncertainty[0])
            if k == last:
                return Found(k, output, float(sure), "last", told, given.lengths)
            scores.append(sure)
            if policy.needs_labels:  # with the batch axis: without it, a sequence's positions would look like inputs
                labels.append(given.labels)
            if policy.stop(scores, labels):
                return Found(k, output, float(sure), stopped(policy, k, sure), told, given.lengths)
            if left is not None and self.seconds is not None and self.slowdown * self.seconds[k + 1] > left():
                return Found(k, output, float(sure), "deadline", told, given.lengths)
            known.update(zip(model.outputs, found, strict=True))
        raise AssertionError("the last stage answers")

    def given(self, found: Sequence[Array], k: int) -> Given:
        """What exit `k` gives among the outputs of its stage."""
        answer, *others = self.where[k]
        assert answer is not None
        return Given(found[answer], *(None if i is None else found[i] for i in others))

    def run_batch(self, inputs: Sequence[Array], policy: Policy) -> FoundMany:
        known = dict(zip(self.names, inputs, strict=True))
        rows = np.arange(len(inputs[0]))  # inputs still on their way
        exits = np.full(len(rows), self.count - 1, np.int64)
        sure = np.full(len(rows), np.nan, np.float32)
        told = np.full(len(rows), np.nan, np.float32) if self.any_uncertain else None
        lengths = None if None in self.lengths else np.zeros(len(rows), np.int64)
        outputs: Array | None = None
        scores: list[Array] = []
        labels: list[Array] = []
        for k, model in enumerate(self.models):
            found = model.run([known[n] for n in self.reads[k]])
            given = self.given(found, k)
            output = given.answer
            scores.append(self.score(given, k, policy.score or "maxprob", self.temperatures(policy)[k]))
            labels.append(given.labels)
            last = k == self.count - 1
            stop = np.ones(len(rows), bool) if last else np.asarray(policy.stop(scores, labels), bool)
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
        assert outputs is not None
        return FoundMany(exits, outputs, sure, told, lengths)

    def all_exits(self, inputs: Sequence[Array]) -> Recorded:
        known = dict(zip(self.names, inputs, strict=True))
        for k, model in enumerate(self.models):
            known.update(zip(model.outputs, model.run([known[n] for n in self.reads[k]]), strict=True))
        return self.recorded(known)

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
