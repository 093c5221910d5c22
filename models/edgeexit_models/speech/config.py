"""Sizes of an early-exit Conformer, checked when created."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from edgeexit.errors import ModelError

Norm = Literal["layer", "batch"]
"""Of the convolution module. Never GroupNorm over time: it mixes padding into the answer."""


@dataclass(frozen=True)
class ConformerConfig:
    """Shape of an `EarlyExitConformer`.

    Raises:
        ModelError: numbers that do not fit each other; names them.
    """

    bins: int
    """Mel bins of a feature frame."""
    vocab: int
    """Tokens, the blank included."""
    layers: int
    width: int
    heads: int
    feed_forward: int
    """Inner width of both half-step feed-forward modules."""
    kernel: int
    """Encoder frames that the depthwise convolution sees."""
    exits: tuple[int, ...]
    """After how many layers an exit stands, growing; the last is `layers`."""
    dropout: float = 0.1
    chunk: int | None = None
    """Encoder frames per chunk: attention sees its own chunk and `left` frames before it, convolutions only
    the past, so that the network can run on a stream. None = full context."""
    left: int = 0
    """Encoder frames before the chunk that attention sees; only with `chunk`."""
    norm: Norm = "layer"

    def __post_init__(self) -> None:
        sizes = {"bins": self.bins, "vocab": self.vocab, "layers": self.layers, "width": self.width}
        sizes |= {"heads": self.heads, "feed_forward": self.feed_forward, "kernel": self.kernel}
        small = [f"{name}={value}" for name, value in sizes.items() if value < 1]
        if small:
            raise ModelError(f"a Conformer needs positive sizes, got {', '.join(small)}")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ModelError(
                f"width {self.width} over {self.heads} heads: every head needs an even number of channels "
                "(rotary positions turn pairs)"
            )
        if self.chunk is None and (self.left or self.kernel % 2 == 0):
            raise ModelError(
                f"full context (chunk=None) takes left=0 and an odd kernel, got left={self.left}, kernel={self.kernel}"
            )
        if self.chunk is not None and (self.chunk < 1 or self.left < 0 or self.kernel < 2):
            raise ModelError(
                f"a stream needs chunk >= 1, left >= 0 and kernel >= 2, got chunk={self.chunk}, "
                f"left={self.left}, kernel={self.kernel}"
            )
        if not self.exits or list(self.exits) != sorted(set(self.exits)) or self.exits[0] < 1:
            raise ModelError(f"exits are layer counts that grow from 1, got {self.exits}")
        if self.exits[-1] != self.layers:
            raise ModelError(
                f"the last exit stands after layer {self.exits[-1]} of {self.layers}: layers behind it would "
                "never answer; give as many layers as the last exit"
            )
        if not 0 <= self.dropout < 1:
            raise ModelError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.norm not in get_args(Norm):
            raise ModelError(f"norm is one of {', '.join(get_args(Norm))}, got {self.norm!r}")

    @property
    def stacks(self) -> tuple[range, ...]:
        """The layers between exit k-1 and exit k, for every k."""
        starts = (0, *self.exits[:-1])
        return tuple(range(a, b) for a, b in zip(starts, self.exits, strict=True))
