"""QUTE: an ensemble in one network, for uncertainty and not for speed (Ghanathe & Wilton, ICML 2025).

Early exits are there in training only. Each hands its depthwise filter to an early-view head, which applies it to the
*last* features: several heads on one backbone that look through different eyes. The device runs backbone and views.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeexit.errors import ModelError
from edgeexit.pictures.preprocess import Preprocess
from edgeexit_models.ensembles import Group
from edgeexit_models.heads import PoolLinear
from edgeexit_models.layers import init_weights
from edgeexit_models.losses import WeightedSum, sdn_weights, weighted_sum
from edgeexit_models.measure import Data
from edgeexit_models.protocol import InputSpec, evaluating
from edgeexit_models.resnet8 import CIFAR10_MEAN, ResNet8
from edgeexit_models.train import Epoch, History, fit

RESNET8_COSTS = (5.17, 8.85, 12.52)
"""Million MACs up to ResNet-8's stacks 1, 2 and 3."""
FROZEN = 0.1
"""Share of the epochs in which the views' linear layers train alone."""


class ExitAndView(nn.Module):
    """An early exit and the early view that borrows its filter.

    The exit lifts its features to the last ones' channels, so that one depthwise filter fits both places. Activation
    and pooling are not given in the paper: ReLU, as both places then see values of one sign, and a global average.
    Nor is the filter's start: around an average, since behind ReLUs a filter of random sign silences half of a view's
    channels, and the view cannot learn its filter out of it.

    Args:
        channels: of the early features `(batch, channels, height, width)`.
        last: channels of the last features.
        classes: number of classes.
        kernel: side of the filter, also its step (T-RECX's is 2).
    """

    def __init__(self, channels: int, last: int, classes: int, kernel: int = 2) -> None:
        super().__init__()
        self.lift = nn.Conv2d(channels, last, 1)
        self.filter = nn.Conv2d(last, last, kernel, stride=kernel, groups=last)
        self.exit = PoolLinear(last, classes)
        self.view = PoolLinear(last, classes)

    def early(self, x: Tensor) -> Tensor:
        """Early features -> logits `(batch, classes)` of the exit."""
        y: Tensor = self.exit(torch.relu(self.filter(torch.relu(self.lift(x)))))
        return y

    def late(self, x: Tensor) -> Tensor:
        """Last features -> logits `(batch, classes)` of the view."""
        f, bias = self.filter, self.filter.bias
        # Detached, the filter is what copying it before every batch gives, without the copy: the view's loss reaches
        # backbone and linear layer, never the filter. A plain shared filter would be another method.
        fixed = None if bias is None else bias.detach()
        seen = functional.conv2d(x, f.weight.detach(), fixed, stride=f.stride, groups=f.groups)
        y: Tensor = self.view(torch.relu(seen))
        return y

    def deployed(self) -> nn.Module:
        """The view with a filter of its own, as a copy."""
        return deepcopy(nn.Sequential(self.filter, nn.ReLU(), self.view))


