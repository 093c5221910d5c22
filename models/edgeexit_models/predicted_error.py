"""Learned scores: per exit a small head that predicts whether the exit's answer is wrong (COMET, Zouhar et al., 2026).

Early-Exit COMET (EACL 2026) predicts its own error beside every layer's estimate, with a stop-gradient so that the
estimate is not bent towards being predictable. Here the estimate is a class and the error is a probability. The
network is finished and stays as it is; only the heads learn.

A head is logistic regression and starts as `1 - maxprob`; the penalty pulls it there. With few errors to learn from,
which is the rule behind late exits, it stays close to what the exit says of itself. The paper's wide perceptron has
no such floor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeexit.errors import DataError, ModelError
from edgeexit_models.heads import average_and_largest
from edgeexit_models.listen import check_names, first_tensor, listen, not_run, ran_often
from edgeexit_models.measure import Array, Data, as_floats, as_tensors
from edgeexit_models.protocol import InputSpec, evaluating, exits

Target = Literal["last", "label"]
"""What counts as wrong: an answer other than the last exit's (needs no labels), or other than the label."""
Pool = Callable[[Tensor], Tensor]
"""Features `(batch, ...)` -> `(batch, width)`."""

_FLOOR = -30.0
"""Below any log-probability that matters; keeps masked classes (logits of -inf) out of the sums."""


def read_answer(logits: Tensor) -> Tensor:
    """`(batch, classes)` -> `(batch, 5)`: how sure the answer looks, whichever class it is.

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

    Inputs -> per exit ``{"output": logits (batch, classes), "score": (batch,)}``, the score in [0, 1], larger = surer:
    one minus the predicted probability that the answer is wrong. The logits are the network's own, and no gradient
    goes from a score into the network. Untrained, the score is `maxprob`; `fit_predicted_error` trains the heads.

    Args:
        network: any multi-exit module; it is used, not copied.
        example: one set of inputs, to see how many exits and features there are; run once.
        at: one submodule per exit, shallow to deep, whose *input* the exit's error head reads beside the logits;
            usually the exit's own head (`["heads.0", "heads.1", "heads.2"]`). None: logits only.
        pool: makes vectors of these features.

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
            _, features = self.look(*inputs)
        self.heads = nn.ModuleList([_untrained(x) for x in features])

    def look(self, *inputs: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The exits' logits `(batch, classes)`, and what their error heads read `(batch, width)`, detached."""
        heard: dict[int, Tensor] = {}

        def hear(index: int, taken: object) -> None:
            if index in heard:
                raise ModelError(ran_often(self.at[index], "twice or more"))
            heard[index] = self._pool(first_tensor(taken, self.at[index], "takes"), self.at[index])

        outputs: Any = listen(self.network, self.at, hear, inputs, entering=True)
        logits: tuple[Tensor, ...] = tuple(outputs)
        missing = [name for index, name in enumerate(self.at) if index not in heard]
        if missing:
            raise ModelError(not_run(missing[0]))
        answers = [read_answer(z.detach()) for z in logits]
        return logits, tuple(torch.cat([a, heard[k]], 1) if k in heard else a for k, a in enumerate(answers))

    def forward(self, *inputs: Tensor) -> tuple[dict[str, Tensor], ...]:
        logits, features = self.look(*inputs)
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


@dataclass(frozen=True)
class ErrorFit:
    """What fitting one exit's head saw; losses are on the rows it was fitted on, so they flatter."""

    rows: int
    errors: int
    """Rows with a wrong answer. At 0 (or all) there is nothing to tell apart: the head says ``(errors + 1) / (rows +
    2)`` for every input."""
    before: float
    """Mean binary cross-entropy of ``1 - maxprob``, nats."""
    after: float
    """That of the fitted head."""


def fit_predicted_error(
    module: PredictedError,
    data: Array | Data,
    *,
    target: Target,
    l2: float = 100.0,
    batch_size: int = 250,
) -> tuple[ErrorFit, ...]:
    """Fits every exit's error head in place; the network is run in evaluation mode and not changed.

    Plain binary cross-entropy on the rows as they come. Classes are not balanced, so the scores are probabilities
    under the rows' own share of errors and need no recalibration. The problem is convex and solved by L-BFGS from the
    same start every time: no chance is involved, and a fit does not depend on an earlier one.

    Memory: inputs go through the network in batches; kept are the heads' features, ``rows * width`` float32 per exit.

    Args:
        module: heads of which the network was **not** trained on these rows; on its training rows it errs too rarely.
        data: inputs `(n, ...)`, or inputs and class numbers `(n,)`; uint8 and float64 become float32.
        target: see `Target`. With "last" the last exit is never wrong, and its score is next to 1 for every input.
        l2: pull towards `1 - maxprob`: half of it times the squared change of the weights (features scaled to
            deviation 1) is added to the summed loss. The offset is free. The more rows, the less it matters.
        batch_size: rows per run of the network.

    Returns:
        One `ErrorFit` per exit.

    Raises:
        DataError: no rows, labels missing for "label" or not class numbers of this network, features that are not
            finite.
        ModelError: an unknown target, or `l2` or `batch_size` not positive.
    """
    if target not in ("last", "label"):
        raise ModelError(f'unknown target {target!r}: "last" (no labels needed) or "label"')
    if l2 <= 0 or batch_size < 1:
        raise ModelError(f"l2 and batch_size must be positive, got {l2} and {batch_size}")
    x, y = _inputs(data, target)
    classes, answers, features = _collect(module, x, batch_size)
    if y is not None and not 0 <= int(y.min()) <= int(y.max()) < classes:
        raise DataError(f"labels run from {int(y.min())} to {int(y.max())}, the network has {classes} classes")
    truth = answers[-1] if y is None else y
    return tuple(
        _fit_head(head, seen, (answer != truth).double(), l2)
        for head, seen, answer in zip(module.heads, features, answers, strict=True)
    )


