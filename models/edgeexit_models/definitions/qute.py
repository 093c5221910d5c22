"""QUTE: an ensemble in one network, for uncertainty and not for speed (Ghanathe & Wilton, ICML 2025).

Early exits exist during training only. Each shares its depthwise filter with an early-view head, which applies it to
the *last* features: several heads on one backbone with different filters. The device runs backbone and views.
`edgeexit_models.training.qute` has the loss and the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeexit.errors import ModelError
from edgeexit.pictures.preprocess import Preprocess
from edgeexit_models.definitions.ensembles import Group
from edgeexit_models.definitions.heads import PoolLinear
from edgeexit_models.definitions.layers import init_weights
from edgeexit_models.definitions.resnet8 import CIFAR10_MEAN, ResNet8
from edgeexit_models.protocol import InputSpec, evaluating


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
        filtered = functional.conv2d(x, f.weight.detach(), fixed, stride=f.stride, groups=f.groups)
        y: Tensor = self.view(torch.relu(filtered))
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
        network = QuteDeployed(deepcopy(self.stages), [pair.deployed() for pair in self._pairs()])
        network.input_spec, network.preprocess = self.input_spec, self.preprocess
        return network.eval()

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


class _SubtractMean(nn.Module):
    """Subtracts a mean from every channel."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.mean: Tensor
        self.register_buffer("mean", mean)

    def forward(self, x: Tensor) -> Tensor:
        return x - self.mean


def qute_resnet8(classes: int = 10, mean: Sequence[float] | None = CIFAR10_MEAN) -> Qute:
    """ResNet-8 with early exits behind stacks 1 and 2, and two early views; arguments as `ResNet8`."""
    net = ResNet8(classes, mean)
    centre = [] if net.mean is None else [_SubtractMean(net.mean)]
    first = nn.Sequential(*centre, net.stem, net.stacks[0])
    module = Qute([first, *net.stacks[1:]], net.heads[-1], classes, torch.zeros(1, 3, 32, 32))
    module.input_spec, module.preprocess = net.input_spec, net.preprocess
    return module
