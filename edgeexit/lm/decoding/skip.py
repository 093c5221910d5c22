"""SkipDecode (lossy): fewer middle stages with every token of the answer (Del Corro et al., "SkipDecode", 2023).

The number of stages only falls, so no token needs keys of a stage that an earlier one left out: nothing to repair, and
the cost of every position is known beforehand. Meant for networks that were trained for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeexit.errors import DataError
from edgeexit.lm.decoding.base import Round
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.sampling import Chooser
from edgeexit.lm.session import Session
from edgeexit.lm.settings import Decoding

WARM = 1
"""Bottom stages that every token runs."""


@dataclass(frozen=True)
class Schedule:
    """Stages that a token of the answer skips: the same for all sequences of a batch."""

    count: int
    """Stages that there are."""
    least: int
    """Stages that the last token runs."""
    total: int
    """Tokens that the answer may have; the stages fall over them."""

    @classmethod
    def of(cls, model: LanguageModel, setting: Decoding, total: int) -> Schedule:
        """Raises: DataError for fewer stages than the first and the last."""
        least = max(2, model.count // 2) if setting.exit is None else setting.exit + 1
        if not WARM < least <= model.count:
            raise DataError(
                f"skip runs the first and the last stage at least: exit {least - 1} of {model.count} stages; "
                f"expected 1..{model.count - 1}"
            )
        return cls(model.count, least, total)

    def skipped(self, number: int) -> range:
        """Stages that token `number` skips; the range only grows."""
        return range(WARM, self.count - (stages_at(number, self.total, self.count, self.least) - WARM))


class Skip:
    """Stages by position."""

    def __init__(self, model: LanguageModel, chooser: Chooser, schedule: Schedule) -> None:
        self.model, self.chooser, self.schedule = model, chooser, schedule
        self.number = 0

    def round(self, session: Session, left: int) -> Round:
        last = self.model.count - 1
        session.mark()
        session.run(WARM - 1)
        for k in self.schedule.skipped(self.number):
            session.skip(k)
        self.number += 1
        token = self.chooser.pick(self.model.logits(session.run(last))[-1])
        session.ids.append(token)
        return Round((token,), last)


def stages_at(number: int, total: int, most: int, least: int) -> int:
    """Stages that token `number` of `total` runs: from `most` down to `least` in a straight line."""
    return most if total < 2 else round(most - (most - least) * min(number, total - 1) / (total - 1))
