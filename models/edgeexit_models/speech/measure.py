"""Greedy transcripts and error rates of every exit."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.common.edit_distance import edit_distance
from edgeexit.speech.ctc import greedy
from edgeexit.speech.tokens import Tokens
from edgeexit_models.protocol import evaluating
from edgeexit_models.speech.batch import Features, make_batch


def answers(
    module: nn.Module, features: Sequence[Features], blank: int = 0, batch_size: int = 32
) -> list[list[list[int]]]:
    """Token numbers of every exit for every utterance, `[exit][utterance]`, in evaluation mode.

    Utterances of similar length are run together; the order of the answers is that of `features`.
    """
    order = sorted(range(len(features)), key=lambda i: len(features[i]))
    tokens: list[list[list[int]]] = []
    with evaluating(module), torch.no_grad():
        for at in range(0, len(order), batch_size):
            rows = order[at : at + batch_size]
            batch = make_batch([features[i] for i in rows], [()] * len(rows))
            device = next(module.parameters()).device
            for k, one in enumerate(module(batch.x.to(device), batch.x_lens.to(device))):
                if len(tokens) == k:
                    tokens.append([[] for _ in features])
                output, lengths = one["output"].cpu().numpy(), one["lengths"].cpu().tolist()
                for i, log_probs, frames in zip(rows, output, lengths, strict=True):
                    tokens[k][i] = greedy(log_probs[:frames], blank)
    return tokens


def error_rates(
    module: nn.Module, features: Sequence[Features], tokens: Sequence[Sequence[int]], blank: int = 0
) -> tuple[float, ...]:
    """Per exit, edits over all utterances divided by the reference tokens (can exceed 1)."""
    return tuple(_rate(tokens, hypotheses) for hypotheses in answers(module, features, blank))


@dataclass(frozen=True)
class TextErrors:
    """Per exit, edits divided by the length of the references."""

    words: tuple[float, ...]
    characters: tuple[float, ...]
    """Of the whole texts, spaces included."""
    transcripts: tuple[tuple[str, ...], ...]
    """`[exit][utterance]`."""


def text_errors(
    module: nn.Module, features: Sequence[Features], texts: Sequence[str], speech: SpeechSpec
) -> TextErrors:
    """Word and character error rates of the greedy answers."""
    tokens = Tokens.of(speech)
    transcripts = tuple(tuple(tokens.text(ids) for ids in rows) for rows in answers(module, features, speech.blank))
    words = tuple(_rate([t.split() for t in texts], [t.split() for t in rows]) for rows in transcripts)
    return TextErrors(words, tuple(_rate(texts, rows) for rows in transcripts), transcripts)


def _rate(references: Sequence[Sequence[Hashable]], hypotheses: Sequence[Sequence[Hashable]]) -> float:
    edits = sum(edit_distance(a, b) for a, b in zip(references, hypotheses, strict=True))
    return edits / max(sum(map(len, references)), 1)
