"""Engine: one loaded artifact with a policy; arrays in, `Decision` out. Needs numpy and one engine library."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.checks import check_declared
from edgeexit.bundle.input_range import InputRange, UsualInputs, measure_all
from edgeexit.bundle.manifest import Artifact
from edgeexit.bundle.tasks import task_of
from edgeexit.engine import layouts
from edgeexit.engine.answers import Answers
from edgeexit.engine.backends import Backend
from edgeexit.engine.decider import Decider, prediction_set
from edgeexit.engine.decision import BatchDecision, Decision, Observer
from edgeexit.engine.inputs import InputCheck, Inputs
from edgeexit.engine.layouts.base import RunResult
from edgeexit.engine.recording import joined, record_rows, stored_scores, valid_lengths
from edgeexit.engine.stream import Stream
from edgeexit.errors import BundleError, DataError
from edgeexit.pictures.preprocess import Preprocess
from edgeexit.policy.drift import DriftMonitor
from edgeexit.policy.policies import Policy
from edgeexit.policy.scores import Kind
from edgeexit.records.classification import Records

if TYPE_CHECKING:
    from edgeexit.monitor import Reading


class Engine(Decider):
    """A loaded artifact with a policy.

    The policy may be swapped at any time (`engine.policy = ...`); a run in progress keeps the one it began with.
    """

    def __init__(
        self,
        bundle: Bundle,
        artifact: Artifact,
        backend: Backend,
        policy: Policy,
        *,
        threads: int = 1,
        warmup: int = 3,
        clock: Callable[[], float] = time.perf_counter,
        drift: DriftMonitor | None = None,
    ) -> None:
        self.bundle, self.backend, self.threads = bundle, backend, threads
        driver = layouts.make(bundle, artifact, backend, threads, clock)
        super().__init__(artifact, driver, len(bundle.manifest.exits), policy)
        self.task = task_of(bundle.manifest)
        """What the bundle's task does differently from others."""
        self.clock = clock
        states = [s.input for s in bundle.manifest.states]
        self._check = InputCheck(bundle.manifest.inputs, states, bundle.manifest.min_sizes, bundle.manifest.preprocess)
        self._usual = UsualInputs([t.name for t in bundle.manifest.inputs], bundle.manifest.ranges)
        self._macs = [e.macs for e in bundle.manifest.exits]
        if self.layout.self_contained:
            self._macs = [e.prefix_macs for e in bundle.manifest.exits]
        self._one_by_one = "one" in (bundle.manifest.batch, artifact.batch)
        self.answers = Answers(bundle.manifest, artifact)
        """Checks and converts what the exits give."""
        self.kind: Kind = self.answers.kind
        """What the answers hold, `Decision.output` and the records alike."""
        self.drift = drift
        self.missed = 0
        """Inputs that were answered after their deadline."""
        self.reading: Reading | None = None
        """What the machine was like lately; goes into decisions. A governor keeps it up to date."""
        self.observer: Observer | None = None
        """Is called with every decision of `run` and of `run_batch`; must be quick. A governor sets it."""
        if warmup:
            self.profile(warmup)

    @property
    def preprocess(self) -> Mapping[str, Preprocess]:
        """How pictures become inputs, by the inputs' names; assign to use another declaration than the bundle's.

        Raises:
            DataError: on assignment, an input that there is not, or a declaration that does not fit it.
        """
        return self._check.preprocess

    @preprocess.setter
    def preprocess(self, declared: Mapping[str, Preprocess]) -> None:
        m = self.bundle.manifest
        check_declared(m.inputs, declared)
        self._check = InputCheck(m.inputs, [s.input for s in m.states], m.min_sizes, declared)

    @property
    def seconds(self) -> tuple[float, ...] | None:
        """Measured at load: seconds per stage (chain) or to each exit (fused, prefix); None = `warmup=0`."""
        return self.driver.times.seconds

    @property
    def slowdown(self) -> float:
        """How much longer the network takes now than the profile says, an exponential average over the latest inputs.
        Deadlines look ahead with it."""
        return self.driver.times.slowdown

    @property
    def default_score(self) -> str:
        """What policies compare here by default: what a fused graph holds, else the task's default."""
        return self.artifact.score or self.task.default_score

    def run(self, x: Inputs, *, deadline_s: float | None = None) -> Decision:
        """Answer one input.

        Args:
            x: the model's input, with or without its batch axis of 1; a mapping for several inputs. States of a
                network with memory may be among them and are zeros otherwise; `stream` carries them on. With
                preprocessing declared also a picture, see `edgeexit.pictures.convert.PictureInput`.
            deadline_s: seconds this call may take. The next stage starts only if its measured time fits in
                what is left; exit 0 always answers, so a shorter deadline is answered late and marked so.

        Raises:
            DataError: wrong name, dtype or shape, NaN or infinity; an exit on the way answers with NaN or infinity
                (-inf among logits rules a class out); with a drift monitor also a score outside [0, 1].
            PolicyError: a deadline without measured stage times (`warmup=0`), or not a positive number.
        """
        return self.answer(x, deadline_s, self.driver.run)

    def examples(self) -> list[dict[str, NDArray[Any]]]:
        """Example inputs of the bundle, each as `run` takes it; see `Bundle.examples`."""
        return self.bundle.examples(self.artifact)

    def stream(self, *, limit: int = 64) -> Stream:
        """Begin a sequence of inputs that a network with states remembers; layout chain only.

        Args:
            limit: inputs that may wait for a deeper stage; see `Stream`.

        Raises:
            PolicyError: another layout, or not a positive limit.
        """
        return Stream(self, limit)

    def answer(self, x: Inputs, deadline_s: float | None, run: Callable[..., RunResult]) -> Decision:
        """As `run`, with `run(inputs, policy, left)` to go through the stages."""
        start = self.clock()
        inputs = self._check.one(x)
        unusual = self._usual.of(inputs)
        left = None if deadline_s is None else self.driver.times.left(start, deadline_s, self.clock)
        policy, sets = self._held
        k, output, score, reason, uncertainty, lengths, network, others = run(inputs, policy, left)
        if lengths is not None:
            output = output[:, : int(lengths[0])]
        output = self.answers.one(k, output, score)
        drift = self._drift
        drifted = None if drift is None else drift.see(k, score)
        accepted = policy.accepts(score)
        seconds = self.clock() - start
        self.driver.times.observe(k, network, seconds - network - others)
        late = None if deadline_s is None else seconds > deadline_s
        if late:
            self.missed += 1
        decision = Decision(
            k,
            output[0],
            score,
            reason,
            seconds,
            self._macs[k],
            late,
            self.reading,
            None if sets is None else prediction_set(sets, k, output, reason),
            uncertainty,
            None if accepted is None else bool(accepted),
            drifted,
            unusual,
            self.bundle.manifest.labels,
        )
        if self.observer is not None:
            self.observer(decision)
        return decision

    def run_batch(self, x: Inputs) -> BatchDecision:
        """Answer many independent inputs; with layout chain, inputs that left are not carried on.

        Args:
            x: arrays `(n, ...)`.

        Raises:
            DataError: as `run`; or no rows.
        """
        start = self.clock()
        inputs = self._check.many(x)
        policy = self.policy
        if self._one_by_one:
            result = layouts.one_by_one(self.driver, inputs, policy)
        else:
            result = self.driver.run_batch(inputs, policy)
        exits, outputs, scores, uncertainties, lengths = result
        outputs = self.answers.many(exits, outputs, scores, lengths)
        macs = [self._macs[k] for k in np.unique(exits)]
        total = None if None in macs else int(sum(self._macs[k] or 0 for k in exits))
        drift, drifted = self._drift, None
        if drift is not None:
            drifted = np.array([drift.see(k, s) for k, s in zip(exits, scores.tolist(), strict=True)])
        accepted = policy.accepts(scores)
        unusual = self._usual.each(inputs)
        batch = BatchDecision(
            exits, outputs, scores, self.clock() - start, total, drifted, uncertainties,
            None if accepted is None else np.asarray(accepted, bool), lengths, unusual, self.bundle.manifest.labels,
        )  # fmt: skip
        if self.observer is not None:
            self.observer(batch)
        return batch

    def record(
        self, x: Inputs, labels: NDArray[Any] | None = None, *, progress: Callable[[int, int], None] = lambda i, n: None
    ) -> Records:
        """What every exit answers to every input, for calibration and replay.

        Inputs go through one by one, as `run` takes them: a batch's last bits differ, and a replay of
        these records agrees with running. Rows for a network with states follow one another, as in a stream, unless
        states are among them.

        Args:
            x: arrays `(n, ...)`.
            labels: true classes `(n,)`, if known.
            progress: called with rows done and rows in all.

        Raises:
            DataError: as `run_batch`, with the exit and the row; or labels that are none.
        """
        inputs = self._check.rows(x)
        states = [s.input.name for s in self.bundle.manifest.states]
        carried = () if isinstance(x, Mapping) and any(n in x for n in states) else self.bundle.manifest.states
        rows = record_rows(self.driver, self.answers, inputs, carried, labels, progress)
        cost, static = self.costs()
        return Records(
            np.stack([self.answers.of_exit(k, o) for k, o in enumerate(joined(rows))]), cost, labels, self.kind,
            static, stored_scores(rows, self.artifact.score), self.artifact.temperatures, self.bundle.manifest.name,
            valid_lengths(rows),
        )  # fmt: skip

    def input_ranges(self, x: Inputs) -> Mapping[str, InputRange]:
        """The ranges of rows `(n, ...)` as the network gets them, by the inputs' names.

        Raises:
            DataError: as `run`.
        """
        return measure_all([t.name for t in self.bundle.manifest.inputs], self._check.rows(x))

    def checked(self, x: Inputs) -> list[NDArray[Any]]:
        """One input as `driver` takes it.

        Raises:
            DataError: as `run`.
        """
        return self._check.one(x)

    def costs(self) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Cumulative cost per exit, adaptive and static: MACs, or this device's seconds where MACs are unknown."""
        exits = self.bundle.manifest.exits
        macs, alone = [e.macs for e in exits], [e.prefix_macs for e in exits]
        if None not in macs:
            return np.array(macs, np.float64), None if None in alone else np.array(alone, np.float64)
        if self.seconds is None:
            raise DataError("this model's MACs are unknown and no times were measured: load with warmup > 0")
        return (np.cumsum(self.seconds) if self.layout.stepwise else np.array(self.seconds)), None

    def profile(self, repeats: int = 3) -> tuple[float, ...]:
        """Measure stage times on this device (warm-up included) for deadlines; median of `repeats`."""
        self.use_profile(self.driver.profile(self.example(), repeats))
        assert self.seconds is not None
        return self.seconds

    def use_profile(self, seconds: Sequence[float], ahead: Sequence[float] | None = None) -> None:
        """Take over stage times that were measured before, on this device and this artifact.

        Args:
            seconds: typical ones, as `profile` gives them.
            ahead: cautious ones, such as 90th percentiles, for looking ahead at deadlines; None = the typical ones.

        Raises:
            PolicyError: not one positive number per exit.
        """
        self.driver.times.use(
            seconds, seconds if ahead is None else ahead, self.exits, self.layout.stepwise, self.artifact.name
        )

    def example(self) -> list[NDArray[Any]]:
        """One input that fits: the first of the shipped vectors, or zeros."""
        if self.artifact.vectors is not None:
            arrays = self.bundle.arrays(self.artifact.vectors)
            names = [f"input_{i}" for i in range(len(self.bundle.manifest.feeds))]
            if all(n in arrays for n in names):
                return self._check.one({s.name: arrays[n][:1] for s, n in zip(self._check.specs, names, strict=True)})
            raise BundleError(f"{self.bundle.path}: {self.artifact.vectors.path} lacks the model's inputs")
        least = self.bundle.manifest.min_sizes
        shapes = [tuple(a if isinstance(a, int) else least.get(a, 1) for a in s.shape) for s in self._check.specs]
        return [np.zeros(shape, s.dtype) for shape, s in zip(shapes, self._check.specs, strict=True)]
