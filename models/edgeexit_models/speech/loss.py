"""The CTC loss of all exits at once (Wright et al. 2023 take the plain sum)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from edgeexit.errors import ModelError
from edgeexit_models.speech.conformer import Exit


def exit_losses(exits: Sequence[Exit], targets: Tensor, target_lens: Tensor, blank: int = 0) -> Tensor:
    """CTC loss of every exit `(exits,)`: per token, then the mean over the batch.

    Utterances with fewer frames than their tokens need (one more for every repeated token) have no alignment;
    they count 0 and teach nothing, instead of making the loss infinite.

    Args:
        exits: as `EarlyExitConformer.forward` returns them.
        targets: (all tokens of the batch in a row,) int64, without blanks.
        target_lens: (batch,) int64.
        blank: the token that stands for nothing.
    """
    losses = [
        functional.ctc_loss(
            e["output"].transpose(0, 1), targets, e["lengths"], target_lens, blank=blank, zero_infinity=True
        )
        for e in exits
    ]
    return torch.stack(losses)


def joint_ctc(
    exits: Sequence[Exit],
    targets: Tensor,
    target_lens: Tensor,
    weights: Sequence[float] | None = None,
    blank: int = 0,
) -> Tensor:
    """Sum over exits of weight times `exit_losses`; None = all 1, as in the paper.

    Raises:
        ModelError: not one weight per exit, or a negative one.
    """
    if weights is not None and (len(weights) != len(exits) or min(weights) < 0 or sum(weights) == 0):
        raise ModelError(f"{tuple(weights)} for {len(exits)} exits: give one weight >= 0 per exit, not all zero")
    losses = exit_losses(exits, targets, target_lens, blank)
    return (losses * losses.new_tensor(weights)).sum() if weights is not None else losses.sum()
