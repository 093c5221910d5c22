"""Prompt lookup: drafts are the tokens that followed the same n-gram earlier in the text. It needs no exits, so it is
the baseline that self-speculation has to beat (A. Saxena, "Prompt lookup decoding", 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeexit.lm.decoding.base import Round, checked, plain
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.sampling import Chooser, Draft
from edgeexit.lm.session import Session


class Lookup:
    """Drafts copied from the text so far."""

    def __init__(self, model: LanguageModel, chooser: Chooser, draft: int, ngram: int) -> None:
        self.model, self.chooser, self.draft = model, chooser, draft
        self.table = Repeats(ngram)

    def round(self, session: Session, left: int) -> Round:
        drafts = self.table.propose(session.ids, min(self.draft, left - 1), self.model.spec.eos)
        if not drafts:
            return plain(self.model, self.chooser, session)
        session.mark()
        start = len(session.ids)
        session.ids.extend(drafts)
        return checked(self.model, self.chooser, session, start, [Draft(t) for t in drafts], self.model.count - 1)


class Repeats:
    """Index of the last place after every run of 1..ngram tokens; extended as the text grows."""

    def __init__(self, ngram: int) -> None:
        self.ngram = ngram
        self.seen = 0
        """Tokens whose runs are in the tables."""
        self.after: list[dict[tuple[int, ...], int]] = [{} for _ in range(ngram)]
        """By length less one: run -> place of the token after it."""

    def propose(self, ids: Sequence[int], most: int, ends: Sequence[int] = ()) -> list[int]:
        """The tokens after the latest earlier occurrence of the longest run of last tokens.

        Args:
            ids: the text so far; it begins with that of the last call.
            most: tokens at most.
            ends: tokens after which nothing is proposed.
        """
        n = len(ids)
        for at in range(self.seen, n):  # runs that end before place `at`
            for size in range(1, min(self.ngram, at) + 1):
                self.after[size - 1][tuple(ids[at - size : at])] = at
        self.seen = n
        for size in range(min(self.ngram, n), 0, -1):
            place = self.after[size - 1].get(tuple(ids[n - size :]))
            if place is not None:
                following = list(ids[place : place + most])
                stop = next((i for i, token in enumerate(following) if token in ends), len(following))
                return following[: stop + 1]
        return []
