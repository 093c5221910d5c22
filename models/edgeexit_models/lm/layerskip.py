"""LayerSkip (Elhoushi et al. 2024): training with layer dropout and a shared head on every layer.

Layers are skipped at random, later ones more often, so that the output depends less on the last ones; the head is
trained on all layers at once. Formulas are the paper's; the imitation term is ours and off by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from edgeexit.errors import ModelError
from edgeexit_models.lm.llama import LlamaLM

WEIGHTS = ("sum", "linear", "uniform")
CURRICULA = ("all", "rotational", "gradual")


def drop_probabilities(fraction: float, layers: int, largest: float, from_scratch: bool = True) -> tuple[float, ...]:
    """Probability of every layer to be skipped, `p(t, l) = S(t) D(l) p_max`.

    `D(l) = exp(l ln 2 / (L - 1)) - 1`: 0 for the first layer, 1 for the last. `S(t) = exp(t ln 2 / (T - 1)) - 1` when
    training from scratch, else 1.

    Args:
        fraction: `t / (T - 1)`, how much of the training is done, in [0, 1].
        layers: L, at least 2.
        largest: p_max, in [0, 1).
        from_scratch: False to continue the training of a trained model.

    Raises:
        ModelError: fewer than 2 layers.

    >>> [round(p, 3) for p in drop_probabilities(1.0, 3, 0.2)]
    [0.0, 0.083, 0.2]
    """
    _several(layers)
    over_time = 2.0**fraction - 1 if from_scratch else 1.0
    return tuple(over_time * (2.0 ** (index / (layers - 1)) - 1) * largest for index in range(layers))


def exit_weights(layers: int, scale: float, kind: str = "sum") -> tuple[float, ...]:
    """Weight of the loss after every layer, not yet normalised.

    `sum` is the paper's: `scale * (0 + 1 + ... + l)` and, for the last, `L - 1 + scale * (0 + ... + L - 2)`; the
    weights of the first layers are close to zero. `linear`: `scale * (l + 1)` and L. `uniform`: `scale` and 1, for
    drafts from very early exits.

    Raises:
        ModelError: another kind, or fewer than 2 layers.

    >>> exit_weights(4, 0.5), exit_weights(4, 0.5, "uniform")
    ((0.0, 0.5, 1.5, 4.5), (0.5, 0.5, 0.5, 1.0))
    """
    _several(layers)
    if kind == "sum":
        sums = list(accumulate(range(layers)))
        return (*(scale * value for value in sums[:-1]), layers - 1 + scale * sums[-2])
    if kind == "linear":
        return (*(scale * (index + 1) for index in range(layers - 1)), float(layers))
    if kind == "uniform":
        return (*(scale for _ in range(layers - 1)), 1.0)
    raise ModelError(f"exit weights {kind!r} are not known: take one of {', '.join(WEIGHTS)}")


def rotational(step: int, layers: int, every: int) -> tuple[bool, ...]:
    """Which layers' exits this step trains: every `every`-th, shifted by one layer per step, and always the last.

    >>> rotational(0, 6, 3), rotational(1, 6, 3)
    ((True, False, False, True, False, True), (False, True, False, False, True, True))
    """
    return (*((index - step) % layers % every == 0 for index in range(layers - 1)), True)


def gradual(fraction: float, layers: int) -> tuple[bool, ...]:
    """Exits join from last to first over the first half of the training: layer l at `(L - l) / (2 L)`.

    >>> gradual(0.0, 4), gradual(0.25, 4), gradual(0.5, 4)
    ((False, False, False, True), (False, False, True, True), (True, True, True, True))
    """
    return (*(fraction >= 0.5 * (layers - index) / layers for index in range(layers - 1)), True)


@dataclass(frozen=True)
class LayerSkip:
    """Parameters of the training objective. `LayerSkip(dropout=0, scale=0)` is ordinary language modelling.

    Raises:
        ModelError: a number outside its range.
    """

    dropout: float = 0.1
    """p_max."""
    scale: float = 1.0
    """e_scale: weight of early exits relative to the last."""
    weights: str = "sum"
    """See `exit_weights`."""
    curriculum: str = "rotational"
    """`rotational`, `gradual` or `all`."""
    every: int = 4
    """R of the rotational curriculum."""
    imitate: float = 0.0
    """Share of an early exit's target that is the last exit's distribution; the rest is the text. Not in the paper."""
    from_scratch: bool = True
    """Layer dropout grows over the training."""

    def __post_init__(self) -> None:
        if not (0 <= self.dropout < 1 and self.scale >= 0 and 0 <= self.imitate <= 1 and self.every >= 1):
            raise ModelError(f"need 0 <= dropout < 1, scale >= 0, 0 <= imitate <= 1 and every >= 1, got {self}")
        if self.weights not in WEIGHTS or self.curriculum not in CURRICULA:
            raise ModelError(f"need weights of {WEIGHTS} and a curriculum of {CURRICULA}, got {self}")

    def exits(self, step: int, fraction: float, layers: int) -> tuple[float, ...]:
        """Weight of every layer's loss in this step; they sum to 1; exits that are not trained in it have 0."""
        learning = {
            "all": (True,) * layers,
            "rotational": rotational(step, layers, self.every),
            "gradual": gradual(fraction, layers),
        }[self.curriculum]
        raw = [w * on for w, on in zip(exit_weights(layers, self.scale, self.weights), learning, strict=True)]
        return tuple(w / sum(raw) for w in raw)

    def keep(self, fraction: float, layers: int, batch: int, generator: torch.Generator) -> Tensor:
        """Which sequence runs which layer, `(layers, batch)` bool, drawn independently per sequence."""
        chances = torch.tensor(drop_probabilities(fraction, layers, self.dropout, self.from_scratch))
        return torch.rand(layers, batch, generator=generator) >= chances[:, None]

    def loss(
        self, model: LlamaLM, ids: Tensor, targets: Tensor, step: int, fraction: float, generator: torch.Generator
    ) -> Tensor:
        """The step's loss over `(batch, T)` ids and the tokens that follow them.

        Args:
            step, fraction: progress of the training; see `exits` and `drop_probabilities`.
            generator: source of the layer dropout.
        """
        layers = len(model.layers)
        states = model.hidden(ids, self.keep(fraction, layers, len(ids), generator) if self.dropout else None)
        weights, flat = self.exits(step, fraction, layers), targets.flatten()
        last = model.head(states[-1]).flatten(0, 1).float()
        total = weights[-1] * functional.cross_entropy(last, flat)
        teacher = last.detach().softmax(-1) if self.imitate else None
        for state, weight in zip(states[:-1], weights[:-1], strict=True):
            if weight:
                logits = model.head(state).flatten(0, 1).float()
                total = total + weight * towards(logits, flat, teacher, self.imitate)
        return total


def _several(layers: int) -> None:
    if layers < 2:
        raise ModelError(f"LayerSkip needs at least 2 layers, the network has {layers}")


def towards(logits: Tensor, targets: Tensor, teacher: Tensor | None, share: float) -> Tensor:
    """Cross-entropy to a mixture: `1 - share` of the text and `share` of the teacher's distribution.

    Args:
        logits: `(n, vocab)`, of an early exit.
        targets: `(n,)`, the text.
        teacher: `(n, vocab)` probabilities; None = the text alone.
        share: in [0, 1].
    """
    if teacher is None:
        return functional.cross_entropy(logits, targets)
    ours = functional.log_softmax(logits, dim=-1)
    text = -ours.gather(1, targets[:, None]).mean()
    return (1 - share) * text - share * (teacher * ours).sum(-1).mean()
