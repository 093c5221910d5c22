"""Training a decoder on one long array of tokens; AdamW, warm-up and cosine; the same seed gives the same weights.

All chance of a step follows from the seed and the step's number, so a run that was interrupted and resumed ends in
exactly the weights of one that was not (same machine, versions and threads) - unless a time limit is set, because then
the schedule follows the clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgeexit.errors import DataError, ModelError
from edgeexit_models.lm.config import LMConfig
from edgeexit_models.training import checkpoint as checkpoints
from edgeexit_models.training.steps import parameter_groups

Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.int32]
"""Token ids `(n,)`, documents one after another."""


class Recipe(Protocol):
    """The objective: a frozen dataclass, stored in the checkpoint with its numbers."""

    def loss(
        self, model: Any, ids: Tensor, targets: Tensor, step: int, fraction: float, generator: torch.Generator
    ) -> Tensor:
        """Loss over `(batch, T)` ids and the tokens that follow them; all chance from the generator."""


@dataclass(frozen=True)
class Plan:
    """The numbers of a run."""

    steps: int
    batch: int
    """Sequences per step."""
    context: int
    """Tokens per sequence."""
    lr: float
    """The highest learning rate."""
    recipe: Recipe
    """`LayerSkip` or `HeadTuning`."""
    seed: int = 0
    warm_up: float = 0.03
    """Share of the training in which the learning rate climbs."""
    weight_decay: float = 0.1
    """For matrices; not for norms."""
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    """Largest norm of the gradient."""
    bfloat16: bool = False
    """Products in bfloat16 (weights stay float32); pays on CPUs and GPUs that have it."""


@dataclass(frozen=True)
class Report:
    """Progress of a run; the loss is the mean since the report before."""

    step: int
    """Steps done."""
    fraction: float
    """Of the whole training, in [0, 1]."""
    loss: float
    tokens: int
    """Seen so far."""
    seconds: float
    """Of training so far, earlier runs included."""
    cpu_seconds: float
    """Processor time of the same; on a shared machine the number to compare."""


def rate(fraction: float, peak: float, warm_up: float) -> float:
    """Linear to `peak`, then half a cosine to 0 (Loshchilov & Hutter 2017)."""
    if fraction < warm_up:
        return peak * max(fraction / warm_up, 0.01)
    return peak * 0.5 * (1 + math.cos(math.pi * (fraction - warm_up) / (1 - warm_up)))


def draw(tokens: Tokens, plan: Plan, step: int) -> tuple[Tensor, Tensor, torch.Generator]:
    """The step's sequences `(batch, context)`, the tokens after them, and the generator for whatever else is drawn."""
    seed = int(np.random.SeedSequence([plan.seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(tokens) - plan.context, (plan.batch,), generator=generator).tolist()
    rows = np.stack([tokens[at : at + plan.context + 1] for at in starts]).astype(np.int64)
    return torch.from_numpy(rows[:, :-1].copy()), torch.from_numpy(rows[:, 1:].copy()), generator


def train(
    model: nn.Module,
    tokens: Tokens,
    plan: Plan,
    *,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 300.0,
    resume: bool = False,
    time_limit: float | None = None,
    report: Callable[[Report], None] = lambda _: None,
    report_every: int = 50,
    stop: Callable[[int], bool] = lambda _: False,
) -> Report:
    """Trains `model` in place and returns the last report; the model ends in evaluation mode.

    Args:
        model: `LlamaLM` or `ExitHeads` with its starting weights (seed before building it to repeat a run); learns
            where `requires_grad` is set.
        tokens: the training text.
        plan: the run's numbers.
        checkpoint: file written every `checkpoint_seconds` and at the end.
        resume: continue from `checkpoint` if it exists. Without it an existing file is an error, not overwritten.
        time_limit: seconds of training; learning rate and layer dropout then follow the steps or the clock, whichever
            is further, so the run ends in time with its schedule complete. Such a run cannot be repeated to the bit.
        report: called every `report_every` steps and at the end.
        stop: called after every step with the steps done; True writes the checkpoint and ends this run.

    Raises:
        DataError: fewer tokens than one sequence, or ids outside the vocabulary.
        ModelError: impossible numbers, an unusable checkpoint, or a loss that stopped being a number.
    """
    _check(model, tokens, plan)
    if checkpoint is not None and checkpoint.exists() and not resume:
        raise ModelError(f"{checkpoint} exists: resume to go on from it, or delete it")
    optimizer = torch.optim.AdamW(parameter_groups(model, plan.weight_decay), lr=plan.lr, betas=plan.betas)
    step, before, cpu_before = 0, 0.0, 0.0
    if checkpoint is not None and checkpoint.exists():
        step, before, cpu_before = _restore(checkpoint, model, optimizer, _settings(model, plan))
    device = next(model.parameters()).device
    started = saved = time.monotonic()
    cpu_started = time.process_time()
    losses: list[float] = []
    last_loss = math.nan
    model.train()

    def now() -> Report:
        seconds = before + time.monotonic() - started
        done = min(max(step / plan.steps, seconds / time_limit if time_limit else 0.0), 1.0)
        mean = sum(losses) / len(losses) if losses else last_loss
        cpu = cpu_before + time.process_time() - cpu_started
        return Report(step, done, mean, step * plan.batch * plan.context, seconds, cpu)

    def save() -> None:
        if checkpoint is not None:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            at = {"step": step, "seconds": now().seconds, "cpu_seconds": now().cpu_seconds}
            checkpoints.save(checkpoint, {"settings": _settings(model, plan), **at, **state})

    while now().fraction < 1:
        # t / (T - 1) by steps, the clock when that is further
        fraction = max(step / max(plan.steps - 1, 1), now().fraction)
        ids, targets, generator = draw(tokens, plan, step)
        for group in optimizer.param_groups:
            group["lr"] = rate(fraction, plan.lr, plan.warm_up)
        with torch.autocast(device.type, torch.bfloat16, enabled=plan.bfloat16):
            loss = plan.recipe.loss(model, ids.to(device), targets.to(device), step, fraction, generator)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise ModelError(f"the loss became {losses[-1]} in step {step + 1}: lower lr (now {plan.lr})")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        optimizer.step()
        step += 1
        if step % report_every == 0:
            report(now())
            last_loss = now().loss
            losses.clear()
        if time.monotonic() - saved > checkpoint_seconds:
            save()
            saved = time.monotonic()
        if stop(step):
            break
    save()
    model.eval()
    if losses:
        report(now())
    return now()


def _check(model: nn.Module, tokens: Tokens, plan: Plan) -> None:
    if min(plan.steps, plan.batch, plan.context) < 1:
        raise ModelError(f"steps, batch and context must be at least 1, got {plan}")
    config = _config(model)
    if plan.context > config.max_position_embeddings:
        raise ModelError(f"context {plan.context} is longer than the model's {config.max_position_embeddings}")
    if tokens.ndim != 1 or len(tokens) <= plan.context:
        raise DataError(f"need one row of more than {plan.context} tokens, got shape {tokens.shape}")
    if int(tokens.max()) >= config.vocab_size or int(tokens.min()) < 0:
        raise DataError(
            f"token ids {int(tokens.min())}..{int(tokens.max())} do not fit the vocabulary of {config.vocab_size}"
        )


def _config(model: nn.Module) -> LMConfig:
    config = getattr(model, "config", None)
    if not isinstance(config, LMConfig):
        raise ModelError(f"{type(model).__name__} is no language model of edgeexit_models.lm: it has no LMConfig")
    return config


def _settings(model: nn.Module, plan: Plan) -> dict[str, Any]:
    recipe = {"name": type(plan.recipe).__name__, **asdict(plan)["recipe"]}
    return {**asdict(plan), "betas": list(plan.betas), "recipe": recipe, "config": _config(model).to_dict()}


def _restore(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]
) -> tuple[int, float, float]:
    state = checkpoints.load(path)
    checkpoints.check_settings(path, state["settings"], settings)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["seconds"], state["cpu_seconds"]
