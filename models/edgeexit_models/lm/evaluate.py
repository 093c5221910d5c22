"""Quality of every exit: perplexity, and agreement with the last exit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeexit.errors import DataError, ModelError
from edgeexit.lm.positions import mask
from edgeexit_models.lm.llama import LlamaLM
from edgeexit_models.lm.trainer import Tokens
from edgeexit_models.protocol import evaluating


@dataclass(frozen=True)
class ExitQuality:
    """Quality of one exit on one text."""

    layer: int
    """Layers run before the head; L is the whole network."""
    perplexity: float
    """exp of the mean loss per token."""
    accuracy: float
    """Share of tokens whose successor is the first guess."""
    agreement: float
    """Share of tokens at which the first guess equals the last exit's, which self-speculation relies on."""
    tokens: int
    """Predictions that were counted."""


def measure(
    model: LlamaLM,
    tokens: Tokens,
    context: int,
    *,
    batch: int = 8,
    skip: int = 0,
    maps: Mapping[int, nn.Module] | None = None,
) -> tuple[ExitQuality, ...]:
    """One teacher-forced pass over the text, cut into sequences of `context`; an incomplete last sequence is left out.

    Args:
        tokens: `(n,)`.
        context: tokens per sequence.
        batch: sequences at a time.
        skip: the first predictions of every sequence are not counted (a prompt, say).
        maps: layer (1..L-1) -> map between its hidden state and the head; other layers have none. See
            `edgeexit_models.lm.heads`.

    Raises:
        DataError: text shorter than one sequence, or nothing left to count.
        ModelError: a map for a layer that has no early exit.
    """
    layers = len(model.layers)
    if maps is not None and not all(1 <= layer < layers for layer in maps):
        raise ModelError(f"maps for layers {sorted(maps)}: early exits come after layers 1..{layers - 1}")
    if len(tokens) <= context or skip >= context:
        raise DataError(f"{len(tokens)} tokens for sequences of {context}, {skip} skipped: nothing to measure")
    losses, right, same = (torch.zeros(layers, dtype=torch.float64) for _ in range(3))
    count = 0
    with evaluating(model), torch.no_grad():
        for ids, targets in sequences(tokens, context, batch):
            states = model.hidden(ids)
            last = model.head(states[-1])[:, skip:]
            expected, final = targets[:, skip:], last.argmax(-1)
            count += expected.numel()
            for index, state in enumerate(states):
                through = maps.get(index + 1) if maps else None
                early = state if through is None else through(state)
                logits = last if index == layers - 1 else model.head(early)[:, skip:]
                guess = logits.argmax(-1)
                losses[index] += functional.cross_entropy(
                    logits.flatten(0, 1), expected.flatten(), reduction="sum"
                ).double()
                right[index] += (guess == expected).sum()
                same[index] += (guess == final).sum()
    return tuple(
        ExitQuality(
            index + 1, float((losses[index] / count).exp()), float(right[index]) / count, float(same[index]) / count,
            count,
        )
        for index in range(layers)
    )  # fmt: skip


def sequences(tokens: Tokens, context: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`(<= batch, context)` ids and the tokens that follow them, in the text's order."""
    count = (len(tokens) - 1) // context
    ids = np.asarray(tokens[: count * context], np.int64).reshape(count, context)
    targets = np.asarray(tokens[1 : count * context + 1], np.int64).reshape(count, context)
    for at in range(0, count, batch):
        yield torch.from_numpy(ids[at : at + batch].copy()), torch.from_numpy(targets[at : at + batch].copy())


def greedy(model: LlamaLM, prompt: Tensor, new: int) -> Tensor:
    """The model's own most probable text, token by token with a cache: ids `(P,)` -> `(P + new,)`.

    Raises:
        DataError: an empty prompt, or more tokens than the context holds.
    """
    config = model.config
    if prompt.ndim != 1 or len(prompt) == 0 or len(prompt) + new > config.max_position_embeddings:
        raise DataError(
            f"prompt {tuple(prompt.shape)} and {new} new tokens: need 1..{config.max_position_embeddings} together"
        )
    layers = config.num_hidden_layers
    room = len(prompt) + new
    cache = [torch.zeros(room, 1, config.num_key_value_heads, config.head_size) for _ in range(2 * layers)]
    done = 0
    text = [int(token) for token in prompt]
    with evaluating(model), torch.no_grad():
        for _ in range(new):
            ids, at = torch.tensor([text[done:]]), torch.arange(done, len(text))
            look = torch.from_numpy(mask(done, len(at), room))
            h, rows = model.block(0, layers, model.embed(ids), cache, at, model.turn(at[None]), look)
            for held, added in zip(cache, rows, strict=True):
                held[done : len(text)] = added
            done = len(text)
            text.append(int(model.head(h[:, -1:]).argmax()))
    return torch.tensor(text)
