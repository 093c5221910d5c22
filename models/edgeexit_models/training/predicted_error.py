"""Fitting of the error heads of `PredictedError`: penalised logistic regression, and the scores that result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeexit.errors import DataError, ModelError
from edgeexit_models.protocol import evaluating
from edgeexit_models.training.measure import Array, Data, as_floats, as_tensors
from edgeexit_models.wrappers.predicted_error import PredictedError

Target = Literal["last", "label"]
"""What counts as wrong: an answer other than the last exit's (needs no labels), or other than the label."""


@dataclass(frozen=True)
class ErrorFit:
    """Result of fitting one exit's head; losses are on the rows of the fit, so they are optimistic."""

    rows: int
    errors: int
    """Rows with a wrong answer. At 0 (or all) there is nothing to separate: the head predicts ``(errors + 1) / (rows +
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

    Memory: inputs go through the network in batches; the heads' features are kept, ``rows * width`` float32 per exit.

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
        _fit_head(head, x, (answer != truth).double(), l2)
        for head, x, answer in zip(module.heads, features, answers, strict=True)
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
    batches: list[list[Tensor]] = [[] for _ in module.heads]
    classes = 0
    with evaluating(module), torch.no_grad():
        for first in range(0, len(x), batch_size):
            logits, features = module.logits_and_features(as_floats(x[first : first + batch_size]))
            for k, (batch, new) in enumerate(zip(batches, features, strict=True)):
                if not bool(new.isfinite().all()):
                    raise DataError(
                        f"exit {k}: features of rows {first} to {first + len(new) - 1} hold NaN or infinity: "
                        "look for them in the inputs, or for overflow in the network"
                    )
                batch.append(new)
            answers.append(torch.stack([z.argmax(1) for z in logits]))
            classes = logits[-1].shape[1]
    return classes, torch.cat(answers, 1), [torch.cat(parts) for parts in batches]


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
