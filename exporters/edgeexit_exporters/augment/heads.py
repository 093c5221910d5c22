"""Heads fitted on a frozen network's features: one linear layer, or one hidden layer before it.

Features are standardised for fitting, and the standardisation is folded into the weights afterwards: a head takes
the features as the network gives them. No fit ever holds a copy of all features; they may lie on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import BackendMissing, DataError
from edgeexit_exporters.augment.rows import FeatureRows, chunks, make_rows, soft_targets

if TYPE_CHECKING:
    import torch

__all__ = ["Head", "LinearHead", "MlpHead", "fit_linear", "fit_mlp", "soft_targets"]

L2_GRID = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Strong to weak: every fit begins at the one before."""
_HELD_OUT = 0.2
_CHOICE_ROWS = 20_000
"""The strength of the penalty is chosen on at most so many rows."""
_EPOCHS, _LEAST_STEPS, _FEW_ROWS = 20, 300, 10_000

Piece = slice | NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LinearHead:
    """``features @ weight + bias``."""

    weight: NDArray[np.float32]
    """`(width, classes)`"""
    bias: NDArray[np.float32]
    """`(classes,)`"""

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one input."""
        return int(self.weight.size)

    def logits(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """`(n, width)` -> `(n, classes)`.

        Raises:
            DataError: features of another width.
        """
        return _layers(features, [(self.weight, self.bias)])


@dataclass(frozen=True, eq=False)
class MlpHead:
    """``relu(features @ hidden_weight + hidden_bias) @ weight + bias``."""

    hidden_weight: NDArray[np.float32]
    """`(width, hidden)`"""
    hidden_bias: NDArray[np.float32]
    """`(hidden,)`"""
    weight: NDArray[np.float32]
    """`(hidden, classes)`"""
    bias: NDArray[np.float32]
    """`(classes,)`"""

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one input."""
        return int(self.hidden_weight.size + self.weight.size)

    def logits(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """`(n, width)` -> `(n, classes)`.

        Raises:
            DataError: features of another width.
        """
        return _layers(features, [(self.hidden_weight, self.hidden_bias), (self.weight, self.bias)])


Head = LinearHead | MlpHead


def fit_linear(
    features: NDArray[Any],
    targets: NDArray[Any],
    *,
    l2: float | Sequence[float] = L2_GRID,
    temperature: float = 1.0,
    classes: int | None = None,
    seed: int = 0,
    steps: int = 500,
) -> LinearHead:
    """Multinomial logistic regression: mean cross-entropy and ``l2 / 2`` times the squared standardised weights.

    Args:
        features: `(n, width)`, floating point.
        targets: class numbers `(n,)`, or probabilities `(n, classes)`.
        l2: the penalty; of several, the one with the least cross-entropy on a fifth of the rows that the choice
            holds back, tried from strong to weak until it gets worse. The head is then fitted on all rows.
        temperature: that `soft_targets` was given: the head's logits divided by it meet the targets.
        classes: how many; None = as the targets show.
        seed: of the rows held back.
        steps: of L-BFGS, at most.

    Raises:
        DataError: rows that no head can be fitted on; see `make_rows`.
        BackendMissing: scipy is not installed.
    """
    penalties = sorted({float(p) for p in np.atleast_1d(np.asarray(l2, np.float64))}, reverse=True)
    if not penalties or not penalties[-1] >= 0 or not temperature > 0:
        raise DataError(f"l2 must be 0 or more and the temperature above 0; found {l2}, {temperature}")
    rows = make_rows(features, targets, classes)
    start = np.zeros((features.shape[1] + 1, rows.classes))
    start[-1] = np.log(rows.priors())
    penalty = penalties[0]
    if len(penalties) > 1:
        penalty, start = _choose(rows, penalties, start, seed, steps)
    theta = _minimise(rows, list(chunks(*features.shape)), penalty, start, steps)
    return LinearHead(*_unscaled(theta[:-1] * temperature, theta[-1] * temperature, rows))


def _choose(
    rows: FeatureRows, penalties: Sequence[float], start: NDArray[np.float64], seed: int, steps: int
) -> tuple[float, NDArray[np.float64]]:
    """The penalty with the least cross-entropy on rows held back, and the weights fitted with it."""
    n, width = rows.features.shape
    order = np.random.default_rng(seed).permutation(n)[:_CHOICE_ROWS]
    cut = max(int(_HELD_OUT * len(order)), 1)
    held, fitted = (_pieces(np.sort(part), width) for part in (order[:cut], order[cut:]))
    best, least, kept = penalties[0], np.inf, start
    for penalty in penalties:
        start = _minimise(rows, fitted, penalty, start, steps)
        loss = _loss(rows, held, 0.0, start)[0]
        if loss >= least:
            break
        best, least, kept = penalty, loss, start
    return best, kept


def _pieces(which: NDArray[np.int64], width: int) -> list[Piece]:
    return [which[c] for c in chunks(len(which), width)]


def _minimise(
    rows: FeatureRows, pieces: Sequence[Piece], l2: float, start: NDArray[np.float64], steps: int
) -> NDArray[np.float64]:
    """The weights `(width + 1, classes)`, the bias last, that `_loss` is least for."""
    try:
        from scipy.optimize import minimize
    except ImportError as e:
        raise BackendMissing(f"fitting a linear head needs scipy ({e}): pip install 'edgeexit[augment]'") from e

    def loss(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        value, gradient = _loss(rows, pieces, l2, theta.reshape(start.shape))
        return value, gradient.ravel()

    options = {"maxiter": steps, "gtol": 1e-5, "ftol": 1e-9}
    result = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    return np.asarray(result.x).reshape(start.shape)


def _loss(
    rows: FeatureRows, pieces: Sequence[Piece], l2: float, theta: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Mean cross-entropy with its penalty, and the gradient; products in float32, sums over pieces in float64."""
    weight, bias = theta[:-1].astype(np.float32), theta[-1].astype(np.float32)
    total, count, gradient = 0.0, 0, np.zeros_like(theta)
    for piece in pieces:
        x, target = rows.take(piece)
        z = x @ weight + bias
        z -= z.max(1, keepdims=True)
        p = np.exp(z)
        mass = p.sum(1, keepdims=True)
        total += float((np.log(mass[:, 0]) * target.sum(1) - np.einsum("ij,ij->i", target, z)).sum(dtype=np.float64))
        p /= mass
        p -= target
        gradient[:-1] += x.T @ p
        gradient[-1] += p.sum(0, dtype=np.float64)
        count += len(x)
    gradient /= count
    gradient[:-1] += l2 * theta[:-1]
    return total / count + l2 / 2 * float((theta[:-1] ** 2).sum()), gradient


def fit_mlp(
    features: NDArray[Any],
    targets: NDArray[Any],
    *,
    hidden: int = 128,
    seed: int = 0,
    epochs: int | None = None,
    batch: int = 256,
    rate: float = 3e-3,
    decay: float | None = None,
    temperature: float = 1.0,
    classes: int | None = None,
) -> MlpHead:
    """One hidden layer, fitted by AdamW with one cycle of the learning rate.

    It wants many rows: on the features of a ResNet-8 on CIFAR-10 it beat `fit_linear` with 15,000, and not with 5,000.
    The same seed gives the same head on the same machine with the same number of threads; torch's own random
    numbers are left alone.

    Args:
        features: `(n, width)`, floating point.
        targets: class numbers `(n,)`, or probabilities `(n, classes)`.
        hidden: width of the hidden layer.
        seed: of the first weights and the order of rows.
        epochs: passes over the rows; None = 20, or as many as make 300 steps.
        batch: rows per step.
        rate: the largest learning rate, reached after a fifth of the steps.
        decay: AdamW's weight decay; None = 0.1, and 1.0 below 10,000 rows.
        temperature: that `soft_targets` was given.
        classes: how many; None = as the targets show.

    Raises:
        DataError: rows that no head can be fitted on; see `make_rows`.
        BackendMissing: torch is not installed.
    """
    rows = make_rows(features, targets, classes)
    if decay is None:
        decay = 0.1 if len(features) >= _FEW_ROWS else 1.0
    if batch < 1:
        raise DataError(f"a batch holds 1 row or more, found {batch}")
    per_epoch = -(-len(features) // batch)
    if epochs is None:
        epochs = max(_EPOCHS, -(-_LEAST_STEPS // per_epoch))
    if min(hidden, epochs) < 1 or not rate > 0 or not decay >= 0 or not temperature > 0:
        raise DataError("hidden, epochs, rate and temperature must be above 0, decay 0 or more")
    try:
        import torch
    except ImportError as e:
        raise BackendMissing(f"fitting an MLP head needs torch ({e}): pip install 'edgeexit[export]'") from e
    rng = np.random.default_rng(seed)
    width = features.shape[1]
    layers = [_layer(rng, width, hidden, 2.0), _layer(rng, hidden, rows.classes, 1.0)]
    (w1, b1), (w2, b2) = layers
    optimiser = torch.optim.AdamW(
        [{"params": [w1, w2], "weight_decay": decay}, {"params": [b1, b2], "weight_decay": 0.0}], lr=rate
    )
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * per_epoch + 1, pct_start=0.2)
    for _ in range(epochs):
        order = rng.permutation(len(features))
        for start in range(0, len(order), batch):
            x, target = (torch.from_numpy(a) for a in rows.take(np.sort(order[start : start + batch])))
            z = torch.relu(x @ w1 + b1) @ w2 + b2
            loss = torch.nn.functional.cross_entropy(z, target)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            cycle.step()
    (first, first_bias), (last, last_bias) = (
        (w.detach().numpy().astype(np.float64), b.detach().numpy().astype(np.float64)) for w, b in layers
    )
    return MlpHead(
        *_unscaled(first, first_bias, rows),
        (last * temperature).astype(np.float32),
        (last_bias * temperature).astype(np.float32),
    )


def _layer(rng: np.random.Generator, width: int, out: int, gain: float) -> tuple[torch.Tensor, torch.Tensor]:
    """First weights of one layer, as He et al. 2015 draw them for `gain` 2, and zeros."""
    import torch

    weight = rng.standard_normal((width, out)) * np.sqrt(gain / width)
    return (
        torch.from_numpy(weight.astype(np.float32)).requires_grad_(),
        torch.zeros(out, requires_grad=True),
    )


def _unscaled(
    weight: NDArray[np.float64], bias: NDArray[np.float64], rows: FeatureRows
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A layer for standardised features, as one for the features themselves."""
    folded = weight * rows.scale.astype(np.float64)[:, None]
    return folded.astype(np.float32), (bias - rows.mean.astype(np.float64) @ folded).astype(np.float32)


def _layers(
    features: NDArray[Any], layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]
) -> NDArray[np.float32]:
    width = layers[0][0].shape[0]
    if features.ndim != 2 or features.shape[1] != width:
        raise DataError(f"this head takes features (n, {width}); found {list(features.shape)}")
    values = np.empty((len(features), layers[-1][0].shape[1]), np.float32)
    for c in chunks(*features.shape):
        x = np.asarray(features[c], np.float32)
        for k, (weight, bias) in enumerate(layers):
            x = (np.maximum(x, 0) if k else x) @ weight + bias
        values[c] = x
    return values
