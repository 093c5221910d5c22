"""Learned scores: per exit a small head that predicts whether the exit's answer is wrong (COMET, Zouhar et al., 2026).

Early-Exit COMET (EACL 2026) predicts its own error beside every layer's estimate, with a stop-gradient so that the
estimate is not changed to be predictable. Here the estimate is a class and the error is a probability. The network
is trained already and does not change; only the heads are fitted.

A head is logistic regression and starts as `1 - maxprob`; the penalty pulls it there. With few errors to fit, as is
usual at late exits, it stays close to the exit's own confidence. The paper's wide perceptron has no such limit.
`edgeexit_models.training.predicted_error` fits the heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeexit.errors import ModelError
from edgeexit_models.definitions.heads import average_and_largest
from edgeexit_models.protocol import InputSpec, evaluating, exits
from edgeexit_models.wrappers.hooks import check_names, first_tensor, not_run, ran_repeatedly, run_with_hooks

Pool = Callable[[Tensor], Tensor]
"""Features `(batch, ...)` -> `(batch, width)`."""

_FLOOR = -30.0
"""Below any log-probability that matters; keeps masked classes (logits of -inf) out of the sums."""


def logit_features(logits: Tensor) -> Tensor:
    """`(batch, classes)` -> `(batch, 5)`: features of the confidence, the same for every class.

    Log-odds of the most likely class, its distance to the second in log-probability, entropy in nats, and the
    probabilities of the two. The log-odds alone give back `maxprob`.
    """
    ranked = functional.log_softmax(logits.float(), 1).clamp(min=_FLOOR).sort(1, descending=True).values
    p = ranked.exp()
    odds = ranked[:, 0] - torch.logsumexp(ranked[:, 1:], 1)
    return torch.stack([odds, ranked[:, 0] - ranked[:, 1], -(p * ranked).sum(1), p[:, 0], p[:, 1]], 1)


def pooled(x: Tensor) -> Tensor:
    """Features of any usual kind -> `(batch, width)`.

    `(batch, width)` as they are, `(batch, tokens, channels)` as means over the tokens, pictures `(batch, channels,
    height, width)` as mean and maximum of every channel. For signals `(batch, channels, length)` pass
    `heads.average_and_largest` instead.

    Raises:
        ModelError: another number of axes.
    """
    if x.ndim not in (2, 3, 4):
        raise ModelError(f"cannot pool features of shape {tuple(x.shape)}: pass a function of your own as `pool`")
    if x.ndim == 4:
        return average_and_largest(x)
    return x.mean(1) if x.ndim == 3 else x


class PredictedError(nn.Module):
    """A multi-exit network with a head per exit that predicts the exit's error.

    Inputs -> per exit ``{"output": logits (batch, classes), "score": (batch,)}``, the score in [0, 1]:
    one minus the predicted probability that the answer is wrong. The logits are the network's own, and no gradient
    goes from a score into the network. Untrained, the score is `maxprob`; `fit_predicted_error` trains the heads.

    Args:
        network: any multi-exit module; not copied.
        example: one set of inputs; run once to count exits and features.
        at: one submodule per exit, shallow to deep, whose *input* the exit's error head reads beside the logits;
            usually the exit's own head (`["heads.0", "heads.1", "heads.2"]`). None: logits only.
        pool: features `(batch, ...)` -> `(batch, width)`.

    Raises:
        ModelError: not a multi-exit module of at least two classes; names in `at` that are unknown, not run, run more
            than once, listed twice or not one per exit; features that `pool` does not take.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        example: Tensor | tuple[Tensor, ...],
        at: Sequence[str] | None = None,
        pool: Pool = pooled,
    ) -> None:
        super().__init__()
        inputs = example if isinstance(example, tuple) else (example,)
        self.network = network
        self.at = tuple(at) if at is not None else ()
        self.pool = pool
        self.input_spec: InputSpec = getattr(network, "input_spec", {})
        with evaluating(network), torch.no_grad():
            outputs = exits(network, *inputs)
            count = len(outputs)
            if outputs[0].shape[1] < 2:
                raise ModelError("the exits have one logit each: an answer's doubt needs at least 2 classes")
            if at is not None:
                check_names(network, self.at, "at")
                if len(self.at) != count:
                    raise ModelError(f"`at` names {len(self.at)} submodules for {count} exits: name one per exit")
            _, features = self.logits_and_features(*inputs)
        self.heads = nn.ModuleList([_untrained(x) for x in features])

    def logits_and_features(self, *inputs: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The exits' logits `(batch, classes)`, and the inputs of their error heads `(batch, width)`, detached."""
        pooled_inputs: dict[int, Tensor] = {}

        def pool_input(index: int, inputs: object) -> None:
            if index in pooled_inputs:
                raise ModelError(ran_repeatedly(self.at[index], "twice or more"))
            pooled_inputs[index] = self._pool(first_tensor(inputs, self.at[index], "takes"), self.at[index])

        outputs: Any = run_with_hooks(self.network, self.at, pool_input, inputs, before=True)
        logits: tuple[Tensor, ...] = tuple(outputs)
        missing = [name for index, name in enumerate(self.at) if index not in pooled_inputs]
        if missing:
            raise ModelError(not_run(missing[0]))
        features = (logit_features(z.detach()) for z in logits)
        return logits, tuple(
            torch.cat([f, pooled_inputs[k]], 1) if k in pooled_inputs else f for k, f in enumerate(features)
        )

    def forward(self, *inputs: Tensor) -> tuple[dict[str, Tensor], ...]:
        logits, features = self.logits_and_features(*inputs)
        errors = [head(x)[:, 0] for head, x in zip(self.heads, features, strict=True)]
        # sigmoid(-e) is 1 - sigmoid(e), without its rounding next to 0
        return tuple({"output": z, "score": torch.sigmoid(-e)} for z, e in zip(logits, errors, strict=True))

    def _pool(self, x: Tensor, name: str) -> Tensor:
        vectors = self.pool(x.detach())
        if vectors.ndim != 2:
            raise ModelError(
                f"`pool` made {tuple(vectors.shape)} of what {name!r} takes, {tuple(x.shape)}; need (batch, width)"
            )
        return vectors.float()


def _untrained(features: Tensor) -> nn.Linear:
    """Error logit = minus the log-odds of the answer: the score is `maxprob`."""
    head = nn.Linear(features.shape[1], 1)
    with torch.no_grad():
        head.weight.zero_()
        head.weight[0, 0] = -1.0
        head.bias.zero_()
    return head
