"""DEL: chooses exit and draft length in every round (Entezari Zarch et al., "DEL: Context-aware dynamic exit layer for
efficient self-speculative decoding", 2025), with costs in this device's time instead of layers.

Once a round's tokens are certain, the guesses of every exit for them can be computed: decayed counts of right
guesses give each exit's acceptance a, and a round of d drafts is worth (1 + a + ... + a^d) tokens. A guess costs a
head, so the exit that drafted is counted for free and one of the others is evaluated every few rounds.
"""

from __future__ import annotations

import numpy as np

from edgeexit.lm.costs import Costs
from edgeexit.lm.decoding.base import Round, plain
from edgeexit.lm.decoding.speculative import speculate
from edgeexit.lm.model import LanguageModel
from edgeexit.lm.sampling import Chooser
from edgeexit.lm.session import Session

DECAY = 0.95
"""Weight of the earlier counts after every round in which an exit was evaluated."""
DUTY = 4
"""Rounds from one evaluation of another exit to the next."""
PRIOR, WEIGHT = 0.5, 2.0
"""Prior acceptance, and the number of tokens that it counts for."""


class Dynamic:
    """Drafts with the exit and length of the most expected tokens per second."""

    def __init__(
        self, model: LanguageModel, chooser: Chooser, costs: Costs, draft: int, threshold: float = 0.0, duty: int = DUTY
    ) -> None:
        self.model, self.chooser, self.threshold = model, chooser, threshold
        self.choice = DraftChoice(costs, draft, duty)

    def round(self, session: Session, left: int) -> Round:
        exit, draft = self.choice.best(len(session.ids) - 1, left - 1)
        if draft == 0:
            done = plain(self.model, self.chooser, session)
        else:
            done = speculate(self.model, self.chooser, session, exit, draft, self.threshold)
            self.choice.saw(exit, done.accepted, min(done.accepted + 1, done.drafted))
        other = self.choice.look(exit if draft else None)
        if other is not None:
            certain = np.asarray(done.ids)
            hidden = np.concatenate(session.outputs[other], axis=1)[:, : len(certain)]
            guesses = self.model.guesses(other, self.model.exit_logits(other, hidden))
            self.choice.saw(other, int((guesses == certain).sum()), len(certain))
        return done


class DraftChoice:
    """Counts of right guesses and the choice they give; without a model, so that the simulator shares it."""

    def __init__(self, costs: Costs, draft: int, duty: int = DUTY) -> None:
        self.costs, self.draft, self.duty = costs, draft, duty
        self.hits = np.full(costs.exits - 1, PRIOR * WEIGHT)
        self.seen = np.full(costs.exits - 1, WEIGHT)
        self.rounds = 0
        self._turn = 0
        self._drafts = np.arange(draft + 1)
        seconds = costs.rounds(costs.middle, draft)
        gain = ((self._drafts + 1) / seconds).max(1, initial=0.0) * seconds[:, 0] if len(seconds) else np.zeros(0)
        self.worth = np.flatnonzero(gain > 1)
        """Exits that would gain if all their guesses were right; the others are never evaluated."""

    def best(self, done: int, most: int) -> tuple[int, int]:
        """Exit and draft length for the next round; length 0 is plain decoding.

        Args:
            done: positions in the cache.
            most: drafts that there is room for.
        """
        most = min(most, self.draft)
        if most < 1 or not len(self.worth):
            return self.costs.exits - 1, 0
        share = np.minimum(self.hits / self.seen, 0.999)[self.worth, None]
        tokens = (1 - share ** (self._drafts[: most + 1] + 1)) / (1 - share)
        speed = tokens / self.costs.rounds(done, self.draft)[self.worth, : most + 1]
        exit, draft = np.unravel_index(int(speed.argmax()), speed.shape)
        return int(self.worth[exit]), int(draft)

    def saw(self, exit: int, right: int, of: int) -> None:
        """Count an exit's guesses."""
        if of:
            self.hits[exit] = DECAY * self.hits[exit] + right
            self.seen[exit] = DECAY * self.seen[exit] + of

    def look(self, drafted: int | None) -> int | None:
        """The exit to evaluate after this round besides the one that drafted; None = none this time."""
        self.rounds += 1
        if self.rounds % self.duty or not len(self.worth):
            return None
        self._turn += 1
        other = int(self.worth[self._turn % len(self.worth)])
        return None if other == drafted else other
