"""Conformer encoders with a CTC answer at several depths (Wright et al. 2023, arXiv 2309.09546)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.errors import ModelError
from edgeexit_models.protocol import InputSpec
from edgeexit_models.speech.config import ConformerConfig
from edgeexit_models.speech.layers import HIDDEN, ConformerLayer, Context, rotary
from edgeexit_models.speech.subsampling import Subsampling

Exit = dict[str, Tensor]
"""`output`: log-probabilities (batch, frames, vocab); `lengths`: valid frames (batch,) int64."""


class EarlyExitConformer(nn.Module):
    """Features `(batch, time, bins)` -> per exit, log-probabilities of tokens and how many frames are valid.

    Args:
        config: the shape.
        speech: the network's features and tokens; exporters write it to the manifest.
    """

    def __init__(self, config: ConformerConfig, speech: SpeechSpec | None = None) -> None:
        super().__init__()
        self.config = config
        self.speech_spec = speech
        self.input_spec: InputSpec = {
            "x": ("float32", ("batch", "time", config.bins)),
            "x_lens": ("int64", ("batch",)),
        }
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(config.bins))
        self.register_buffer("scale", torch.ones(config.bins))
        self.subsampling = Subsampling(config.bins, config.width, causal=config.chunk is not None)
        self.layers = nn.ModuleList([ConformerLayer(config) for _ in range(config.layers)])
        self.heads = nn.ModuleList([nn.Linear(config.width, config.vocab) for _ in config.exits])

    def set_normalisation(self, mean: Tensor, deviation: Tensor) -> None:
        """Features are shifted and scaled in the graph: `(x - mean) / deviation`, each `(bins,)`, of training data.

        Raises:
            ModelError: other shapes, or a deviation that is not positive.
        """
        shape = (self.config.bins,)
        if mean.shape != shape or deviation.shape != shape or not bool((deviation > 0).all()):
            raise ModelError(
                f"normalisation needs mean and positive deviation of shape {shape}, got {tuple(mean.shape)} and "
                f"{tuple(deviation.shape)}"
            )
        self.mean.copy_(mean)
        self.scale.copy_(1 / deviation)

    def normalised(self, x: Tensor) -> Tensor:
        """Features as the first layer sees them."""
        return (x - self.mean) * self.scale

    def forward(self, x: Tensor, x_lens: Tensor) -> list[Exit]:
        """The exits' answers; padding may hold anything finite.

        Args:
            x: (batch, time, bins) float32 log-mel.
            x_lens: (batch,) int64, valid feature frames.
        """
        h, lengths = self.subsampling(self.normalised(x), x_lens)
        exits: list[Exit] = []
        for k in range(len(self.heads)):
            h = self.stack(k, h, self.context(h, lengths))
            exits.append({"output": self.answer(k, h), "lengths": lengths})
        return exits

    def layer(self, index: int) -> ConformerLayer:
        """Layer `index`, from 0."""
        layer = self.layers[index]
        assert isinstance(layer, ConformerLayer)
        return layer

    def stack(self, k: int, h: Tensor, context: Context) -> Tensor:
        """The layers between exit k - 1 and exit k."""
        for index in self.config.stacks[k]:
            h = self.layers[index](h, context)
        return h

    def answer(self, k: int, h: Tensor) -> Tensor:
        """Log-probabilities of exit k; the stack ends in a layer norm, the head has none."""
        return torch.log_softmax(self.heads[k](h), dim=-1)

    def context(self, h: Tensor, lengths: Tensor) -> Context:
        """Masks and positions for `h`.

        Every stack makes its own from the lengths: cheaper than carrying them over a cut.
        """
        frames = torch.arange(h.shape[1], device=h.device)
        valid = frames[None] < lengths[:, None]
        attended = valid[:, None, None, :]
        if self.config.chunk is not None:
            start = torch.div(frames, self.config.chunk, rounding_mode="trunc") * self.config.chunk
            back = frames[None] >= start[:, None] - self.config.left
            attended = attended & (back & (frames[None] < start[:, None] + self.config.chunk))
        bias = torch.where(attended, 0.0, HIDDEN)
        keep = valid[:, :, None].to(h.dtype)
        return Context(keep, bias, *rotary(frames.to(torch.float32), self.config.width // self.config.heads))


def conformer_paper(vocab: int = 256, bins: int = 80) -> EarlyExitConformer:
    """The paper's size: 12 layers of width 256, exits every second layer, 31.5 million parameters.

    Other than there: rotary positions (no table of absolute ones), a ReLU between the two subsampling
    convolutions (the paper's is one linear map), convolution inputs masked, log-mel features normalised in the
    graph. None of that has parameters: the count is the paper's 31,536,128.
    """
    return EarlyExitConformer(
        ConformerConfig(
            bins=bins, vocab=vocab, layers=12, width=256, heads=8, feed_forward=2048, kernel=31,
            exits=(2, 4, 6, 8, 10, 12), norm="batch",
        )
    )  # fmt: skip


def conformer_edge(
    vocab: int, bins: int = 40, chunk: int | None = 16, speech: SpeechSpec | None = None
) -> EarlyExitConformer:
    """A small one for devices: 6 layers of width 64, exits after 1, 2, 4 and 6, on a stream unless `chunk` is None."""
    return EarlyExitConformer(
        ConformerConfig(
            bins=bins, vocab=vocab, layers=6, width=64, heads=4, feed_forward=192, kernel=9, exits=(1, 2, 4, 6),
            chunk=chunk, left=0 if chunk is None else 2 * chunk, norm="batch",
        ),
        speech,
    )  # fmt: skip


def single_exit(model: EarlyExitConformer, layers: int) -> EarlyExitConformer:
    """A new network of that depth with one exit, else of `model`'s shape: the baseline of joint training.

    Raises:
        ModelError: more layers than the model has, or less than 1.
    """
    if not 1 <= layers <= model.config.layers:
        raise ModelError(f"{layers} layers asked for, the network has {model.config.layers}")
    return EarlyExitConformer(replace(model.config, layers=layers, exits=(layers,)), model.speech_spec)
