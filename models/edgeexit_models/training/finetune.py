"""Fine-tuning of exits on a trained network: the heads first, then everything with a small learning rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from edgeexit.errors import ModelError
from edgeexit_models.training.losses import GrowingDistillation, SelfDistillation
from edgeexit_models.training.measure import Data
from edgeexit_models.training.trainer import Epoch, Loss, fit

HEAD_EPOCHS, EPOCHS = 2, 4
HEAD_RATE, RATE = 0.01, 0.002


def finetune(
    module: nn.Module,
    data: Data,
    costs: Sequence[float],
    *,
    seed: int = 0,
    head_epochs: int = HEAD_EPOCHS,
    epochs: int = EPOCHS,
    head_rate: float = HEAD_RATE,
    rate: float = RATE,
    batch_size: int = 128,
    threads: int | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> None:
    """Fine-tunes a network whose exits are fitted already, in place.

    The heads learn jointly, with the backbone frozen; then heads and backbone, with a small rate. In both, an early
    exit learns from the labels and from the last exit (Zhang et al. 2019). While the backbone learns, its weight in
    the loss grows from epoch to epoch to its share of the cost (Kaya et al. 2019): the last exit is not pulled away.

    Args:
        module: a multi-exit module with parts `backbone` and `heads`, as `attach` returns. Batch norms whose
            statistics must not change have to be frozen by the module.
        data: inputs and class numbers.
        costs: cumulative cost of every exit, any unit.
        seed: of the order of rows.
        head_epochs, head_rate: of the heads alone; 0 epochs = not.
        epochs, rate: of everything; 0 epochs = not.
        batch_size: rows per step.
        threads: of torch.
        progress: called with one line of text per epoch.

    Raises:
        DataError, ModelError: as `fit`, or no such parts.
    """
    backbone = getattr(module, "backbone", None)
    if not isinstance(backbone, nn.Module) or not isinstance(getattr(module, "heads", None), nn.Module):
        raise ModelError(f"{type(module).__name__} has no parts `backbone` and `heads`; `attach` makes such a module")
    learning = [p for p in module.parameters() if p.requires_grad]
    frozen = [p for p in backbone.parameters() if p.requires_grad]
    phases: tuple[tuple[str, int, float, Loss], ...] = (
        ("the heads", head_epochs, head_rate, SelfDistillation((1.0,) * len(costs))),
        ("heads and backbone", epochs, rate, GrowingDistillation(tuple(costs))),
    )
    for what, count, lr, loss in phases:
        if not count:
            continue
        for p in frozen if what == "the heads" else ():
            p.requires_grad_(False)
        try:
            fit(
                module, data, epochs=count, seed=seed, batch_size=batch_size, lr=lr, loss=loss, threads=threads,
                progress=_reporter(progress, what, count),
            )  # fmt: skip
        finally:
            for p in learning:
                p.requires_grad_(True)


def _reporter(progress: Callable[[str], None], what: str, count: int) -> Callable[[Epoch], None]:
    def report(epoch: Epoch) -> None:
        progress(f"  training {what}: epoch {epoch.number + 1} of {count}, loss {epoch.loss:.3f}")

    return report
