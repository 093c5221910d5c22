"""The interface of a layout's driver, its results, and what drivers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.manifest import Artifact, Manifest
from edgeexit.bundle.tasks import RunScorer, task_of
from edgeexit.engine.backends import Runnable
from edgeexit.engine.decision import Reason
from edgeexit.engine.stage_times import StageTimes
from edgeexit.errors import BundleError, PolicyError
from edgeexit.policy.policies import Policy
from edgeexit.policy.scores import Kind, score_named, valid_positions

Array = NDArray[Any]


class ExitOutput(NamedTuple):
    """What one exit gives to n inputs."""

    answer: Array
    uncertainty: Array | None
    """`(n,)`; None = it has one head."""
    learned: Array | None
    """`(n,)`; None = it has no learned score."""
    lengths: Array | None = None
    """`(n,)` valid positions of the answer; None = all are."""

    @property
    def single(self) -> Array:
        """The answer to one input `(1, ...)`, without padding."""
        return self.answer if self.lengths is None else self.answer[:, : int(self.lengths[0])]

    @property
    def labels(self) -> Array:
        """`(n, ...)` most likely classes; -1 in padding, so that it never differs."""
        classes: Array = np.argmax(self.answer, -1)
        if self.lengths is None:
            return classes
        return np.where(valid_positions(self.lengths, classes.shape[1]), classes, -1)


class RunResult(NamedTuple):
    """The answer to one input."""

    exit: int
    output: Array
    """With its batch axis."""
    score: float
    reason: Reason
    uncertainty: float | None = None
    """Of several heads; None = the exit has one."""
    lengths: Array | None = None
    """`(1,)` valid positions of the output; None = all are."""
    network: float = 0.0
    """Seconds in the engine library for this input."""
    others: float = 0.0
    """Seconds spent on earlier inputs of its stream."""


class BatchResult(NamedTuple):
    """The answers to n inputs."""

    exits: Array
    """`(n,)`"""
    outputs: Array
    """`(n, ...)`"""
    scores: Array
    """`(n,)`"""
    uncertainties: Array | None = None
    """`(n,)`, NaN where the exit has one head; None = every exit has."""
    lengths: Array | None = None
    """`(n,)` valid positions of each output; None = all are."""


@dataclass
class AllExitOutputs:
    """What every exit gave, one array per exit."""

    outputs: list[Array]
    """The answers."""
    uncertainties: list[Array | None]
    learned: list[Array | None]
    scores: list[Array] | None = None
    """What the artifact computed itself, if it does."""
    states: Mapping[str, Array] = field(default_factory=dict)
    """Next values, by tensor name."""
    lengths: list[Array | None] | None = None
    """Valid positions of the answers; None = all are, at every exit."""
    seconds: list[float] | None = None
    """Wall-clock time to each exit, as in a run without scores; None = the layout does not go from exit to exit."""

    def single(self, k: int) -> Array:
        """The answer of exit `k` to one input `(1, ...)`, without padding."""
        lengths = None if self.lengths is None else self.lengths[k]
        return self.outputs[k] if lengths is None else self.outputs[k][:, : int(lengths[0])]


class Driver(Protocol):
    """One loaded artifact."""

    times: StageTimes
    """What deadlines look ahead with."""
    kinds: list[Kind]
    """What each exit's answer holds."""

    def fits(self, policy: Policy) -> None:
        """Raise PolicyError unless this artifact can follow the policy."""

    def run(self, inputs: Sequence[Array], policy: Policy, left: Callable[[], float] | None) -> RunResult:
        """Answer one input; `left` gives the seconds until the deadline."""

    def run_batch(self, inputs: Sequence[Array], policy: Policy) -> BatchResult:
        """Answer many."""

    def all_exits(self, inputs: Sequence[Array]) -> AllExitOutputs:
        """What every exit gives for these inputs."""

    def profile(self, inputs: Sequence[Array], repeats: int) -> tuple[float, ...]:
        """Median seconds of each stage (chain), or to each exit (the others), on one input."""


class Base:
    """What the layouts share: names, checks of policies and files, and timing."""

    def __init__(
        self, manifest: Manifest, artifact: Artifact, models: Sequence[Runnable], clock: Callable[[], float]
    ) -> None:
        self.manifest, self.artifact, self.models, self.clock = manifest, artifact, models, clock
        self.task = task_of(manifest)
        self.count = len(manifest.exits)
        self.names = [t.name for t in manifest.feeds]
        self.exit_names = [e.answer.name for e in manifest.exits]
        self.uncertain = [e.uncertainty for e in manifest.exits]
        self.learned = [e.learned for e in manifest.exits]
        self.lengths = [e.lengths for e in manifest.exits]
        self.any_uncertain = any(self.uncertain)
        self.kinds: list[Kind] = ["probs" if e.kind == "probs" else "logits" for e in manifest.exits]
        self.times = StageTimes()

    def fits(self, policy: Policy) -> None:
        if policy.exits not in (None, self.count):
            raise PolicyError(f"the policy is made for {policy.exits} exits, {self.manifest.name} has {self.count}")
        score = score_named(policy.score or "maxprob")
        if score.of_text and self.task.scores is None:
            raise PolicyError(
                f"score {policy.score!r} is of transcripts; {self.manifest.name} is of task {self.task.name}"
            )
        if lacking := [e.name for e in self.manifest.exits if not e.gives(score.name)]:
            raise PolicyError(f"exit {lacking[0]!r} of {self.manifest.name} gives no score {policy.score!r}")

    def temperatures(self, policy: Policy) -> tuple[float, ...]:
        return policy.temperatures or self.artifact.temperatures

    def scorer(self, policy: Policy) -> RunScorer | None:
        """The memory of one run, where the policy looks at what exits wrote; None = it does not."""
        if self.task.scores is None:
            return None
        looks = policy.needs_labels or (policy.score is not None and score_named(policy.score).of_text)
        return self.task.scorer(self.manifest) if looks else None

    def recorded(self, known: Mapping[Any, Array]) -> AllExitOutputs:
        """All exits' tensors, picked by name."""
        return AllExitOutputs(
            [known[n] for n in self.exit_names],
            [None if n is None else known[n] for n in self.uncertain],
            [None if n is None else known[n] for n in self.learned],
            states={s.output: known[s.output] for s in self.manifest.states},
            lengths=None if None in self.lengths else [known[n] for n in self.lengths],
        )

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


def one_by_one(driver: Driver, inputs: Sequence[Array], policy: Policy) -> BatchResult:
    """A batch as single inputs, for layouts and models that take one at a time."""
    results = [driver.run([a[i : i + 1] for a in inputs], policy, None) for i in range(len(inputs[0]))]
    uncertainties = [r.uncertainty for r in results]
    counts = [r.lengths for r in results if r.lengths is not None]
    return BatchResult(
        np.array([r.exit for r in results], np.int64),
        np.concatenate([r.output for r in results]),
        np.array([r.score for r in results], np.float32),
        None
        if all(u is None for u in uncertainties)
        else np.array([np.nan if u is None else u for u in uncertainties], np.float32),
        np.concatenate(counts) if counts else None,
    )
