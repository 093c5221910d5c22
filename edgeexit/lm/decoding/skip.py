"""Lossy: fewer middle stages the further the answer has come (Del Corro et al., "SkipDecode", 2023).

The number of stages only falls, so no token needs keys of a stage that an earlier one left out: nothing to repair, and
the cost of every position is known beforehand. Meant for networks that were trained for it.
"""

from __future__ import annotations

from edgeexit.errors import DataError
from edgeexit.lm.decoding.base import Round
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.sampling import Chooser
from edgeexit.lm.session import Session

WARM = 1
"""Bottom stages that every token runs."""


class Skip:
    """Stages by position."""

    def __init__(self, model: LanguageModel, chooser: Chooser, least: int, total: int) -> None:
        """Raises: DataError for fewer stages than the first and the last.

        Args:
            least: stages that the last token runs.
            total: tokens that the answer may have; the stages fall over them.
        """
        if not WARM < least <= model.count:
            raise DataError(
                f"skip runs the first and the last stage at least: exit {least - 1} of {model.count} stages; "
                f"expected 1..{model.count - 1}"
            )
        self.model, self.chooser, self.least, self.total = model, chooser, least, total
        self.made = 0

    def round(self, session: Session, left: int) -> Round:
        last = self.model.count - 1
        session.mark()
        active = stages_at(self.made, self.total, self.model.count, self.least)
        self.made += 1
        session.run(WARM - 1)
        for k in range(WARM, self.model.count - (active - WARM)):
            session.around(k)
        token = self.chooser.pick(self.model.logits(session.run(last))[-1])
        session.ids.append(token)
        return Round((token,), last)


def stages_at(made: int, total: int, most: int, least: int) -> int:
    """Stages that token number `made` of `total` runs: from `most` down to `least` in a straight line."""
    return most if total < 2 else round(most - (most - least) * min(made, total - 1) / (total - 1))
