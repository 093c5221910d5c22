"""Splitformer (arXiv 2506.18035): beside the first and the last stack runs one layer on every second frame."""

from __future__ import annotations

from torch import Tensor, nn

from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.errors import ModelError
from edgeexit_models.speech.config import ConformerConfig
from edgeexit_models.speech.conformer import EarlyExitConformer
from edgeexit_models.speech.layers import ConformerLayer, Context


class Splitformer(EarlyExitConformer):
    """An `EarlyExitConformer` whose first and last stack have a parallel layer at half the frame rate.

    The layer takes the stack's input without its odd frames; each of its answers is repeated and added to the
    stack's output, which feeds the exit and the next stack. With one stack it has one such layer.

    Args: as `EarlyExitConformer`.

    Raises:
        ModelError: `config.chunk` is set (the paper's network takes whole utterances).
    """

    def __init__(self, config: ConformerConfig, speech: SpeechSpec | None = None) -> None:
        if config.chunk is not None:
            raise ModelError(f"Splitformer takes whole utterances: chunk must be None, got {config.chunk}")
        super().__init__(config, speech)
        self.parallel = nn.ModuleDict({str(k): ConformerLayer(config) for k in (0, len(config.exits) - 1)})

    def stack(self, k: int, h: Tensor, context: Context) -> Tensor:
        whole = super().stack(k, h, context)
        if str(k) not in self.parallel:
            return whole
        # unconditional slices: `if frames % 2` would be frozen at the example's parity when exported
        every = slice(None, None, 2)
        halved = Context(
            context.keep[:, every], context.bias[..., every],
            context.cosine[: (h.shape[1] + 1) // 2], context.sine[: (h.shape[1] + 1) // 2],
        )  # fmt: skip
        slow: Tensor = self.parallel[str(k)](h[:, every], halved)
        twice = slow[:, :, None].expand(-1, -1, 2, -1).flatten(1, 2)
        return whole + twice[:, : h.shape[1]]


def splitformer_paper(vocab: int = 256, bins: int = 80) -> Splitformer:
    """The paper's size: `conformer_paper` with two parallel layers, 36.7 million parameters."""
    return Splitformer(
        ConformerConfig(
            bins=bins, vocab=vocab, layers=12, width=256, heads=8, feed_forward=2048, kernel=31,
            exits=(2, 4, 6, 8, 10, 12), norm="batch",
        )
    )  # fmt: skip
