"""Streams: a sequence of inputs through a network with states, with exits that differ from input to input.

A stage that an input skipped has not seen it, so its states lag behind. The input waits, and goes through that stage
before anything else does: answers are those of a network that never stopped early, only later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from edgeexit.bundle.bundle import Bundle
from edgeexit.bundle.manifest import Artifact
from edgeexit.common.finite import sound
from edgeexit.engine.answers import Answers
from edgeexit.engine.decision import Decision
from edgeexit.engine.inputs import Inputs
from edgeexit.engine.layouts.base import Driver, RunResult
from edgeexit.engine.layouts.chain import Chain
from edgeexit.engine.layouts.memory import StreamMemory
from edgeexit.errors import PolicyError
from edgeexit.policy.policies import Policy, fixed_exit


class Late(NamedTuple):
    """What an exit gives for an input that left before it, once it has gone on."""

    step: int
    """The input's place in the stream, from 0."""
    output: NDArray[Any]
    """With its batch axis of 1."""


class StreamEngine(Protocol):
    """What a stream needs of `edgeexit.engine.engine.Engine`, which makes it."""

    bundle: Bundle
    artifact: Artifact
    driver: Driver
    answers: Answers

    @property
    def exits(self) -> int: ...

    @property
    def policy(self) -> Policy: ...

    def answer(self, x: Inputs, deadline_s: float | None, run: Callable[..., RunResult]) -> Decision:
        """Answer one input by `run`."""


class Stream:
    """One sequence; several may run on one engine, which holds what they share.

    Args:
        engine: of a chain.
        limit: inputs that may wait for one stage; where one more would, the oldest goes through that stage at the end
            of the call, so that memory is bounded.

    Raises:
        PolicyError: see `Engine.stream`.
    """

    def __init__(self, engine: StreamEngine, limit: int = 64) -> None:
        if not isinstance(engine.driver, Chain):
            raise PolicyError(
                f"{engine.artifact.name} cannot stream: only layout chain lets deeper stages catch up; load a chain"
            )
        if limit < 1:
            raise PolicyError(f"at least 1 input may wait for a stage, found limit {limit}")
        self.engine, self.limit = engine, limit
        self._chain: Chain = engine.driver
        self.reset()

    def reset(self) -> None:
        """Begin a new sequence: states of zeros, nothing waits."""
        self._memory = StreamMemory.fresh(self.engine.bundle.manifest.states, self.engine.exits, self.limit)

    @property
    def steps(self) -> int:
        """Inputs so far."""
        return self._memory.steps

    @property
    def waiting(self) -> tuple[int, ...]:
        """Per stage, how many inputs it has not seen."""
        counts = [len(queue) for queue in self._memory.waiting]
        return tuple(sum(counts[: k + 1]) for k in range(len(counts)))

    def step(self, x: Inputs, *, exit: int | None = None, deadline_s: float | None = None) -> Decision:
        """Answer the next input.

        Args:
            x: as `Engine.run` takes it, without states.
            exit: which one answers; None = the engine's policy decides. What waits for a stage goes through it first.
            deadline_s: as for `Engine.run`; the look-ahead counts inputs that wait.

        Raises:
            DataError, PolicyError: as `Engine.run`.
        """
        run: Callable[..., RunResult] = partial(self._chain.run, memory=self._memory)
        if exit is not None:
            forced = fixed_exit(exit, self.engine.exits, self.engine.policy.score or "maxprob")

            def run(inputs: Sequence[Any], policy: Policy, left: Callable[[], float] | None) -> RunResult:
                return self._chain.run(inputs, forced, left, self._memory)

        return self.engine.answer(x, deadline_s, run)

    def deepen(self, exit: int) -> list[Late]:
        """Take every input that waits for a stage up to `exit`'s through it.

        Returns:
            What that exit gives for them, oldest first; inputs that it has seen before are not among them.

        Raises:
            PolicyError: no such exit.
            DataError: it answers with NaN or infinity; no input waits for it any more.
        """
        if not 0 <= exit < self.engine.exits:
            raise PolicyError(f"exit {exit} of a network with {self.engine.exits}")
        late = [Late(step, output.single) for step, output in self._chain.catch_up(exit, self._memory)]
        for step, output in late:
            if not sound(output, self._chain.kinds[exit]):
                raise self.engine.answers.refusal(exit, output, float("nan"), f"input {step} of the stream: ")
        return late
