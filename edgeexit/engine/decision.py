"""Decisions: what a run and a batch give back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgeexit.monitor import Reading

Reason = Literal["confident", "rejected", "budget", "deadline", "forced", "last"]


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one input."""

    exit: int
    """Index of the exit that answered, 0 = shallowest."""
    output: NDArray[Any]
    """That exit's output without the batch axis, e.g. `(classes,)`: of the manifest's `kind`, but probabilities at
    every exit where some exits give those and some logits. Of a sequence with padding, its valid positions."""
    score: float
    """Its confidence, larger = surer."""
    reason: Reason
    """confident: the policy was satisfied; rejected: it gave up on this input; forced: the policy allows no deeper
    exit; deadline: no time for the next stage; budget: no budget for it; last: there is no deeper exit."""
    seconds: float
    """Wall-clock time of the whole call."""
    macs: int | None
    """Multiply-accumulates spent, heads evaluated on the way included; None = not known for this model."""
    late: bool | None = None
    """Whether the deadline was missed; None = there was none."""
    reading: Reading | None = None
    """What the governor's monitor last saw; None = none runs."""
    prediction_set: NDArray[np.bool_] | None = None
    """`(classes,)`: True where the class cannot be ruled out at the promised level; None = no sets were calibrated,
    or a deadline forced the exit and the promise is about the policy's own exits only."""
    uncertainty: float | None = None
    """How far the heads of the answering exit are apart, 0 = all say the same, below 1; None = it has one head."""
    accepted: bool | None = None
    """Whether the policy stands by the answer; False = abstain, or ask elsewhere; None = the policy rejects nothing."""
    drifted: bool | None = None
    """Whether inputs have left what the policy was calibrated on, by this one or an earlier one since the monitor's
    reset; None = no drift monitor."""
    unusual: str | None = None
    """How the input lies far outside the calibration rows' range; None = it does not, or no range is stored."""
    class_names: tuple[str, ...] | None = field(default=None, repr=False)
    """The manifest's labels."""

    @property
    def label(self) -> Any:
        """The most likely class: an int, or an array of ints for sequences and maps."""
        classes = np.argmax(self.output, -1)
        return int(classes) if classes.ndim == 0 else classes

    @property
    def name(self) -> Any:
        """The name of `label`: a text, or an array of texts for sequences and maps; None = classes have no names."""
        names = _named(self.label, self.class_names)
        return str(names) if isinstance(names, np.str_) else names


@dataclass(frozen=True, slots=True)
class BatchDecision:
    """The answers to many inputs, as arrays; iterate for `(exit, output, score)` rows."""

    exits: NDArray[np.int64]
    """`(n,)` index of the exit that answered each input."""
    outputs: NDArray[Any]
    """`(n, ...)` output of that exit."""
    scores: NDArray[np.float32]
    """`(n,)`"""
    seconds: float
    """Wall-clock time of the whole call."""
    macs: int | None
    """Sum over the inputs; None = not known."""
    drifted: NDArray[np.bool_] | None = None
    """`(n,)` as `Decision.drifted`, in the order of the inputs; None = no drift monitor."""
    uncertainties: NDArray[np.float32] | None = None
    """`(n,)` as `Decision.uncertainty`, NaN where the exit has one head; None = every exit has."""
    accepted: NDArray[np.bool_] | None = None
    """`(n,)` as `Decision.accepted`; None = the policy rejects nothing."""
    lengths: NDArray[np.int64] | None = None
    """`(n,)` valid positions of each output, the others being padding; None = all are valid."""
    unusual: NDArray[np.bool_] | None = None
    """`(n,)` whether each input is unusual, as `Decision.unusual`; None = no range is stored."""
    class_names: tuple[str, ...] | None = field(default=None, repr=False)
    """The manifest's labels."""

    def __len__(self) -> int:
        return len(self.exits)

    def __iter__(self) -> Iterator[tuple[int, NDArray[Any], float]]:
        for k, output, s in zip(self.exits, self.outputs, self.scores, strict=True):
            yield int(k), output, float(s)

    @property
    def seconds_each(self) -> float:
        """Wall-clock time per input."""
        return self.seconds / len(self)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The most likely class of each input."""
        return np.asarray(np.argmax(self.outputs, -1), np.int64)

    @property
    def names(self) -> NDArray[np.str_] | None:
        """The names of `labels`, of their shape; None = classes have no names."""
        return None if self.class_names is None else _named(self.labels, self.class_names)


def _named(labels: Any, names: tuple[str, ...] | None) -> Any:
    """The classes' names; None = they have none, or too few for these classes."""
    return None if names is None or np.max(labels, initial=-1) >= len(names) else np.asarray(names)[labels]


Observer: TypeAlias = Callable[[Decision | BatchDecision], None]
