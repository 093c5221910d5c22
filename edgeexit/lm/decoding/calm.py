"""CALM (lossy): tokens leave at a confident exit (Schuster et al., "Confident adaptive language modeling", 2022).

Later tokens need keys and values of the stages that were left out. Either they get stand-ins, computed from the exit's
hidden state by the key and value products alone (the paper's way), or the hidden states wait, and the next token that
goes deeper takes them along (as EE-LLM does): exact, and cheap where several tokens cost little more than one.
"""

from __future__ import annotations

import math

import numpy as np

from edgeexit.errors import DataError
from edgeexit.lm.decoding.base import Round
from edgeexit.lm.model import Array, LanguageModel
from edgeexit.lm.sampling import Chooser, confidence
from edgeexit.lm.session import Session
from edgeexit.lm.settings import Decoding

WAITING = 16
"""Most tokens that wait before a stage; with one more, the next token goes deeper whatever its confidence."""


class Calm:
    """Exits by confidence."""

    def __init__(self, model: LanguageModel, chooser: Chooser, setting: Decoding, total: int) -> None:
        """Raises: DataError for an exit that is not there, or a greedy-only setting with drawn tokens.

        Args:
            total: tokens that the answer may have; the threshold falls over them.
        """
        self.first = setting.exit or 0
        model.check_exit(self.first, last=True)
        if setting.confidence == "state" and model.count < 2:
            raise DataError("confidence state compares two stages, and this model has one")
        self.model, self.chooser, self.setting, self.total = model, chooser, setting, total
        self.number = 0

    def round(self, session: Session, left: int) -> Round:
        model, last = self.model, self.model.count - 1
        session.mark()
        wanted = threshold_at(self.setting, self.number, self.total)
        self.number += 1
        exit, logits = last, None
        for k in range(last):
            hidden = session.run(k)[:, -1:]
            if k < self.first:
                continue
            sure, logits = self._sure(k, hidden, session)
            if sure >= wanted and not (self.setting.repair and session.behind(k + 1) > WAITING):
                exit = k
                break
        if exit == last:
            token = self.chooser.pick(model.logits(session.run(last)[:, -1:])[-1])
        else:
            if logits is None:
                logits = model.exit_logits(exit, hidden)[-1]
            if not self.setting.repair:
                session.fill(exit + 1, hidden)
            token = self.chooser.draft(logits, model.exit_ids(exit), model.spec.vocab).token
        session.ids.append(token)
        return Round((token,), exit)

    def _sure(self, k: int, hidden: Array, session: Session) -> tuple[float, Array | None]:
        """Confidence, and the exit's logits if they were computed."""
        if self.setting.confidence == "state":
            return (cosine(session.outputs[k - 1][-1][0, -1], hidden[0, -1]) if k else 0.0), None
        logits = self.model.exit_logits(k, hidden)[-1]
        return (confidence(logits) if self.setting.confidence == "maxprob" else margin(logits)), logits


def threshold_at(setting: Decoding, number: int, total: int) -> float:
    """Confidence required of token `number` of `total`: falls from the threshold to nine tenths of it."""
    return setting.sure * (0.9 + 0.1 * math.exp(-setting.decay * number / total))


def cosine(a: Array, b: Array) -> float:
    """Cosine of two hidden states, at least 0."""
    return max(0.0, float(a @ b / max(float(np.sqrt((a @ a) * (b @ b))), 1e-30)))


def margin(logits: Array) -> float:
    """Difference of the two largest softmax probabilities."""
    if len(logits) < 2:
        return 1.0
    second, first = np.partition(logits, -2)[-2:]
    return confidence(logits) * (1 - math.exp(float(second) - float(first)))
