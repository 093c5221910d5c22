"""Loss and training of QUTE networks (Ghanathe & Wilton, ICML 2025)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from edgeexit.errors import ModelError
from edgeexit_models.definitions.qute import Qute
from edgeexit_models.training.losses import WeightedSum, sdn_weights, weighted_sum
from edgeexit_models.training.measure import Data
from edgeexit_models.training.trainer import Epoch, History, fit

RESNET8_COSTS = (5.17, 8.85, 12.52)
"""Million MACs up to ResNet-8's stacks 1, 2 and 3."""
FROZEN = 0.1
"""Share of the epochs in which the views' linear layers train alone."""


@dataclass(frozen=True)
class QuteLoss:
    """``sum tau_k CE(exit_k) + sum w_k CE(view_k) + CE(final)`` for `fit`."""

    costs: tuple[float, ...]
    """K + 1 cumulative costs of the stages, any unit: tau_k is `sdn_weights`, which grow with the epochs."""
    first: float = 3.0
    """w of the first view; larger drowns the exits (the paper tried 2 to 5)."""
    step: float = 0.5
    """What w grows by from view to view."""
    scale: float = 1.0
    """Multiplies all weights. With two views they sum to more than 7, and plain SGD's steps grow with them; those of
    Adam (the paper's) do not. About 1/8 gives SGD the steps of one loss."""

    def weights(self, epoch: int, epochs: int) -> tuple[float, ...]:
        """2K + 1 weights, in the order of `Qute`'s outputs."""
        tau = sdn_weights(epoch, epochs, self.costs)[:-1]
        weights = (*tau, *(self.first + k * self.step for k in range(len(tau))), 1.0)
        return tuple(self.scale * w for w in weights)

    def __call__(self, outputs: Sequence[Tensor], targets: Tensor, epoch: int, epochs: int) -> Tensor:
        return weighted_sum(outputs, targets, self.weights(epoch, epochs))


def fit_qute(
    module: Qute,
    data: Data,
    *,
    epochs: int,
    lr: float,
    loss: QuteLoss,
    checkpoint: Path | None = None,
    progress: bool | Callable[[Epoch], None] = True,
    **options: Any,
) -> History:
    """`fit`, then `freeze` for the last 10 % of the epochs (at least one of two or more); ends frozen.

    Each part has a learning-rate cycle of its own, the second up to a tenth of `lr`.

    Args:
        module: not frozen yet; as `fit`.
        checkpoint: as `fit`; the frozen epochs go to another file, `<stem>-frozen<suffix>`. Resuming reads both.
        progress, options: as `fit`.

    Raises:
        DataError, ModelError: as `fit`; or the module is frozen.
    """
    if module.frozen:
        raise ModelError("this QUTE network is frozen: build a new one to train it")
    tail = max(round(FROZEN * epochs), 1) if epochs > 1 else 0
    head = epochs - tail
    run = fit(module, data, epochs=head, lr=lr, loss=loss, checkpoint=checkpoint, progress=progress, **options)
    history = run.epochs
    module.freeze()
    if tail:
        views = loss.weights(0, 1)[len(module.pairs) : -1]
        only = WeightedSum((*(0.0 for _ in views), *views, 0.0))
        path = checkpoint and checkpoint.with_name(f"{checkpoint.stem}-frozen{checkpoint.suffix}")

        def later(epoch: Epoch) -> Epoch:
            return replace(epoch, number=head + epoch.number)

        report = (lambda epoch: progress(later(epoch))) if callable(progress) else progress
        more = fit(module, data, epochs=tail, lr=lr / 10, loss=only, checkpoint=path, progress=report, **options)
        history += tuple(later(epoch) for epoch in more.epochs)
    return History(history)
