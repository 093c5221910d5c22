"""Policy qexit: stop once the probability of having stopped exceeds a quantile (PALBERT)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgeexit.errors import PolicyError
from edgeexit.policy.base import PolicyDefaults, check_temperatures, temperatures_of
from edgeexit.policy.scores import score_named


@dataclass(frozen=True)
class QExit(PolicyDefaults):
    """Stop at the first exit where the probability of having stopped, ``1 - prod(1 - score_j)``, is above `q`.

    PALBERT's Q-exit (Balagansky and Gavrilov, NeurIPS 2022): the score of exit j is taken as the probability of
    stopping there if not before, so ``q = 0.5`` stops at the median of the exit distribution. Meant for a halting
    score that was trained as such a probability; any score in [0, 1] is accepted, but then `q` is only a knob.
    """

    kind: ClassVar[str] = "qexit"
    needs_labels: ClassVar[bool] = False

    q: float = 0.5
    score: str = "maxprob"
    temperatures: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.q, bool) or not isinstance(self.q, int | float) or not 0 <= self.q < 1:
            raise PolicyError(f"q is a probability in [0, 1), found {self.q!r}; 0.5 is the median exit")
        score_named(self.score)
        if self.temperatures is not None:
            check_temperatures(self.temperatures, len(self.temperatures))

    @property
    def exits(self) -> int | None:
        return None if self.temperatures is None else len(self.temperatures)

    def stop(self, scores: Sequence[Any], labels: Sequence[Any] = ()) -> Any:
        # float32 throughout and always in this order, so that one input decides as it does in a batch. A NaN
        # at any exit so far makes the product NaN: nothing is known of such an input, and it goes on to the end.
        survived: Any = np.float32(1)
        for s in scores:
            survived = survived * (np.float32(1) - s)
        return np.float32(1) - survived > np.float32(self.q)

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "score": self.score,
            "q": self.q,
            "temperatures": None if self.temperatures is None else list(self.temperatures),
        }

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> QExit:
        return cls(table["q"], table["score"], temperatures_of(table))