def learned_scores(module: PredictedError, x: Array, batch_size: int = 250) -> Tensor:
    """Scores of every exit, `(exits, n)` float32, in evaluation mode; the mode before comes back.

    Raises:
        DataError: no rows.
    """
    inputs, _ = _inputs(x, "last")
    parts = [inputs[at : at + batch_size] for at in range(0, len(inputs), batch_size)]
    with evaluating(module), torch.no_grad():
        scores = [torch.stack([answer["score"] for answer in module(as_floats(part))]) for part in parts]
    return torch.cat(scores, 1)


def _untrained(features: Tensor) -> nn.Linear:
    """Error logit = minus the log-odds of the answer: the score is `maxprob`."""
    head = nn.Linear(features.shape[1], 1)
    with torch.no_grad():
        head.weight.zero_()
        head.weight[0, 0] = -1.0
        head.bias.zero_()
    return head


def _inputs(data: Array | Data, target: Target) -> tuple[Tensor, Tensor | None]:
    if target == "label":
        if not isinstance(data, tuple) or data[1] is None:
            raise DataError('target "label" needs class numbers: pass (x, y), or use target "last"')
        return as_tensors(data)
    x = torch.as_tensor(data[0] if isinstance(data, tuple) else data)
    if x.ndim == 0 or len(x) == 0:
        raise DataError(f"no rows: inputs have shape {tuple(x.shape)}")
    return x, None


def _collect(module: PredictedError, x: Tensor, batch_size: int) -> tuple[int, Tensor, list[Tensor]]:
    """Classes, answers `(exits, n)`, and per exit features `(n, width)`."""
    answers: list[Tensor] = []
    features: list[list[Tensor]] = [[] for _ in module.heads]
    classes = 0
    with evaluating(module), torch.no_grad():
        for first in range(0, len(x), batch_size):
            logits, found = module.look(as_floats(x[first : first + batch_size]))
            for k, (kept, new) in enumerate(zip(features, found, strict=True)):
                if not bool(new.isfinite().all()):
                    raise DataError(
                        f"exit {k}: features of rows {first} to {first + len(new) - 1} hold NaN or infinity: "
                        "look for them in the inputs, or for overflow in the network"
                    )
                kept.append(new)
            answers.append(torch.stack([z.argmax(1) for z in logits]))
            classes = logits[-1].shape[1]
    return classes, torch.cat(answers, 1), [torch.cat(parts) for parts in features]


def _fit_head(head: nn.Module, features: Tensor, wrong: Tensor, l2: float) -> ErrorFit:
    """Fits one head to `wrong` `(n,)`, 0 or 1 as float64, in place."""
    assert isinstance(head, nn.Linear)
    rows, errors = len(wrong), int(wrong.sum())
    before = float(functional.binary_cross_entropy_with_logits(-features[:, 0].double(), wrong))
    if 0 < errors < rows:
        weights, bias = _solve(features.double(), wrong, l2)
    else:
        # without a row of the other kind the likelihood has no maximum; the rule of succession has an answer
        weights = torch.zeros(features.shape[1], dtype=torch.float64)
        bias = torch.tensor(math.log((errors + 1) / (rows - errors + 1)), dtype=torch.float64)
    logits = features.double() @ weights + bias
    after = float(functional.binary_cross_entropy_with_logits(logits, wrong))
    with torch.no_grad():
        head.weight.copy_(weights)
        head.bias.copy_(bias)
    return ErrorFit(rows, errors, before, after)


def _solve(x: Tensor, wrong: Tensor, l2: float) -> tuple[Tensor, Tensor]:
    """Penalised logistic regression: weights `(width,)` and bias for `x` as it is, all in float64."""
    middle, scale = x.mean(0), x.std(0, correction=0)
    scale = torch.where(scale > 1e-9 * (1 + middle.abs()), scale, torch.ones_like(scale))
    scaled, untrained = (x - middle) / scale, -x[:, 0]
    change = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([change, bias], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> float:
        solver.zero_grad()
        with torch.enable_grad():
            fit = functional.binary_cross_entropy_with_logits(untrained + scaled @ change + bias, wrong)
            value = fit + l2 / (2 * len(wrong)) * change.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    solver.step(loss)  # type: ignore[no-untyped-call]
    weights = change.detach() / scale
    offset = bias.detach() - middle @ weights
    weights[0] -= 1.0
    return weights, offset
