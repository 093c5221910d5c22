"""Policy window: stop where the score lies outside a window, accepted or rejected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from edgeexit.errors import PolicyError
from edgeexit.policy.base import (
    PolicyDefaults,
    StopReason,
    as_float32,
    check_temperatures,
    from_json,
    numbers,
    temperatures_of,
    to_json,
)
from edgeexit.policy.scores import score_named


@dataclass(frozen=True)
class Window(PolicyDefaults):
    """Stop at exit k when its score lies outside ``[low[k], high[k])``: surely rejected, or surely accepted.

    For applications that accept an answer from a confidence `tau` on and otherwise reject it. Only scores near
    `tau` can still change sides, so only they are worth more layers (Xia and Bouganis, "Window-Based Early-Exit
    Cascades for Uncertainty Estimation", ICCV 2023). Not for answering every input: the hopeless ones stop early.

    ``low = -inf, high = inf`` forbids an exit; ``low = high`` forces it.
    """

    kind: ClassVar[str] = "window"
    needs_labels: ClassVar[bool] = False

    low: tuple[float, ...]
    """One for every exit but the last."""
    high: tuple[float, ...]
    """As `low`, and never less."""
    tau: float
    """The application accepts an answer whose score, at whichever exit it stopped, is at least this."""
    score: str = "maxprob"
    temperatures: tuple[float, ...] | None = None
    compared: tuple[tuple[np.float32, np.float32], ...] = field(init=False, repr=False, compare=False)
    """The windows as float32."""
    accepted_at: np.float32 = field(init=False, repr=False, compare=False)
    """`tau` as float32."""

    def __post_init__(self) -> None:
        low, high, tau = tuple(map(float, self.low)), tuple(map(float, self.high)), float(self.tau)
        if len(low) != len(high):
            raise PolicyError(f"a window needs as many low as high ends, found {len(low)} and {len(high)}")
        if any(math.isnan(t) for t in (*low, *high, tau)):
            raise PolicyError(
                f"a window's end or tau is NaN: low {list(low)}, high {list(high)}, tau {tau}; "
                "use low -inf and high inf to forbid an exit"
            )
        for k, (a, b) in enumerate(zip(low, high, strict=True)):
            if a > b:
                raise PolicyError(f"the window of exit {k} has low {a:g} above high {b:g}; low must not exceed high")
        score_named(self.score)
        for name, value in (("low", low), ("high", high), ("tau", tau)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "compared", tuple(zip(as_float32(low), as_float32(high), strict=True)))
        object.__setattr__(self, "accepted_at", as_float32((tau,))[0])
        check_temperatures(self.temperatures, self.exits)

    @property
    def exits(self) -> int:
        return len(self.low) + 1

    def stop(self, scores: Sequence[Any], labels: Sequence[Any] = ()) -> Any:
        low, high = self.compared[len(scores) - 1]
        return (scores[-1] < low) | (scores[-1] >= high)  # NaN is neither, so it goes on

    @property
    def graph_thresholds(self) -> tuple[np.float32, ...] | None:
        return None if self.compared else ()  # with one exit nothing is compared in the graph

    def reason(self, k: int, score: Any) -> StopReason:
        return "rejected" if score < self.compared[k][0] else "confident"

    def accepts(self, score: Any) -> Any:
        """Whether the application accepts answers of this score (a number or an array); NaN never."""
        return score >= self.accepted_at

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "score": self.score,
            "low": [to_json(t) for t in self.low],
            "high": [to_json(t) for t in self.high],
            "tau": to_json(self.tau),
            "temperatures": None if self.temperatures is None else list(self.temperatures),
        }

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Window:
        low, high, tau = numbers(table["low"]), numbers(table["high"]), from_json(table["tau"])
        return cls(low, high, tau, table["score"], temperatures_of(table))
