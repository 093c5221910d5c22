"""Tasks: what classification, transcription and language models do differently, one row each.

The core asks the row of a bundle's task, never which task it is. A new task is a `Task` row in `TASKS`, or an entry
point in the group ``edgeexit.tasks`` of another distribution whose name is the manifest's `task`. References are
"module:object" and are imported when used, so that a bundle loads its own task's code only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from numpy.typing import NDArray

from edgeexit.bundle.manifest import Artifact, Manifest
from edgeexit.common.plugins import plugin, resolve
from edgeexit.errors import BundleError
from edgeexit.policy.policies import Policy, fixed_exit
from edgeexit.policy.scores import Kind

GROUP = "edgeexit.tasks"


class RunScorer(Protocol):
    """Memory of one run whose scores depend on what earlier exits wrote."""

    def see(self, answers: NDArray[Any], lengths: NDArray[Any] | None, kind: Kind, temperature: float) -> None:
        """Go on to the next exit's answers `(n, positions, classes)`."""

    def score(self, name: str) -> NDArray[Any]:
        """`(n,)` scores of the latest exit."""

    def labels(self) -> NDArray[Any]:
        """`(n,)` what the latest exit wrote, to compare with other exits'."""

    def keep(self, rows: NDArray[Any]) -> None:
        """Go on with the inputs that are True in `(n,)`."""


@dataclass(frozen=True)
class Verified:
    """How one artifact did on the shipped vectors."""

    artifact: str
    passed: bool | None
    """None = not run: its engine is missing or it ships no vectors."""
    reason: str
    """What failed or why it was not run; empty when it passed."""
    max_error: tuple[float, ...] = ()
    """`(exits,)` largest difference as a fraction of the exit's largest output."""
    tolerance: float | None = None
    exits_agree: int | None = None
    """Inputs that left where they should; None = this layout does not decide."""
    inputs: int = 0


@dataclass(frozen=True)
class Uncalibrated:
    """A policy that needs no calibration."""

    policy: Policy
    reason: str
    """What it does, for `Engine.policy_source`."""


@dataclass(frozen=True)
class Task:
    """One task."""

    name: str
    """The manifest's `task`."""
    default_score: str = "maxprob"
    """What policies compare where none is named and no fused graph holds one."""
    preferred_layout: str | None = None
    """The layout to prefer among those that decide; None = the bundle's order."""
    checks: str | None = None
    """``(manifest, at) -> None``, raises BundleError unless the manifest's section fits its exits."""
    uncalibrated: str = "edgeexit.bundle.tasks:last_exit"
    """``(manifest, artifact) -> Uncalibrated``: what decides without an operating point."""
    scores: str | None = None
    """``(manifest) -> RunScorer``, for scores of what exits wrote; None = answers are classes, which have no such
    scores."""
    verification: str | None = None
    """``(bundle, artifact, threads) -> Verified``, for artifacts of layouts that no engine runs; None =
    there are none. Other artifacts ship inputs and outputs, which are run again."""

    def check(self, manifest: Manifest, at: str) -> None:
        """Check that the manifest's section fits its exits.

        Raises:
            BundleError: it does not; `at` names the document.
        """
        if self.checks is not None:
            resolve(self.checks)(manifest, at)

    def default_policy(self, manifest: Manifest, artifact: Artifact) -> Uncalibrated:
        """What decides where nothing was calibrated or asked for."""
        result: Uncalibrated = resolve(self.uncalibrated)(manifest, artifact)
        return result

    def scorer(self, manifest: Manifest) -> RunScorer:
        """A fresh memory for one run; only where `scores` is not None."""
        assert self.scores is not None
        result: RunScorer = resolve(self.scores)(manifest)
        return result

    @property
    def verify(self) -> Callable[..., Verified] | None:
        """``(bundle, artifact, threads) -> Verified``; None = the task has no layouts of its own."""
        return None if self.verification is None else resolve(self.verification)


def last_exit(manifest: Manifest, artifact: Artifact) -> Uncalibrated:
    """Answer always at the last exit."""
    count = len(manifest.exits)
    policy = fixed_exit(count - 1, count, artifact.score or "maxprob")
    return Uncalibrated(policy, "the last exit answers (`edgeexit calibrate` makes one)")


CLASSIFICATION = Task("classification")
TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "speech": Task(
            "transcription",
            default_score="ctc_sequence_logprob",
            preferred_layout="chain",  # it can ask whether two exits agree, which needs no calibration
            checks="edgeexit.speech.task:check",
            uncalibrated="edgeexit.speech.task:first_agreement",
            scores="edgeexit.speech.task:scorer",
        ),
        "lm": Task("language-model", checks="edgeexit.lm.task:check", verification="edgeexit.lm.task:verify"),
    }
)
"""The manifest's section that describes the task -> its row."""


def tasks_of(manifest: Manifest) -> tuple[Task, ...]:
    """The tasks whose sections a manifest has."""
    return tuple(task for section, task in TASKS.items() if getattr(manifest, section) is not None)


def task_of(manifest: Manifest) -> Task:
    """The task of a manifest: its section's, else the one registered under its `task`, else classification.

    Raises:
        BundleError: another distribution registers that task, and it cannot be loaded or is no `Task`.
    """
    if described := tasks_of(manifest):
        return described[0]
    if manifest.task in (CLASSIFICATION.name, *(t.name for t in TASKS.values())):
        return CLASSIFICATION
    result = plugin(GROUP, manifest.task, BundleError)
    if result is None:  # `task` is a note, too: every other network classifies
        return CLASSIFICATION
    if not isinstance(result, Task):
        raise BundleError(
            f"entry point {manifest.task!r:.60} of group {GROUP} is a {type(result).__name__}; "
            "expected a `edgeexit.bundle.tasks.Task`"
        )
    return result
