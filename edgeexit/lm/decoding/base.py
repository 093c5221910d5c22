"""Rounds of decoding, shared by all methods: one or more tokens on a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edgeexit.lm.model import LanguageModel
from edgeexit.lm.sampling import Chooser, Draft
from edgeexit.lm.session import Session


@dataclass(frozen=True)
class Round:
    """Result of a round."""

    ids: tuple[int, ...]
    """The new tokens; the session has them, the last not yet computed."""
    exit: int
    """The exit that drafted or answered; the last exit if none did."""
    drafted: int = 0
    """Drafted tokens that were verified."""
    accepted: int = 0
    """Drafted tokens that were accepted."""


class Method(Protocol):
    """A decoding method; every sequence needs a new one."""

    def round(self, session: Session, left: int) -> Round:
        """Decode the next tokens.

        Args:
            session: its last token is not yet computed.
            left: tokens that may still come, at least 1; a round gives no more.
        """


def plain(model: LanguageModel, chooser: Chooser, session: Session) -> Round:
    """One token, by the whole network."""
    session.mark()
    token = chooser.pick(model.logits(session.run(model.count - 1))[-1])
    session.ids.append(token)
    return Round((token,), model.count - 1)


def checked(
    model: LanguageModel, chooser: Chooser, session: Session, start: int, drafts: list[Draft], exit: int
) -> Round:
    """The end of a round: everything since `start` goes through the whole network, drafts stand or fall.

    Args:
        start: length of the text with the last token that is certain.
        drafts: tokens after it; the session has them already.
    """
    logits = model.logits(session.run(model.count - 1))
    stand, token = chooser.verify(logits, drafts)
    session.accept(start + stand, token)
    return Round((*(d.token for d in drafts[:stand]), token), exit, len(drafts), stand)
