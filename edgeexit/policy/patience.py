"""Policy patience: stop once several exits in a row agree (PABEE)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgeexit.errors import PolicyError
from edgeexit.policy.base import PolicyDefaults


@dataclass(frozen=True)
class Patience(PolicyDefaults):
    """Stop once `patience` exits in a row agreed with the exit before them (PABEE, Zhou et al., NeurIPS 2020).

    ``patience=1`` stops at the second exit if it repeats the first one's prediction.
    """

    kind: ClassVar[str] = "patience"
    needs_labels: ClassVar[bool] = True
    score: ClassVar[None] = None
    exits: ClassVar[None] = None
    temperatures: ClassVar[None] = None

    patience: int

    def __post_init__(self) -> None:
        if isinstance(self.patience, bool) or not isinstance(self.patience, int) or self.patience < 1:
            raise PolicyError(f"patience must be a whole number of at least 1, found {self.patience!r}")

    def stop(self, scores: Sequence[Any], labels: Sequence[Any]) -> Any:
        if len(labels) <= self.patience:
            return np.zeros(np.shape(labels[-1])[:1], bool) if np.ndim(labels[-1]) else False
        agreed: Any = True
        for earlier in labels[-1 - self.patience : -1]:
            same = earlier == labels[-1]
            # Sequences agree when all their positions do.
            agreed = agreed & (same if np.ndim(same) < 2 else same.reshape(len(same), -1).all(1))
        return agreed

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "patience": self.patience}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Patience:
        return cls(table["patience"])
