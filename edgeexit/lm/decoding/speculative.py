"""Self-speculation: an early exit drafts, the whole network verifies (Elhoushi et al., "LayerSkip", ACL 2024).

The early stages' keys and values serve both, and their hidden states of the drafted tokens wait where the later
stages take them up, so nothing is computed twice.
"""

from __future__ import annotations

from edgeexit.lm.decoding.base import Round, checked, plain
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.sampling import Chooser, Draft, confidence
from edgeexit.lm.session import Session


class Speculative:
    """Drafts with one exit and one length."""

    def __init__(self, model: LanguageModel, chooser: Chooser, exit: int, draft: int, threshold: float = 0.0) -> None:
        """Raises: DataError for an exit that is not there."""
        model.check_exit(exit)
        self.model, self.chooser = model, chooser
        self.exit, self.draft, self.threshold = exit, draft, threshold

    def round(self, session: Session, left: int) -> Round:
        return speculate(self.model, self.chooser, session, self.exit, min(self.draft, left - 1), self.threshold)


def speculate(
    model: LanguageModel, chooser: Chooser, session: Session, exit: int, draft: int, threshold: float
) -> Round:
    """One round: at most `draft` tokens from an exit, then the check.

    Drafting ends early with an end token, and at a guess that is less sure than `threshold`, which is not used: its
    position has been through the early stages by then, and that is what the check needs.
    """
    if draft < 1:
        return plain(model, chooser, session)
    session.mark()
    start = len(session.ids)
    ids, ends, vocab = model.exit_ids(exit), model.spec.eos, model.spec.vocab
    drafts: list[Draft] = []
    while len(drafts) < draft:
        logits = model.exit_logits(exit, session.run(exit))[-1]
        if threshold > 0 and confidence(logits) < threshold:
            break
        drafts.append(chooser.draft(logits, ids, vocab))
        session.ids.append(drafts[-1].token)
        if drafts[-1].token in ends:
            break
    return checked(model, chooser, session, start, drafts, exit)
