"""A small trainer for early-exit CTC encoders: AdamW, all exits at once, checkpoints, resuming.

A batch is a function of the step's number, so a resumed run sees what an uninterrupted one would and ends in
exactly its weights (on CPUs; same machine, versions and number of threads).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeexit.errors import ModelError
from edgeexit_models.speech.batch import Batch
from edgeexit_models.speech.conformer import EarlyExitConformer
from edgeexit_models.speech.loss import joint_ctc
from edgeexit_models.training import checkpoint as checkpoints
from edgeexit_models.training.steps import learning_rate, parameter_groups, torch_threads

BETAS = (0.9, 0.98)


@dataclass(frozen=True)
class OneCycle:
    """Learning rate up to `peak` in the first 15 % of the steps, then half a cosine to 0."""

    steps: int
    peak: float

    def __call__(self, step: int) -> float:
        return learning_rate(step, self.steps, self.peak)


@dataclass(frozen=True)
class Noam:
    """`width^-0.5 min(s^-0.5, s warm_up^-1.5)` with s from 1 (Vaswani et al. 2017; the paper's, warm-up one epoch)."""

    width: int
    warm_up: int

    def __call__(self, step: int) -> float:
        s = step + 1
        return float(self.width**-0.5 * min(s**-0.5, s * self.warm_up**-1.5))


@dataclass(frozen=True)
class Progress:
    """Report on the steps since the report before."""

    step: int
    """Steps done so far."""
    loss: float
    """Mean over those steps: the weighted sum over exits."""
    seconds: float
    """Wall time since the run began; time before an interruption included."""
    cpu_seconds: float
    """Processor time of this process, counted the same way."""
    errors: tuple[float, ...] | None = None
    """Per exit, the result of `validate`; None where it was not called."""


ReportFunction = Callable[[Progress], None]


def fit_ctc(
    module: EarlyExitConformer,
    batch_at: Callable[[int], Batch],
    *,
    steps: int,
    seed: int,
    schedule: Callable[[int], float],
    weights: Sequence[float] | None = None,
    blank: int = 0,
    weight_decay: float = 0.01,
    clip: float = 1.0,
    checkpoint: str | Path | None = None,
    save_seconds: float = 120.0,
    resume: bool = False,
    progress: bool | ReportFunction = True,
    report_every: int = 100,
    validate: Callable[[nn.Module], tuple[float, ...]] | None = None,
    validate_every: int = 1000,
    threads: int | None = None,
) -> tuple[Progress, ...]:
    """Trains `module` in place, on the device it is on; it ends in evaluation mode.

    Args:
        module: with its starting weights (seed before building it to repeat a run).
        batch_at: step number from 0 -> batch; all chance from that number, or resuming cannot repeat it.
        steps: how many changes of the weights.
        seed: for dropout.
        schedule: step -> learning rate; a dataclass is stored in the checkpoint with its numbers.
        weights: of the exits' losses; None = all 1.
        blank: token number of the CTC blank.
        weight_decay: for weights with two or more axes only.
        clip: the gradient's norm is held below it.
        checkpoint: file written every `save_seconds` and at the end.
        resume: continue from `checkpoint` if it exists; without it an existing file is an error.
        progress: True draws one line on a terminal; a function is called at every report.
        report_every: steps between reports.
        validate: module in evaluation mode -> error rate per exit.
        validate_every: steps between calls of it; it is also called at the end.
        threads: torch threads while training; the setting before comes back.

    Returns:
        All reports, those before an interruption included.

    Raises:
        ModelError: an unusable checkpoint, wrong weights, or a loss that stopped being a number.
    """
    if steps < 1 or report_every < 1 or validate_every < 1:
        raise ModelError(f"need at least one step, got steps={steps}, {report_every=}, {validate_every=}")
    path = Path(checkpoint) if checkpoint is not None else None
    if path is not None and path.exists() and not resume:
        raise ModelError(f"{path} exists: pass resume=True to go on from it, or delete it")
    optimizer = torch.optim.AdamW(parameter_groups(module, weight_decay), lr=0.0, betas=BETAS)
    settings = {
        "steps": steps, "seed": seed, "schedule": repr(schedule), "weights": list(weights) if weights else None,
        "blank": blank, "weight_decay": weight_decay, "clip": clip, "config": repr(module.config),
    }  # fmt: skip
    with torch_threads(threads), torch.random.fork_rng():
        torch.manual_seed(seed)
        run = _Run(module, optimizer, path, settings)
        if path is not None and path.exists():
            run.restore()
        saved = time.monotonic()
        module.train()
        for step in range(run.step, steps):
            rate = schedule(step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            run.total += _one_step(module, optimizer, batch_at(step), weights, blank, clip, step)
            run.step = step + 1
            last = run.step == steps
            if run.step % report_every == 0 or last:
                errors = None
                if validate is not None and (run.step % validate_every == 0 or last):
                    module.eval()
                    errors = validate(module)
                    module.train()
                run.report(errors)
                _show(run.records[-1], progress, steps)
            if path is not None and (last or time.monotonic() - saved > save_seconds):
                run.save()
                saved = time.monotonic()
    module.eval()
    return tuple(run.records)


class _Run:
    """State of a run: module, optimizer, step, reports, clocks."""

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, path: Path | None, settings: dict[str, Any]
    ) -> None:
        self.module, self.optimizer, self.path, self.settings = module, optimizer, path, settings
        self.step, self.total = 0, 0.0
        self.records: list[Progress] = []
        self.before = (0.0, 0.0)
        self.started = (time.monotonic(), time.process_time())

    def clocks(self) -> tuple[float, float]:
        """Wall and processor seconds, with those of earlier runs."""
        now = (time.monotonic(), time.process_time())
        return (self.before[0] + now[0] - self.started[0], self.before[1] + now[1] - self.started[1])

    def report(self, errors: tuple[float, ...] | None) -> None:
        done = self.step - (self.records[-1].step if self.records else 0)
        self.records.append(Progress(self.step, self.total / done, *self.clocks(), errors))
        self.total = 0.0

    def save(self) -> None:
        assert self.path is not None
        state = {
            "settings": self.settings,
            "model": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "step": self.step,
            "total": self.total,
            "clocks": list(self.clocks()),
            "records": [asdict(r) for r in self.records],
        }
        checkpoints.save(self.path, state)

    def restore(self) -> None:
        assert self.path is not None
        state = checkpoints.load(self.path)
        checkpoints.check_settings(self.path, state["settings"], self.settings)
        self.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"])
        self.step, self.total = state["step"], state["total"]
        self.before = (state["clocks"][0], state["clocks"][1])
        records = (Progress(**r) for r in state["records"])
        self.records = [replace(r, errors=tuple(r.errors) if r.errors is not None else None) for r in records]


def _one_step(
    module: EarlyExitConformer,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    weights: Sequence[float] | None,
    blank: int,
    clip: float,
    step: int,
) -> float:
    device = module.mean.device
    x, x_lens, targets, target_lens = (part.to(device) for part in batch)
    loss = joint_ctc(module(x, x_lens), targets, target_lens, weights, blank)
    number = float(loss.detach())
    if not math.isfinite(number):
        raise ModelError(
            f"the loss became {number} in step {step + 1}: lower the learning rate, or look for NaN in the data"
        )
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
    optimizer.step()
    return number


def _show(record: Progress, progress: bool | ReportFunction, steps: int) -> None:
    if callable(progress):
        progress(record)
    elif progress and sys.stderr.isatty():
        end = "\n" if record.step == steps else ""
        print(f"\rstep {record.step}/{steps}  loss {record.loss:.3f}", end=end, file=sys.stderr, flush=True)


def feature_statistics(features: Iterable[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation per bin `(bins,)` of feature arrays `(frames, bins)`, in double precision.

    Raises:
        ModelError: no frames, or a bin that never changes.
    """
    count = 0
    total = squares = torch.zeros((), dtype=torch.float64)
    for one in features:
        wide = torch.as_tensor(one, dtype=torch.float64)
        count += len(wide)
        total = total + wide.sum(0)
        squares = squares + (wide**2).sum(0)
    if count == 0:
        raise ModelError("no feature frames to take mean and deviation of: give training features")
    mean = total / count
    variance = squares / count - mean**2
    if not bool((variance > 1e-12).all()):
        raise ModelError("a feature bin never changes in the training data: check the feature specification")
    return mean.float(), variance.sqrt().float()
