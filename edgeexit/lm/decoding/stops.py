"""Stop check: ends an answer as soon as the model is confident of it (Yang et al., "Dynamic early exit in reasoning
models" (DEER), 2025).

At a token that opens another thought the model is prompted for its answer at once. If it is confident of the answer's
tokens, that answer ends the text; if not, the cache is rolled back, which costs nothing, and decoding continues.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from edgeexit.errors import DataError
from edgeexit.lm.sampling import confidence
from edgeexit.lm.session import Session


class StopCheck(Protocol):
    """Check that is tried after certain tokens of an answer."""

    def asks(self, token: int) -> bool:
        """Test whether to try the check at this token."""

    def tried(self, session: Session, room: int) -> list[int] | None:
        """Try to end the answer here.

        Args:
            session: up to before the token; may be added to, and is set back by the caller.
            room: tokens that there is room for.

        Returns:
            The tokens that end the answer, in place of the token; None = go on with it.
        """


@dataclass
class AnswerProbe:
    """DEER's check; make a new one for every answer."""

    triggers: frozenset[int]
    """Tokens that open another thought ("Wait")."""
    probe: Sequence[int]
    """Tokens that ask for the answer ("Final answer:")."""
    threshold: float = 0.95
    """Mean probability of the answer's tokens to stop with."""
    mean: Literal["arithmetic", "geometric"] = "arithmetic"
    most: int = 20
    """Tokens of an answer."""
    tries: int = 10
    """Checks per answer; after them it is left alone."""
    confidences: list[float] = field(init=False, default_factory=list)
    """Of the checks so far."""

    def __post_init__(self) -> None:
        """Raises: DataError for a check that could never stop."""
        if not self.triggers or not self.probe or not 0 <= self.threshold < 1 or self.most < 1 or self.tries < 1:
            raise DataError("a stop check needs trigger and probe tokens, a threshold in [0, 1), and at least one try")

    def asks(self, token: int) -> bool:
        return token in self.triggers and len(self.confidences) < self.tries

    def tried(self, session: Session, room: int) -> list[int] | None:
        model = session.model
        start = len(session.ids)
        session.ids.extend(self.probe)
        sure: list[float] = []
        while len(sure) < min(self.most, room - len(self.probe)):
            logits = model.logits(session.run(model.count - 1)[:, -1:])[-1]
            token = int(logits.argmax())
            sure.append(confidence(logits))
            session.ids.append(token)
            if token in model.spec.eos:
                break
        if not sure:
            return None
        logs = [math.log(p) for p in sure]
        mean = sum(sure) / len(sure) if self.mean == "arithmetic" else math.exp(sum(logs) / len(logs))
        self.confidences.append(mean)
        return session.ids[start:] if mean > self.threshold else None
