"""An early-exit Conformer on a stream: one chunk in, answers and the new memory out.

Chunk by chunk the answers equal those of the whole utterance with the chunk mask.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgeexit.errors import ModelError
from edgeexit_models.protocol import InputSpec
from edgeexit_models.speech.conformer import EarlyExitConformer, Exit
from edgeexit_models.speech.layers import HIDDEN, Context, rotary
from edgeexit_models.speech.subsampling import FACTOR, PAST


class StreamingConformer(nn.Module):
    """Runs `model` on one chunk of a stream; shares its weights.

    Inputs: `x` (1, 4 chunk, bins), the next feature frames; `x_lens` (1,) int64, how many of them are real: all,
    except in the last chunk of a stream (pad it with anything); then the memory, zeros at the start, in the order
    of `states`:

    - `features` (1, 3, bins): the last normalised feature frames;
    - for every exit k, `valid_k` (1, left): 1 where the caches of its stack hold a real frame;
    - for every layer i, `attention_i` (1, left, 2 width), keys and values, and `convolution_i` (1, kernel - 1, width).

    A stack has its own `valid_k`, so its memory changes only when it runs: deeper stacks can be left out for a
    while and be given the missed chunks later, in order (catch up).

    Args:
        model: with `config.chunk`.

    Raises:
        ModelError: the model was made for whole utterances.
    """

    def __init__(self, model: EarlyExitConformer) -> None:
        super().__init__()
        config = model.config
        if config.chunk is None:
            raise ModelError("a stream needs a network trained on chunks: set `chunk` in its ConformerConfig")
        self.model, self.chunk, self.left = model, config.chunk, config.left
        self.speech_spec = model.speech_spec
        shapes: dict[str, tuple[int, ...]] = {"features": (1, PAST, config.bins)}
        for k, layers in enumerate(config.stacks):
            if self.left:
                shapes[f"valid_{k}"] = (1, self.left)
            for i in layers:
                if self.left:
                    shapes[f"attention_{i}"] = (1, self.left, 2 * config.width)
                shapes[f"convolution_{i}"] = (1, config.kernel - 1, config.width)
        self.states = tuple(shapes)
        self.input_spec: InputSpec = {
            "x": ("float32", (1, FACTOR * self.chunk, config.bins)),
            "x_lens": ("int64", (1,)),
            **{name: ("float32", shape) for name, shape in shapes.items()},
        }
        cosine, sine = rotary(torch.arange(self.left + self.chunk, dtype=torch.float32), config.width // config.heads)
        self.cosine: Tensor
        self.sine: Tensor
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)
        self.register_load_state_dict_pre_hook(_of_the_whole)  # type: ignore[no-untyped-call]

    def zero_states(self) -> tuple[Tensor, ...]:
        """The memory at the start of a stream."""
        shapes = (self.input_spec[name][1] for name in self.states)
        return tuple(torch.zeros([int(n) for n in shape]) for shape in shapes)

    def forward(self, x: Tensor, x_lens: Tensor, *states: Tensor) -> tuple[list[Exit], tuple[Tensor, ...]]:
        """The exits as `EarlyExitConformer.forward` gives them, for this chunk, and the memory after it.

        Raises:
            ModelError: another number of states.
        """
        if len(states) != len(self.states):
            raise ModelError(f"{len(states)} states given, this network has {len(self.states)}: {self.states[:3]}...")
        old = dict(zip(self.states, states, strict=True))
        new: dict[str, Tensor] = {}
        model = self.model
        features = model.normalised(x)
        h, lengths = model.subsampling(features, x_lens, old["features"])
        new["features"] = torch.cat([old["features"], features], dim=1)[:, -PAST:]
        exits: list[Exit] = []
        for k, layers in enumerate(model.config.stacks):
            keep = (torch.arange(self.chunk)[None] < lengths[:, None]).to(h.dtype)
            valid = torch.cat([old[f"valid_{k}"], keep], dim=1) if self.left else keep
            context = Context(keep[:, :, None], (1 - valid)[:, None, None] * HIDDEN, self.cosine, self.sine)
            if self.left:
                new[f"valid_{k}"] = valid[:, -self.left :]
            for i in layers:
                attended = old[f"attention_{i}"] if self.left else None
                h, attended, convolved = model.layer(i).step(h, context, attended, old[f"convolution_{i}"])
                if self.left:
                    new[f"attention_{i}"] = attended[:, -self.left :]
                new[f"convolution_{i}"] = convolved[:, -(model.config.kernel - 1) :]
            exits.append({"output": model.answer(k, h), "lengths": lengths})
        return exits, tuple(new[name] for name in self.states)


def _of_the_whole(stream: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Weights saved from the network for whole utterances fit as they are: their names lack `model.`"""
    if not any(name.startswith(f"{prefix}model.") for name in state):
        for name in [n for n in state if n.startswith(prefix)]:
            state[f"{prefix}model.{name[len(prefix) :]}"] = state.pop(name)
