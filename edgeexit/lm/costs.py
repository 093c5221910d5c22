"""Cost table of a language model on this device: seconds of stages by tokens at a time and before, and of heads.

It is measured (`tuning.measure_costs`), as it cannot be derived: five tokens together cost 1.2 times one in float and
twice one in int4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeexit.errors import DataError
from edgeexit.lm.model import Array, LanguageModel

SCHEMA = 2
_ARRAYS = ("positions", "stages", "heads", "sure", "fills", "play")
BUSY = 0.15
"""Share of other work above which the times are unreliable."""


@dataclass(frozen=True, eq=False)
class Costs:
    """Seconds of each part, as an average over many steps."""

    positions: Array
    """`(P,)` cache lengths that were measured, rising."""
    stages: Array
    """`(exits, block, P)`: stage k over T = 1..block new tokens."""
    heads: Array
    """`(exits, block)`: exit k's head over T hidden states and the first guess of each; the last is the full head's."""
    sure: Array
    """`(exits,)`: time to compute one confidence from exit k's logits."""
    fills: Array
    """`(exits,)`: stand-in keys and values of stage k for one token; NaN where the artifact has none."""
    play: Array
    """`(exits, block)`: a whole round of decoding with 0, 1, ... drafts of exit k, the host's own work included, over
    the sum of its parts; the last row's drafts cost nothing, as prompt lookup's. 0 drafts are plain decoding, whatever
    the exit. Early stages that run again and again stay in the processor's caches."""
    choice: float = 0.0
    """Time of one choice by `del`, before every round."""
    artifact: str = ""
    threads: int = 1
    device: str | None = None
    n: int = 0
    """Repetitions of each measurement."""
    busy: float | None = None
    """Share of that time in which the processor did something else, so that caches were not ours alone. None = unknown,
    as with several threads."""

    def __post_init__(self) -> None:
        """Raises: DataError for arrays that do not fit together, or times that are not positive numbers."""
        exits, block, count = self.stages.shape if self.stages.ndim == 3 else (0, 0, 0)
        shapes = {"positions": (count,), "heads": (exits, block), "sure": (exits,), "fills": (exits,),
                  "play": (exits, block)}  # fmt: skip
        wrong = [n for n, shape in shapes.items() if getattr(self, n).shape != shape]
        if not exits or not count or wrong:
            raise DataError(f"costs: {(wrong or ['stages'])[0]} has an unexpected shape; measure them again")
        times = (self.stages, self.heads, self.sure, self.play, np.asarray(self.choice))
        if (
            not all(np.isfinite(a).all() and (a >= 0).all() for a in times)
            or (self.stages <= 0).any()
            or (self.play <= 0).any()
            or not (np.isnan(self.fills) | (np.isfinite(self.fills) & (self.fills >= 0))).all()
        ):
            raise DataError("costs: times must be finite and above 0; measure them again")
        if not np.isfinite(self.positions).all() or (np.diff(self.positions) <= 0).any() or self.positions[0] < 0:
            raise DataError("costs: positions must rise from at least 0")
        object.__setattr__(self, "_rounds", {})

    @property
    def exits(self) -> int:
        return int(self.stages.shape[0])

    @property
    def block(self) -> int:
        """The most tokens at a time."""
        return int(self.stages.shape[1])

    @property
    def middle(self) -> int:
        """A cache length in the middle of those measured."""
        return int(self.positions[len(self.positions) // 2])

    def along(self, done: Array) -> Array:
        """Stages' seconds at cache lengths `(n,)`: `(exits, block, n)`; linear between and beyond those measured."""
        at, known = np.asarray(done, np.float64), self.positions.astype(np.float64)
        if len(known) == 1:
            return np.repeat(self.stages, len(at), axis=2)
        low = np.clip(np.searchsorted(known, at, side="right") - 1, 0, len(known) - 2)
        share = (at - known[low]) / (known[low + 1] - known[low])
        between = self.stages[:, :, low] * (1 - share) + self.stages[:, :, low + 1] * share
        limited: Array = np.maximum(between, self.stages.min(axis=2, keepdims=True) / 2)
        return limited

    def rounds(self, done: int, draft: int) -> Array:
        """`(exits - 1, draft + 1)` seconds of a round with 0..draft drafts of each early exit; 0 = plain decoding.

        Raises:
            DataError: more drafts than were measured.
        """
        if draft + 1 > self.block:
            raise DataError(f"{draft} drafts need costs of {draft + 1} tokens at a time; measured: {self.block}")
        key = (done // 32, draft)
        known: dict[tuple[int, int], Array] = self._rounds  # type: ignore[attr-defined]
        if key not in known:
            stages = self.along(np.array([done // 32 * 32 + 16]))[:, : draft + 1, 0]
            early = np.cumsum(stages[:-1, 0])[:, None]
            late = (stages.sum(0) - np.cumsum(stages, axis=0))[:-1]
            drafts = np.arange(draft + 1)
            parts = (drafts + 1) * early + drafts * self.heads[:-1, :1] + late + self.heads[-1, : draft + 1]
            known[key] = parts * self.play[:-1, : draft + 1]
        return known[key]

    def check(self, model: LanguageModel, block: int) -> None:
        """Raises: DataError if they are another artifact's or of too few tokens at a time."""
        if self.exits != model.count or self.artifact != model.artifact or self.threads != model.threads:
            raise DataError(
                f"costs of {self.artifact or 'another artifact'} with {self.exits} exits and {self.threads} threads; "
                f"this is {model.artifact} with {model.count} and {model.threads}: measure again"
            )
        if self.block < block:
            raise DataError(f"costs reach to {self.block} tokens at a time, {block} are needed: measure again")

    def to_dict(self) -> dict[str, Any]:
        """JSON, for a file."""
        arrays = {n: getattr(self, n).tolist() for n in ("positions", "stages", "heads", "sure", "play")}
        fills = [None if np.isnan(f) else float(f) for f in self.fills]
        other = {"artifact": self.artifact, "threads": self.threads, "device": self.device, "n": self.n,
                 "busy": self.busy, "choice": self.choice}  # fmt: skip
        return {"schema": SCHEMA, **other, **arrays, "fills": fills}

    @classmethod
    def from_dict(cls, data: Any) -> Costs:
        """Raises: DataError for anything but what `to_dict` gives."""
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise DataError(f"not a cost table of schema {SCHEMA}; `edgeexit simulate --save-costs` writes one")
        try:
            arrays = {n: np.asarray(data[n], np.float64) for n in _ARRAYS}
            return cls(
                artifact=str(data["artifact"]), threads=int(data["threads"]), n=int(data["n"]),
                choice=float(data["choice"]),
                device=None if data["device"] is None else str(data["device"]),
                busy=None if data["busy"] is None else float(data["busy"]), **arrays,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, OverflowError, IndexError) as e:
            raise DataError(f"damaged cost table ({type(e).__name__}: {e}); measure again") from e