class Qute(nn.Module):
    """The training network: inputs -> logits of K early exits, K early views and the final head, in that order.

    2K + 1 tensors `(batch, classes)`: `fit` and `predict` take it as any multi-exit module, but its "exits" are not
    for stopping early.

    Args:
        stages: K + 1 modules that run one after another; an exit is put behind each but the last. Group layers with
            `nn.Sequential` to choose the places.
        final: last features -> logits: the network's original head.
        classes: number of classes.
        example: one batch of inputs; shows the channels.
        kernel: see `ExitAndView`.

    Raises:
        ModelError: fewer than two stages, features that are no pictures, or last features smaller than the filter.
    """

    def __init__(
        self, stages: Sequence[nn.Module], final: nn.Module, classes: int, example: Tensor, kernel: int = 2
    ) -> None:
        super().__init__()
        if len(stages) < 2:
            raise ModelError(f"QUTE needs at least 2 stages, an early exit behind each but the last; got {len(stages)}")
        self.stages = nn.ModuleList(stages)
        self.final = final
        self.frozen = False
        self.input_spec: InputSpec = {}
        self.preprocess: Preprocess | None = None
        with evaluating(self.stages), torch.no_grad():
            shapes = [tuple(x.shape[1:]) for x in _run(self.stages, example)]
        if any(len(shape) != 3 for shape in shapes) or min(shapes[-1][1:]) < kernel:
            raise ModelError(
                f"stages return features {shapes}: QUTE needs (channels, height, width), the last ones at least "
                f"{kernel} x {kernel} for its filter"
            )
        last = shapes[-1][0]
        self.pairs = nn.ModuleList([ExitAndView(shape[0], last, classes, kernel) for shape in shapes[:-1]])
        init_weights(self.pairs)
        for pair in self._pairs():
            _around_average(pair.filter)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features = _run(self.stages, x)
        pairs = self._pairs()
        early = [pair.early(f) for pair, f in zip(pairs, features[:-1], strict=True)]
        late = [pair.late(features[-1]) for pair in pairs]
        return (*early, *late, self.final(features[-1]))

    def freeze(self) -> Qute:
        """From now on only the views' linear layers learn; batch norms stay in evaluation mode. Returns itself."""
        self.requires_grad_(False)
        for pair in self._pairs():
            pair.view.requires_grad_(True)
        self.frozen = True
        return self.train(self.training)

    def train(self, mode: bool = True) -> Qute:
        super().train(mode)
        if self.frozen:
            self.stages.eval()
        return self

    def deployed(self) -> QuteDeployed:
        """Backbone and views alone, as a copy in evaluation mode.

        The early exits go, and so does the final head: it is over-confident, and the paper's ensembles are better
        without it.
        """
        found = QuteDeployed(deepcopy(self.stages), [pair.deployed() for pair in self._pairs()])
        found.input_spec, found.preprocess = self.input_spec, self.preprocess
        return found.eval()

    def _pairs(self) -> list[ExitAndView]:
        return [pair for pair in self.pairs if isinstance(pair, ExitAndView)]


def _around_average(filter: nn.Conv2d) -> None:
    """Divides a filter's random start by its number of taps and adds an average."""
    with torch.no_grad():
        taps = filter.weight[0, 0].numel()
        filter.weight.div_(taps).add_(1 / taps)


class QuteDeployed(nn.Module):
    """Inputs -> one exit of K heads, the views' logits `(batch, classes)`.

    Exported, the mean of their softmaxes answers.

    It is one exit with K opinions, not K exits: training takes it for no multi-exit module.
    """

    def __init__(self, stages: nn.ModuleList, views: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = stages
        self.views = nn.ModuleList(views)
        self.input_spec: InputSpec = {}
        self.preprocess: Preprocess | None = None

    def forward(self, x: Tensor) -> Group:
        last = _run(self.stages, x)[-1]
        return (tuple(view(last) for view in self.views),)


def _run(stages: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """What every stage returned."""
    features = []
    for stage in stages:
        x = stage(x)
        features.append(x)
    return features


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

        tell = (lambda epoch: progress(later(epoch))) if callable(progress) else progress
        more = fit(module, data, epochs=tail, lr=lr / 10, loss=only, checkpoint=path, progress=tell, **options)
        history += tuple(later(epoch) for epoch in more.epochs)
    return History(history)


class _TakeOff(nn.Module):
    """Takes a mean off every channel."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.mean: Tensor
        self.register_buffer("mean", mean)

    def forward(self, x: Tensor) -> Tensor:
        return x - self.mean


def qute_resnet8(classes: int = 10, mean: Sequence[float] | None = CIFAR10_MEAN) -> Qute:
    """ResNet-8 with early exits behind stacks 1 and 2, and two early views; arguments as `ResNet8`."""
    net = ResNet8(classes, mean)
    centre = [] if net.mean is None else [_TakeOff(net.mean)]
    first = nn.Sequential(*centre, net.stem, net.stacks[0])
    module = Qute([first, *net.stacks[1:]], net.heads[-1], classes, torch.zeros(1, 3, 32, 32))
    module.input_spec, module.preprocess = net.input_spec, net.preprocess
    return module
