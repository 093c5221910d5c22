"""Exits for a decoder with fixed weights: maps between a layer's hidden state and the shared head.

`fit_maps`: linear maps by least squares (Jump to Conclusions, Din et al. 2023), no training. `ExitHeads` with
`HeadTuning`: a small network per exit, trained while the decoder is frozen (EE-Tuning, Pan et al. 2024).
Both are modules `(..., hidden) -> (..., hidden)`; logits are `model.head(map(h))`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeexit.common.files import write_atomic
from edgeexit.errors import DataError, ModelError
from edgeexit_models.lm.evaluate import sequences
from edgeexit_models.lm.layerskip import towards
from edgeexit_models.lm.llama import LlamaLM, RMSNorm
from edgeexit_models.lm.trainer import Tokens
from edgeexit_models.protocol import evaluating

FIRST = 4
"""Positions left out of a fit: their hidden states are attention sinks, tens of times larger than all others."""


def fit_maps(
    model: LlamaLM,
    tokens: Tokens,
    context: int,
    layers: Iterable[int],
    *,
    bias: bool = True,
    skip: int = FIRST,
    batch: int = 8,
) -> dict[int, nn.Linear]:
    """Linear maps from the hidden state after each of `layers` to the last one (before the final norm).

    Least squares from Gram matrices in float64, so memory does not grow with the text. Around ten thousand tokens are
    enough for some hundred dimensions.

    Args:
        model: the decoder.
        tokens: `(n,)`, text not used to measure exits.
        context: tokens per sequence.
        layers: numbers of layers run, each 1..L-1.
        bias: also fit a constant (the paper's maps have none).
        skip: first positions of every sequence to leave out.
        batch: sequences at a time.

    Returns:
        Layer -> `nn.Linear(hidden, hidden)`.

    Raises:
        ModelError: a layer outside 1..L-1.
        DataError: too little text for that many unknowns.
    """
    numbers = _early(model, layers)
    width = model.config.hidden_size + bias
    grams = {layer: torch.zeros(width, width, dtype=torch.float64) for layer in numbers}
    crosses = {layer: torch.zeros(width, model.config.hidden_size, dtype=torch.float64) for layer in numbers}
    count = 0
    with evaluating(model), torch.no_grad():
        for ids, _ in sequences(tokens, context, batch):
            states = [state[:, skip:].flatten(0, 1).double() for state in model.hidden(ids)]
            count += len(states[-1])
            for layer in numbers:
                x = functional.pad(states[layer - 1], (0, 1), value=1.0) if bias else states[layer - 1]
                grams[layer] += x.T @ x
                crosses[layer] += x.T @ states[-1]
    if count < width:
        raise DataError(f"{count} tokens for maps of {width} unknowns a row: give more text (ten thousand or more)")
    return {layer: _solved(grams[layer], crosses[layer], bias) for layer in numbers}


def _solved(gram: Tensor, cross: Tensor, bias: bool) -> nn.Linear:
    hidden = cross.shape[1]
    solution = torch.linalg.lstsq(gram, cross, driver="gelsd").solution  # gelsd: also when directions are missing
    linear = nn.Linear(hidden, hidden, bias=bias)
    with torch.no_grad():
        linear.weight.copy_(solution[:hidden].T)
        if bias:
            linear.bias.copy_(solution[hidden])
    return linear.requires_grad_(False)


class MLPMap(nn.Module):
    """`h + MLP(norm(h))` with SwiGLU; starts as the identity, which is the exit without a map."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.norm = RMSNorm(hidden, eps=1e-6)
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)
        nn.init.zeros_(self.down_proj.weight)

    def forward(self, h: Tensor) -> Tensor:
        x = self.norm(h)
        out: Tensor = h + self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class ExitHeads(nn.Module):
    """A frozen decoder with an `MLPMap` after some layers; `train` it with a `Plan` whose recipe is `HeadTuning`.

    Args:
        model: the decoder; its weights are frozen.
        layers: numbers of layers run, each 1..L-1.
        inner: width inside the maps; None = the hidden size.

    Raises:
        ModelError: a layer outside 1..L-1.
    """

    def __init__(self, model: LlamaLM, layers: Iterable[int], inner: int | None = None) -> None:
        super().__init__()
        self.config = model.config
        self.backbone = model.requires_grad_(False)
        size = model.config.hidden_size
        self.heads = nn.ModuleDict({str(layer): MLPMap(size, inner or size) for layer in _early(model, layers)})

    def maps(self) -> dict[int, nn.Module]:
        """Layer -> its map."""
        return {int(layer): head for layer, head in self.heads.items()}


@dataclass(frozen=True)
class HeadTuning:
    """Trains all exits of `ExitHeads` at once, each on the mixture that `LayerSkip.imitate` describes."""

    imitate: float = 0.0

    def loss(
        self, model: ExitHeads, ids: Tensor, targets: Tensor, step: int, fraction: float, generator: torch.Generator
    ) -> Tensor:
        """Mean over the exits; the decoder gets no gradient."""
        backbone, flat = model.backbone, targets.flatten()
        with torch.no_grad():
            states = backbone.hidden(ids)
            teacher = backbone.head(states[-1]).flatten(0, 1).float().softmax(-1) if self.imitate else None
        losses = [
            towards(backbone.head(head(states[layer - 1])).flatten(0, 1).float(), flat, teacher, self.imitate)
            for layer, head in model.maps().items()
        ]
        return torch.stack(losses).mean()


def save_maps(path: Path, maps: Mapping[int, nn.Module]) -> None:
    """Writes maps of one or both kinds into one safetensors file; names are `<layer>.<tensor>`."""
    tensors = {
        f"{layer}.{name}": value.detach().float().cpu().contiguous()
        for layer, module in sorted(maps.items())
        for name, value in module.state_dict().items()
    }
    write_atomic(path, safetensors.torch.save(tensors))


def load_maps(path: Path, model: LlamaLM) -> dict[int, nn.Module]:
    """Reads what `save_maps` wrote.

    Raises:
        ModelError: no such file, a damaged one, or maps that do not fit the decoder.
    """
    try:
        stored = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as e:
        raise ModelError(f"{path}: cannot be read as safetensors ({e})") from e
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in stored.items():
        layer, _, rest = name.partition(".")
        parts.setdefault(layer, {})[rest] = value
    size, maps = model.config.hidden_size, dict[int, nn.Module]()
    for layer, state in parts.items():
        inner = state.get("gate_proj.weight")
        try:
            module = nn.Linear(size, size, bias="bias" in state) if inner is None else MLPMap(size, len(inner))
            module.load_state_dict(state)
            maps[_early(model, [int(layer)])[0]] = module.requires_grad_(False)
        except (RuntimeError, ValueError, TypeError) as e:
            raise ModelError(f"{path}: {layer!r} is no map for {size} wide hidden states ({e})") from e
    return dict(sorted(maps.items()))


def _early(model: LlamaLM, layers: Iterable[int]) -> list[int]:
    numbers, most = sorted(set(layers)), len(model.layers) - 1
    if not numbers or not 1 <= numbers[0] <= numbers[-1] <= most:
        raise ModelError(f"exits after layers {numbers}: early exits come after layers 1..{most}")
    return numbers
