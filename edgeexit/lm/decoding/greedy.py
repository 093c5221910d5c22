"""Plain decoding: every token by the whole network; the baseline of all other methods."""

from __future__ import annotations

from edgeexit.lm.decoding.base import Round, plain
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.sampling import Chooser
from edgeexit.lm.session import Session


class Plain:
    """Token by token."""

    def __init__(self, model: LanguageModel, chooser: Chooser) -> None:
        self.model, self.chooser = model, chooser

    def round(self, session: Session, left: int) -> Round:
        return plain(self.model, self.chooser, session)
