"""Memory of a stream through a chain: states, and inputs that deeper stages have not seen yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.manifest import StateSpec

Array = NDArray[Any]


class Waiting(NamedTuple):
    """An input that left before some stage."""

    step: int
    """Its place in the stream, from 0."""
    known: dict[str, Array]
    """What that stage and those behind it read."""


@dataclass
class StreamMemory:
    """Memory of one stream. Inputs that left early wait until the stages that they skipped are needed again."""

    states: dict[str, Array]
    """What every state holds, by the name of its input."""
    waiting: list[deque[Waiting]]
    """Per stage, the inputs that it has not seen, oldest first."""
    limit: int
    """Inputs that may wait for one stage."""
    steps: int = field(default=0)
    """Inputs so far."""

    @classmethod
    def fresh(cls, states: Sequence[StateSpec], stages: int, limit: int) -> StreamMemory:
        """A stream that has seen nothing: states of zeros."""
        return cls(
            {s.input.name: np.zeros([int(a) for a in s.input.shape], s.input.dtype) for s in states},
            [deque() for _ in range(stages)],
            limit,
        )
