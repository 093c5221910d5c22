"""A network with fitted heads as one torch module, so that both can be trained on; and back again."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional

from edgeexit.errors import ModelError
from edgeexit_exporters.augment.heads import Head, LinearHead, MlpHead
from edgeexit_exporters.augment.looks import LENGTH
from edgeexit_exporters.augment.nodes import GRID, ways_of
from edgeexit_exporters.augment.places import Place
from edgeexit_exporters.onnx import measure
from edgeexit_exporters.source.source import Source
from edgeexit_exporters.source.torch_source import from_torch, traced

_ALIKE = 1e-4


class Trainable(nn.Module):
    """Inputs -> `(batch, classes)` logits of every exit, the network's own last.

    Args:
        source: a torch module with one answer; not changed, a copy of it is trained.
        places: shallow to deep.
        heads: fitted, one per place.
        pool: as their features were made.
        example: some inputs, by name; features are standardised by their mean and spread there, for training only.

    Raises:
        ModelError: an ONNX source, or a place that is not found in torch's own graph, or pools otherwise there.
    """

    def __init__(
        self,
        source: Source,
        places: Sequence[Place],
        heads: Sequence[Head],
        pool: str,
        example: Mapping[str, NDArray[Any]],
    ) -> None:
        super().__init__()
        if source.module is None:
            raise ModelError("fine-tuning needs the torch module; an .onnx file has no training left in it")
        self._source, self._places, self._pool = source, tuple(places), pool
        self.network = copy.deepcopy(source.module)
        self._probabilities = source.joint.kinds[0] == "probs"
        inputs = [torch.from_numpy(np.ascontiguousarray(example[s.tensor.name])) for s in source.inputs]
        tensors = [t for p in places for t in p.tensors]
        graph = traced(self.network, source.inputs, source.picks)
        few = {s.tensor.name: t[:2].numpy() for s, t in zip(source.inputs, inputs, strict=True)}
        wanted = measure.all_values(ir.to_proto(source.model), tensors, few)
        self.backbone = _with_outputs(graph, tensors, wanted, [t[:2] for t in inputs])
        with torch.no_grad():
            *seen, _ = self.backbone(*inputs)
            vectors = [_pooled(p, pool, dict(zip(tensors, seen, strict=True))) for p in places]
        self.heads = nn.ModuleList(_TrainableHead(h, v) for h, v in zip(heads, vectors, strict=True))
        for place, head, mine, v in zip(places, heads, self.heads, vectors, strict=True):
            there = torch.from_numpy(head.logits(v.numpy()))
            if not torch.allclose(mine(v), there, atol=_ALIKE * float(there.abs().max())):
                raise ModelError(f"the head at {place.name!r} answers otherwise in torch; it cannot be trained on")

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        *seen, final = self.backbone(*inputs)
        by_name = dict(zip([t for p in self._places for t in p.tensors], seen, strict=True))
        answers = [h(_pooled(p, self._pool, by_name)) for p, h in zip(self._places, self.heads, strict=True)]
        return (*answers, final.clamp_min(1e-30).log() if self._probabilities else final)

    def trained(self) -> tuple[Source, list[Head]]:
        """The network as it is now, exported anew, and its heads."""
        network = copy.deepcopy(self.network).eval()
        notes = {k: v for k, v in self._source.provenance.items() if k != "torch"}
        names = [e.name for e in self._source.exits]
        source = from_torch(network, self._source.inputs, names, {**notes, "fine_tuned": True}, single=True)
        return source, [h.fitted() for h in self.heads]  # type: ignore[operator]


class _TrainableHead(nn.Module):
    """A fitted head on standardised features: on raw ones, one learning rate does not suit all weights."""

    mean: Tensor
    spread: Tensor

    def __init__(self, head: Head, vectors: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", vectors.mean(0))
        spread = vectors.std(0)
        self.register_buffer("spread", torch.where(spread > 1e-6, spread, torch.ones_like(spread)))
        layers = [(head.weight, head.bias)]
        if isinstance(head, MlpHead):
            layers.insert(0, (head.hidden_weight, head.hidden_bias))
        self.layers = nn.ModuleList()
        for k, (weight, bias) in enumerate(layers):
            w, b = torch.from_numpy(weight.T.copy()), torch.from_numpy(bias.copy())
            layer = nn.Linear(w.shape[1], w.shape[0])
            with torch.no_grad():
                layer.weight.copy_(w if k else w * self.spread)
                layer.bias.copy_(b if k else b + w @ self.mean)
            self.layers.append(layer)

    def forward(self, vectors: Tensor) -> Tensor:
        x = (vectors - self.mean) / self.spread
        for k, layer in enumerate(self.layers):
            x = layer(functional.relu(x) if k else x)
        return x

    def fitted(self) -> Head:
        layers = [(layer.weight.detach().double(), layer.bias.detach().double()) for layer in self.layers]  # type: ignore[operator]
        first, bias = layers[0]
        first = first / self.spread
        layers[0] = (first, bias - first @ self.mean.double())
        arrays = [np.ascontiguousarray(t.numpy().T.astype(np.float32)) for pair in layers for t in pair]
        return LinearHead(*arrays) if len(layers) == 1 else MlpHead(*arrays)


def _with_outputs(
    graph: fx.GraphModule, tensors: Sequence[str], wanted: Mapping[str, NDArray[Any]], inputs: Sequence[Tensor]
) -> fx.GraphModule:
    """The graph, giving these tensors before its answer; found by their values, as names may differ.

    Raises:
        ModelError: a tensor that no node gives.
    """
    run = fx.Interpreter(graph, garbage_collect_values=False)
    with torch.no_grad():
        run.run(*inputs)
    values = [(n, v) for n, v in run.env.items() if isinstance(v, Tensor) and v.is_floating_point()]
    (out,) = [n for n in graph.graph.nodes if n.op == "output"]
    places = []
    for name in tensors:
        target = torch.from_numpy(wanted[name])
        fit = [n for n, v in values if v.shape == target.shape and _alike(v, target)]
        if not fit:
            raise ModelError(f"tensor {name!r} is not found in torch's own graph, so no head can be trained there")
        places.append(next((n for n in fit if n.name == name), fit[-1]))
    answers = list(out.args[0]) if isinstance(out.args[0], tuple | list) else [out.args[0]]
    out.args = (tuple(places) + tuple(answers),)
    graph.graph._codegen = fx.graph.CodeGen()  # the exporter's own packs outputs as the module returned them
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            node.target = node.name
    graph.graph.lint()
    graph.recompile()
    return graph


def _alike(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= _ALIKE * b.abs().max())


def _pooled(place: Place, pool: str, seen: Mapping[str, Tensor]) -> Tensor:
    """As `nodes.add_pooled`, in torch.

    Raises:
        ModelError: a place with a mask.
    """
    if place.mask is not None:
        raise ModelError(f"the head at {place.name!r} leaves padding out by a mask; such heads cannot be fine-tuned")
    parts: list[Tensor] = []
    for name, kind, size in zip(place.tensors, place.kinds, place.sizes, strict=True):
        x = seen[name].float()
        axes = (2, 3) if kind == "picture" else (LENGTH.get(kind, 0),)
        for way in ways_of(kind, pool) or ("itself",):
            if way == "windows":
                window = [-(-s // GRID) for s in size]
                grid = functional.avg_pool2d if kind == "picture" else functional.avg_pool1d
                parts.append(grid(x, window, window).flatten(1))
            elif way in ("first", "last"):
                parts.append(x.select(axes[0], 0 if way == "first" else -1))
            else:
                parts.append(x.mean(axes) if way == "mean" else x.amax(axes) if way == "max" else x)
    return torch.cat(parts, 1)
