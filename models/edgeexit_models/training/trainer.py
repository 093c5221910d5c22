"""A small trainer for multi-exit classifiers on arrays in memory; the same seed gives the same weights.

SGD with momentum and one learning-rate cycle, a checkpoint after every epoch, and resuming that ends in
exactly the weights of a run that was never interrupted (same machine, same versions, same number of threads).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeexit.errors import ModelError
from edgeexit_models.protocol import exits
from edgeexit_models.training import checkpoint as checkpoints
from edgeexit_models.training.measure import Data, as_floats, as_tensors, evaluate
from edgeexit_models.training.steps import learning_rate, parameter_groups, torch_threads

Loss = Callable[[Sequence[Tensor], Tensor, int, int], Tensor]
"""(outputs, targets, epoch, epochs) -> scalar; see `edgeexit_models.training.losses`."""
Augment = Callable[[Tensor, torch.Generator], Tensor]
"""(batch, generator) -> batch; all chance from the generator, or resuming cannot repeat it."""

MOMENTUM = 0.9


@dataclass(frozen=True)
class Epoch:
    """Loss, accuracy and duration of one epoch."""

    number: int
    """From 0."""
    loss: float
    """Mean over the epoch's batches."""
    seconds: float
    """Training and validation."""
    accuracy: tuple[float, ...] | None
    """Per exit on the validation data; None without any."""


@dataclass(frozen=True)
class History:
    """All epochs of a run, those before an interruption included."""

    epochs: tuple[Epoch, ...]


def fit(
    module: nn.Module,
    data: Data,
    *,
    epochs: int,
    seed: int,
    batch_size: int,
    lr: float,
    loss: Loss,
    weight_decay: float = 5e-4,
    augment: Augment | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool | Callable[[Epoch], None] = True,
    validation: Data | None = None,
    threads: int | None = None,
) -> History:
    """Trains `module` in place; it ends in evaluation mode.

    Args:
        module: a multi-exit module with its starting weights (seed before building it to repeat a run).
        data: training inputs and class numbers; uint8 and float64 become float32 batch by batch.
        epochs: passes over the data. Samples that do not fill a last batch are left out, different ones every
            epoch.
        seed: for order, augmentation and dropout.
        batch_size: samples per step.
        lr: the highest learning rate of the cycle.
        loss: see `Loss`; a dataclass is stored in the checkpoint with its numbers.
        weight_decay: for weights with two or more axes only: not for biases and norms.
        augment: see `Augment`.
        checkpoint: file written after every epoch.
        resume: continue from `checkpoint` if it exists. Without it an existing file is an error, not
            overwritten.
        progress: True draws one line on a terminal and is quiet elsewhere; a function is called after every
            epoch.
        validation: data for per-exit accuracy after every epoch.
        threads: torch threads while training; the setting before comes back.

    Raises:
        DataError: inputs and classes do not fit.
        ModelError: no multi-exit module, an unusable checkpoint, or a loss that stopped being a number.
    """
    x, y = as_tensors(data)
    path = Path(checkpoint) if checkpoint is not None else None
    if epochs < 1 or batch_size < 1:
        raise ModelError(f"epochs and batch_size must be at least 1, got {epochs} and {batch_size}")
    if path is not None and path.exists() and not resume:
        raise ModelError(f"{path} exists: pass resume=True to go on from it, or delete it")
    plan = _Plan(epochs, seed, batch_size, lr, weight_decay, loss, augment)
    groups = parameter_groups(module, weight_decay)
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, nesterov=True)
    run = _Run(plan, module, x, y, optimizer, torch.Generator().manual_seed(seed))
    records: list[Epoch] = []
    with torch_threads(threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if path is not None and path.exists():
            records = run.restore(path)
        for epoch in range(len(records), epochs):
            started = time.monotonic()
            mean = run.one_epoch(epoch, draw=progress is True and sys.stderr.isatty())
            accuracy = evaluate(module, *validation) if validation is not None else None
            records.append(Epoch(epoch, mean, time.monotonic() - started, accuracy))
            if path is not None:
                run.save(path, records)
            if callable(progress):
                progress(records[-1])
    module.eval()
    return History(tuple(records))


@dataclass(frozen=True)
class _Plan:
    """The numbers and functions of a run."""

    epochs: int
    seed: int
    batch_size: int
    lr: float
    weight_decay: float
    loss: Loss
    augment: Augment | None


@dataclass(frozen=True)
class _Run:
    """State of a run: plan, module, data, optimizer, random generator."""

    plan: _Plan
    module: nn.Module
    x: Tensor
    y: Tensor
    optimizer: torch.optim.Optimizer
    generator: torch.Generator

    def one_epoch(self, epoch: int, draw: bool) -> float:
        """One pass over the data; returns the mean loss."""
        plan = self.plan
        self.module.train()
        order = torch.randperm(len(self.x), generator=self.generator)
        batches = max(len(self.x) // plan.batch_size, 1)
        total = 0.0
        for step in range(batches):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(epoch * batches + step, plan.epochs * batches, plan.lr)
            total += self.one_step(order[step * plan.batch_size : (step + 1) * plan.batch_size], epoch)
            if draw:
                mean = total / (step + 1)
                line = f"epoch {epoch + 1}/{plan.epochs}  step {step + 1}/{batches}  loss {mean:.3f}"
                end = "\n" if (epoch + 1, step + 1) == (plan.epochs, batches) else ""
                print(f"\r{line}", end=end, file=sys.stderr, flush=True)
        return total / batches

    def one_step(self, rows: Tensor, epoch: int) -> float:
        """One change of the weights on the samples `rows`; returns the loss."""
        plan = self.plan
        inputs = as_floats(self.x[rows])
        if plan.augment is not None:
            inputs = plan.augment(inputs, self.generator)
        value = plan.loss(exits(self.module, inputs), self.y[rows], epoch, plan.epochs)
        number = float(value.detach())
        if not math.isfinite(number):
            raise ModelError(
                f"the loss became {number} in epoch {epoch + 1}: lower lr (now {plan.lr}), "
                "or look for NaN or huge values in the data"
            )
        self.optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return number

    def settings(self) -> dict[str, Any]:
        """Settings that a checkpoint must share with the run."""
        plan = self.plan
        return {
            "epochs": plan.epochs,
            "seed": plan.seed,
            "batch_size": plan.batch_size,
            "lr": plan.lr,
            "weight_decay": plan.weight_decay,
            "loss": _named(plan.loss),
            "augment": _named(plan.augment),
            "data": list(self.x.shape),
            "weights": {name: list(value.shape) for name, value in self.module.state_dict().items()},
        }

    def save(self, path: Path, records: Sequence[Epoch]) -> None:
        """Writes everything that resuming needs."""
        state = {
            "settings": self.settings(),
            "model": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "torch_rng": torch.get_rng_state(),
            "epochs": [asdict(record) for record in records],
        }
        checkpoints.save(path, state)

    def restore(self, path: Path) -> list[Epoch]:
        """Restores everything that `save` wrote."""
        state = checkpoints.load(path)
        checkpoints.check_settings(path, state["settings"], self.settings())
        self.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_rng"])
        return [Epoch(**record) for record in state["epochs"]]


def _named(part: object) -> str:
    """A dataclass with its numbers; a function by name, for its numbers cannot be seen."""
    if part is None or is_dataclass(part):
        return repr(part)
    return str(getattr(part, "__qualname__", type(part).__name__))
