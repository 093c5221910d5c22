"""Running a bundle: arrays in, `Decision` out. Needs numpy and one engine library."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.checks import check_declared
from edgeexit.bundle.input_range import InputRange, UsualInputs, measure_all
from edgeexit.bundle.layouts import LAYOUTS
from edgeexit.bundle.manifest import Artifact
from edgeexit.common.finite import finite, no_answer, sound, unsound_rows
from edgeexit.engine import layouts
from edgeexit.engine.backends import Backend
from edgeexit.engine.decision import Batch, Decision
from edgeexit.engine.inputs import InputCheck, Inputs
from edgeexit.engine.layouts.base import AllExitOutputs, RunResult
from edgeexit.engine.recording import given_lengths, given_scores, joined
from edgeexit.engine.stream import Stream
from edgeexit.errors import BundleError, DataError, PolicyError
from edgeexit.pictures.preprocess import Preprocess
from edgeexit.policy.drift import DriftMonitor
from edgeexit.policy.operating_point import OperatingPoint
from edgeexit.policy.policies import Policy, Window
from edgeexit.policy.scores import SEQUENCE_BEST, Kind, probabilities, valid_positions
from edgeexit.policy.sets import ConformalSets
from edgeexit.records.classification import Records, check_labels

if TYPE_CHECKING:
    from edgeexit.monitor import Reading

_FORGET = 0.05
"""Weight of the latest input in the slow-down."""
_LONGEST = 1e9
"""Seconds that a stage may be said to take; JSON holds whole numbers that no float does."""
_SLOWEST = 100.0
"""One input that was interrupted for seconds must not rule the next hundred."""


class Engine:
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
        self.bundle, self.artifact, self.backend, self.threads = bundle, artifact, backend, threads
        self.layout = LAYOUTS[artifact.layout]
        self.driver = layouts.make(bundle, artifact, backend, threads, clock)
        self.clock = clock
        states = [s.input for s in bundle.manifest.states]
        self._check = InputCheck(bundle.manifest.inputs, states, bundle.manifest.min_sizes, bundle.manifest.preprocess)
        self._usual = UsualInputs([t.name for t in bundle.manifest.inputs], bundle.manifest.ranges)
        self._macs = [e.macs for e in bundle.manifest.exits]
        if self.layout.self_contained:
            self._macs = [e.prefix_macs for e in bundle.manifest.exits]
        self._one_by_one = "one" in (bundle.manifest.batch, artifact.batch)
        kinds = [e.kind for e in bundle.manifest.exits]
        self.kind: Kind = "logits" if set(kinds) == {"logits"} else "probs"
        """What the answers hold, `Decision.output` and the records alike."""
        self._softened = [self.kind == "probs" and kind == "logits" for kind in kinds]
        """Exits whose logits become probabilities, as other exits (heads that answer together) give those."""
        self._held: tuple[Policy, ConformalSets | None] = policy, None
        """One object, so that another thread replaces both between two inputs or neither."""
        self.point: OperatingPoint | None = None
        """What `follow` took over; None = a policy that was assigned, with which no promise comes."""
        self.policy_source = f"a policy {policy.kind!r} of the caller"
        """What decides and why, in words: which operating point it is, or why there is none."""
        if self.layout.answers:  # the one that does not records, whatever the policy, and refuses when run
            self.driver.fits(policy)
        self.drift = drift
        self.seconds: tuple[float, ...] | None = None
        """Measured at load: seconds per stage (chain) or to each exit (fused, prefix); None = `warmup=0`."""
        self.slowdown = 1.0
        """How much longer inputs take now than the profile says: an exponential average over the latest ones. Deadlines
        look ahead with it."""
        self.missed = 0
        """Inputs that were answered after their deadline."""
        self.reading: Reading | None = None
        """What the machine was like lately; goes into decisions. A governor keeps it up to date."""
        self.observer: Callable[[Decision], None] | None = None
        """Is shown every decision of `run`; must be quick. A governor sets it."""
        self._expected: tuple[float, ...] | None = None
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
    def policy(self) -> Policy:
        """What decides; assigning checks that this artifact can follow it.

        A drift monitor stays attached and keeps what it has seen, though its bounds are the earlier policy's:
        assign a monitor of the new policy's regime afterwards. Before changing to another score, set `drift` to None.

        Raises:
            PolicyError: on assignment, it cannot, or the drift monitor watches another score.
        """
        return self._held[0]

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self.driver.fits(policy)
        if self._drift is not None:
            self._drift.regime.fits(policy, self.exits)
        sets = self._held[1]
        if sets is not None:
            sets.fits(policy, self.exits)
        self._held, self.point = (policy, sets), None
        self.policy_source = f"a policy {policy.kind!r} of the caller"

    @property
    def drift(self) -> DriftMonitor | None:
        """What is shown every answer, to fill in `Decision.drifted`; None = no monitor.

        Assign a new one, or `reset()` it, after recalibration.

        Raises:
            PolicyError: on assignment, its regime is of another number of exits or another score than the policy's.
        """
        return self._drift

    @drift.setter
    def drift(self, drift: DriftMonitor | None) -> None:
        if drift is not None:
            drift.regime.fits(self.policy, self.exits)
        self._drift = drift

    @property
    def sets(self) -> ConformalSets | None:
        """What fills in `Decision.prediction_set`; None = nothing. The promise is `sets.promise`.

        Raises:
            PolicyError: on assignment, made for another number of exits or, where it matters, another policy.
        """
        return self._held[1]

    @sets.setter
    def sets(self, sets: ConformalSets | None) -> None:
        if sets is not None:
            sets.fits(self.policy, self.exits)
        self._held = self.policy, sets

    @property
    def default_score(self) -> str:
        """What policies compare here unless told otherwise: what a fused graph holds, else the kind's best."""
        return self.artifact.score or (SEQUENCE_BEST if self.bundle.manifest.speech is not None else "maxprob")

    @property
    def exits(self) -> int:
        return len(self._macs)

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
        left = None if deadline_s is None else self._left(start, deadline_s)
        policy, sets = self._held
        k, output, score, reason, uncertainty, lengths = run(inputs, policy, left)
        if lengths is not None:
            output = output[:, : int(lengths[0])]
        if not (math.isfinite(score) and sound(output, self.driver.kinds[k])):
            raise self.no_answer(k, output, score)
        if self._softened[k]:
            output = probabilities(output)
        drift = self._drift
        drifted = None if drift is None else drift.see(k, score)
        accepted = bool(policy.accepts(score)) if isinstance(policy, Window) else None
        seconds = self.clock() - start
        if self._expected is not None:
            self.slowdown += _FORGET * (min(max(seconds, 0.0) / self._expected[k], _SLOWEST) - self.slowdown)
            self.driver.slowdown = max(self.slowdown, 1.0)
        late = None if deadline_s is None else seconds > deadline_s
        if late:
            self.missed += 1
        kept = None if sets is None else self._set_of(sets, k, output, reason)
        decision = Decision(
            k,
            output[0],
            score,
            reason,
            seconds,
            self._macs[k],
            late,
            self.reading,
            kept,
            uncertainty,
            accepted,
            drifted,
            unusual,
            self.bundle.manifest.labels,
        )
        if self.observer is not None:
            self.observer(decision)
        return decision

    def follow(self, point: OperatingPoint) -> None:
        """Take over an operating point's policy and its prediction sets; without sets, none are given.

        Raises:
            PolicyError: calibrated on another artifact, or this one cannot follow it.
        """
        check_artifact(point, self.artifact)
        sets = None if point.sets is None else ConformalSets.from_dict(point.sets)
        if sets is not None:
            sets.fits(point.policy, self.exits)
        self.driver.fits(point.policy)
        if self._drift is not None:
            self._drift.regime.fits(point.policy, self.exits)
        self._held, self.point = (point.policy, sets), point
        self.policy_source = f"operating point {point.name}"

    @staticmethod
    def _set_of(sets: ConformalSets, k: int, output: NDArray[Any], reason: str) -> NDArray[np.bool_] | None:
        if sets.policy is not None and reason == "deadline":
            return None
        found: NDArray[np.bool_] = sets.at(k, output)[0]
        return found

    def run_batch(self, x: Inputs) -> Batch:
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
            found = layouts.one_by_one(self.driver, inputs, policy)
        else:
            found = self.driver.run_batch(inputs, policy)
        exits, outputs, scores, uncertainties, lengths = found
        if not (finite(scores) and finite(outputs)):
            self._check_rows(exits, outputs, scores, lengths)
        for k in np.flatnonzero(self._softened):
            outputs[exits == k] = probabilities(outputs[exits == k])
        macs = [self._macs[k] for k in np.unique(exits)]
        total = None if None in macs else int(sum(self._macs[k] or 0 for k in exits))
        drift, drifted = self._drift, None
        if drift is not None:
            drifted = np.array([drift.see(k, s) for k, s in zip(exits, scores.tolist(), strict=True)])
        accepted = np.asarray(policy.accepts(scores), bool) if isinstance(policy, Window) else None
        unusual = self._usual.each(inputs)
        return Batch(
            exits, outputs, scores, self.clock() - start, total, drifted, uncertainties, accepted, lengths, unusual,
            self.bundle.manifest.labels,
        )  # fmt: skip

    def no_answer(self, k: int, output: NDArray[Any], score: float, row: str = "") -> DataError:
        """The error for what exit `k` gave to one input, where that is no answer; `row` says which input."""
        exit = f"{row}exit {k} ({self.bundle.manifest.exits[k].name!r})"
        half = output.dtype == np.float16 or "16" in self.artifact.precision
        return no_answer(self.artifact.name, exit, output, self.driver.kinds[k], score, half)

    def _check_rows(
        self, exits: NDArray[Any], outputs: NDArray[Any], scores: NDArray[Any], lengths: NDArray[Any] | None
    ) -> None:
        """Refuse a batch with an answer that is none."""
        wrong = ~np.isfinite(scores)
        for k in np.unique(exits):
            at = np.flatnonzero(exits == k)
            valid = None if lengths is None else valid_positions(lengths[at], outputs.shape[1])
            wrong[at] |= unsound_rows(outputs[at], self.driver.kinds[k], valid)
        if not wrong.any():
            return
        row = int(np.argmax(wrong))
        output = outputs[row : row + 1] if lengths is None else outputs[row : row + 1, : int(lengths[row])]
        count = int(np.count_nonzero(wrong))
        named = f"row {row}" + (f" (the first of {count} such rows)" if count > 1 else "")
        raise self.no_answer(int(exits[row]), output, float(scores[row]), f"{named}: ")

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
        n = len(inputs[0])
        rows: list[AllExitOutputs] = []
        states = self.bundle.manifest.states
        following = not (isinstance(x, Mapping) and any(s.input.name in x for s in states))
        for i in range(n):
            row = [a[i : i + 1] for a in inputs]
            if states and following and rows:
                row[-len(states) :] = [rows[-1].states[s.output] for s in states]
            try:
                rows.append(self.driver.all_exits(row))
            except DataError as e:
                raise DataError(f"row {i}: {e}") from e
            for k in range(self.exits):
                if not sound(answer := rows[-1].single(k), self.driver.kinds[k]):
                    raise self.no_answer(k, answer, math.nan, f"row {i}: ")
            if not i and labels is not None and rows[0].lengths is None:  # before the work, not after it
                check_labels(labels, (self.exits, n, *rows[0].outputs[0].shape[1:]), self.bundle.manifest.name)
            progress(i + 1, n)
        cost, static = self.costs()
        outputs = [probabilities(o) if soft else o for o, soft in zip(joined(rows), self._softened, strict=True)]
        return Records(
            np.stack(outputs), cost, labels, self.kind, static, given_scores(rows, self.artifact.score),
            self.artifact.temperatures, self.bundle.manifest.name, given_lengths(rows),
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
        found = self.example()
        self.use_profile(self.driver.profile(found, repeats))
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
        ahead = seconds if ahead is None else ahead
        for times in (seconds, ahead):
            if len(times) != self.exits or not all(0 < s < _LONGEST for s in times):
                raise PolicyError(
                    f"a profile of {self.artifact.name} has {self.exits} positive times, found {times!r:.80}"
                )
        self.seconds = tuple(float(s) for s in seconds)
        self.driver.seconds = tuple(float(s) for s in ahead)
        self._expected = tuple(np.cumsum(self.seconds).tolist()) if self.layout.stepwise else self.seconds
        self.slowdown = self.driver.slowdown = 1.0

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

    def _left(self, start: float, deadline_s: float) -> Callable[[], float]:
        if not 0 < deadline_s < float("inf"):
            raise PolicyError(f"a deadline is a positive number of seconds, found {deadline_s}")
        if self.seconds is None:
            raise PolicyError("a deadline needs measured stage times: load with warmup > 0 or call profile()")
        return lambda: start + deadline_s - self.clock()


def check_artifact(point: OperatingPoint, artifact: Artifact) -> None:
    """Refuse an operating point that was calibrated on another artifact.

    Raises:
        PolicyError: it was.
    """
    if point.artifact is not None and point.artifact != artifact.name:
        raise PolicyError(
            f"operating point {point.name!r} was calibrated on {point.artifact}; {artifact.name} gives other scores: "
            f"load artifact={point.artifact!r}, or calibrate on {artifact.name}"
        )
