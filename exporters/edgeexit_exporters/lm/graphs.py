"""The decoder's parts as ONNX graphs with free numbers of new and earlier positions.

torch traces one stage of each kind with stand-in weights, and every stage of that kind is a copy of it with its own.
Weights are named after the module's parameters, so that files of one artifact can share them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeexit.bundle.lm_spec import LmSpec
from edgeexit.errors import ModelError, first_line
from edgeexit.lm.positions import POSITION_INPUTS
from edgeexit_exporters.lm.distinct import distinct_weights, named_weights, structure
from edgeexit_exporters.lm.source import Decoder, LmSource
from edgeexit_exporters.onnx import serialize
from edgeexit_exporters.onnx.graph import prepare
from edgeexit_exporters.source.torch_source import quiet

_FREE = torch.export.Dim.DYNAMIC
_BATCH, _NEW, _PAST = 3, 5, 7
"""Example sizes of the trace; any numbers above 1 that differ."""
_NAMED = 256
"""Numbers from which a weight is looked up by content; smaller ones are constants of the graph."""

Weights = Mapping[str, NDArray[Any]]


class Graphs:
    """Makes the graphs of one decoder, cut into the stages of `spec`."""

    def __init__(self, source: LmSource, spec: LmSpec, progress: Callable[[str], None] = lambda text: None) -> None:
        self.source, self.spec, self.progress = source, spec, progress
        self._templates: dict[tuple[Any, ...], _Template | None] = {}
        """By kind and structure of the layers; None = such stages are traced each by itself."""

    def stage(self, k: int) -> ir.Model:
        """`hidden`, `cos`, `sin`, `mask`, `cache_position`, `past_key_values.*` -> `hidden_out`, `present.*`."""
        layers = self.spec.layers_of(k)
        past = [f"past_key_values.{i}.{what}" for i in layers for what in ("key", "value")]
        new = [f"present.{i}.{what}" for i in layers for what in ("key", "value")]
        return self._layers("stage", k, ["hidden", *POSITION_INPUTS, *past], ["hidden_out", *new])

    def keys_values(self, k: int) -> ir.Model:
        """`hidden`, `cos`, `sin` -> `present.*`."""
        new = [f"present.{i}.{what}" for i in self.spec.layers_of(k) for what in ("key", "value")]
        return self._layers("kv", k, ["hidden", *POSITION_INPUTS[:2]], new)

    def positions(self) -> ir.Model:
        """`positions` -> `cos`, `sin`."""
        model = _to_onnx(_Positions(self.source.model), (torch.arange(_NEW),), ({0: _FREE},), "positions")
        return _named(model, ["positions"], [*POSITION_INPUTS[:2]], {}, "positions")

    def head(self, through: nn.Module | None = None, name: str = "head") -> ir.Model:
        """`hidden` -> `logits`.

        Args:
            through: a map `(..., width) -> (..., width)` before the head; None = none.
            name: of the file, for messages and for the map's weights.
        """
        self.progress(f"tracing {name}")
        module = _Head(self.source.model, through)
        model = _to_onnx(module, (torch.zeros(1, _NEW, self.spec.width),), ({1: _FREE},), name)
        weights = {f"{name}.{n}": v for n, v in _weights(through).items()} if through is not None else {}
        weights |= self._head_weights()
        known = _matched(model, weights)
        return _named(model, ["hidden"], ["logits"], known, name)

    def _layers(self, kind: str, k: int, inputs: list[str], outputs: list[str]) -> ir.Model:
        layers, name = self.spec.layers_of(k), f"{kind}_{k}"
        modules = self.source.model.layers
        weights = named_weights(modules, layers)
        key = (kind, len(layers), structure(modules, layers))
        if key not in self._templates:
            self.progress(f"tracing {name}")
            self._templates[key] = self._template(kind, layers, name)
        template = self._templates[key]
        if template is not None:
            model, known = template.filled(layers[0], weights)
        else:
            model = self._trace(kind, layers, name)
            known = _matched(model, weights)
        return _named(model, inputs, outputs, known, name)

    def _template(self, kind: str, layers: range, name: str) -> _Template | None:
        """A stage with stand-in weights; None = not all of it can be told from them."""
        with distinct_weights(self.source.model.layers, layers) as stand_ins:
            if stand_ins is None:
                return None
            model = self._trace(kind, layers, name)
        known = _matched(model, stand_ins)
        places = {w for w, _ in known.values()}
        scalars = {n for n, w in stand_ins.items() if w.size == 1}
        # something was made of weights while tracing: what, only the weights themselves can tell
        if not (scalars if kind == "kv" else {*stand_ins}) <= places or _other_numbers(model, known):
            return None
        return _Template(model, {n: (_within(w, layers[0]), turned) for n, (w, turned) in known.items()})

    def _trace(self, kind: str, layers: range, name: str) -> ir.Model:
        turn = torch.zeros(_BATCH, _NEW, 1, self.spec.head_dim)
        examples: tuple[Any, ...] = (torch.zeros(_BATCH, _NEW, self.spec.width), turn, turn.clone())
        sizes: tuple[Any, ...] = ({0: _FREE, 1: _FREE},) * 3
        if kind == "stage":
            positions = torch.zeros(_BATCH, 1, 1, _NEW, _PAST), torch.arange(_NEW)
            shape = (_PAST, _BATCH, self.spec.kv_heads, self.spec.head_dim)
            examples = (*examples, *positions, [torch.zeros(shape) for _ in range(2 * len(layers))])
            sizes = (*sizes, {0: _FREE, 3: _FREE, 4: _FREE}, {0: _FREE}, [{0: _FREE, 1: _FREE}] * (2 * len(layers)))
        module: nn.Module = (_Stage if kind == "stage" else _KeysValues)(self.source.model, layers[0], layers[-1] + 1)
        return _to_onnx(module, examples, sizes, name)

    def _head_weights(self) -> dict[str, NDArray[Any]]:
        own = {id(p) for layer in self.source.model.layers for p in layer.parameters()}
        named = self.source.module.named_parameters()
        return {n: p.detach().numpy() for n, p in named if id(p) not in own}


@dataclass(frozen=True)
class _Template:
    """A stage's graph with the places of its weights."""

    model: ir.Model
    places: Mapping[str, tuple[tuple[int, str], bool]]
    """Initializer -> layer of the stage and weight of that layer, and whether it is transposed."""

    def filled(self, first: int, weights: Weights) -> tuple[ir.Model, dict[str, tuple[str, bool]]]:
        """The graph of the stage that begins with layer `first`, and its initializers' weights."""
        model = self.model.clone()
        known = {}
        for initializer, ((layer, name), turned) in self.places.items():
            weight = f"layers.{first + layer}.{name}"
            array = _turned(weights[weight]) if turned else weights[weight]
            model.graph.initializers[initializer].const_value = ir.tensor(array, name=initializer)
            known[initializer] = weight, turned
        return model, known


class _Stage(nn.Module):
    def __init__(self, model: Decoder, first: int, last: int) -> None:
        super().__init__()
        self.model, self.first, self.last = model, first, last

    def forward(
        self, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, at: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        out, new = self.model.block(self.first, self.last, hidden, past, at, (cos, sin), mask)
        return (out, *new)


class _KeysValues(nn.Module):
    def __init__(self, model: Decoder, first: int, last: int) -> None:
        super().__init__()
        self.model, self.first, self.last = model, first, last

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.keys_values(self.first, self.last, hidden, (cos, sin)))


class _Positions(nn.Module):
    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, positions: Tensor) -> tuple[Tensor, ...]:
        return tuple(part[0, :, 0] for part in self.model.turn(positions[None]))


class _Head(nn.Module):
    def __init__(self, model: Decoder, through: nn.Module | None) -> None:
        super().__init__()
        self.model, self.through = model, through

    def forward(self, hidden: Tensor) -> Tensor:
        return self.model.head(hidden if self.through is None else self.through(hidden))


def _to_onnx(module: nn.Module, examples: tuple[Any, ...], sizes: tuple[Any, ...], name: str) -> ir.Model:
    with quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                module.eval(), examples, dynamo=True, dynamic_shapes=sizes, verbose=False, optimize=True
            )
        except Exception as e:
            cause = f" ({first_line(e.__cause__)[:200]})" if e.__cause__ and str(e.__cause__) else ""
            raise ModelError(f"torch cannot export {name} to ONNX: {first_line(e)[:200]}{cause}") from e
    assert program is not None
    return prepare(program.model_proto, name)


def _weights(module: nn.Module) -> dict[str, NDArray[Any]]:
    return {n: p.detach().numpy() for n, p in module.named_parameters()}


def _turned(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array.T)


def _matched(model: ir.Model, weights: Weights) -> dict[str, tuple[str, bool]]:
    """Initializer -> the weight that it is, and whether transposed: the exporter folds transposes and forgets names."""
    least = min((_NAMED, *(w.size for w in weights.values())))
    matched: dict[str, tuple[str, bool]] = {}
    for name, value in model.graph.initializers.items():
        if value.const_value is None or value.const_value.size < least:
            continue
        array = value.const_value.numpy()
        named = [w for w in weights if name.endswith(f".{w}")]  # equal ones, such as fresh norms, by their names
        for weight in (*named, *weights):
            held = weights[weight]
            if array.shape == held.shape and np.array_equal(array, held):
                matched[name] = (weight, False)
                break
            if array.ndim == 2 and array.shape == held.T.shape and np.array_equal(array, held.T):
                matched[name] = (weight, True)
                break
    return matched


def _other_numbers(model: ir.Model, known: Mapping[str, tuple[str, bool]]) -> bool:
    """Whether the graph has numbers that are no weights, more than one together."""
    return any(
        value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT and value.const_value.size > 1
        for name, value in model.graph.initializers.items()
        if name not in known
    )


def _within(weight: str, first: int) -> tuple[int, str]:
    """A weight's layer, counted from the stage's first, and its name there."""
    _, layer, name = weight.split(".", 2)
    return int(layer) - first, name


def _named(
    model: ir.Model, inputs: Sequence[str], outputs: Sequence[str], known: Mapping[str, tuple[str, bool]], name: str
) -> ir.Model:
    """The graph with the names of the format, of weights that are the same whatever file they stand in, and no more."""
    graph = model.graph
    _separate(graph)
    for value in (v for n in graph for v in n.outputs):
        if value.name in (*inputs, *outputs):  # torch calls things as we do
            value.name = f"inner_{value.name}"
    for values, names in ((graph.inputs, inputs), (graph.outputs, outputs)):
        if len(values) != len(names):
            raise ModelError(f"{name}: torch made {len(values)} inputs or outputs, expected {len(names)}: {names}")
        for value, wanted in zip(values, names, strict=True):
            value.name = wanted
            if value.shape is not None:
                free = [i for i, d in enumerate(value.shape) if not isinstance(d, int)]
                axes = dict(zip(free, _axes(wanted, len(free)), strict=True))
                value.shape = ir.Shape([axes.get(i, d) for i, d in enumerate(value.shape)])
    for old, value in [*graph.initializers.items()]:
        weight, turned = known.get(old, ("", False))
        graph.initializers.pop(old)
        # a constant of this file must not be taken for another file's
        value.name = (f"{weight}.T" if turned else weight) if weight else f"{name}.{old}"
        value.name = _free(value.name, graph.initializers)  # the same numbers may stand there a second time
        if value.const_value is not None:
            value.const_value.name = value.name
        graph.register_initializer(value)
    products: set[str] = set()
    for node in graph:
        if node.op_type in ("MatMul", "Gemm"):
            own = next((v.name for v in node.inputs[1:2] if v is not None and v.is_initializer()), None)
            if own is not None:
                node.name = _free(own.removesuffix(".T").removesuffix(".weight"), products)
                products.add(node.name)
    serialize.strip_shapes(graph, [*graph.inputs, *graph.outputs])
    for value in (*graph.inputs, *graph.outputs, *graph.initializers.values(), *(o for n in graph for o in n.outputs)):
        value.metadata_props.clear()
        value.doc_string = None
    return serialize.finish(model, graph)


def _free(name: str, taken: Container[str]) -> str:
    """The name, or with a number if something else has it."""
    return next(n for n in itertools.chain([name], (f"{name}~{i}" for i in itertools.count(2))) if n not in taken)


def _separate(graph: ir.Graph) -> None:
    """Give outputs that are one value, or not of this graph's own making, a node each."""
    seen: set[ir.Value] = set()
    for i, value in enumerate(graph.outputs):
        if value in seen or value.producer() is None:
            node = ir.node("Identity", [value], name=f"output_{i}")
            node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = f"output_{i}", value.type, value.shape
            graph.append(node)
            graph.outputs[i] = node.outputs[0]
        seen.add(value)


def _axes(name: str, count: int) -> tuple[str, ...]:
    """Names of a tensor's free axes, in their order."""
    if name.startswith("past_key_values."):
        return "rows", "batch"
    if name.startswith("present."):
        return "tokens", "batch"
    return ("tokens",) if count == 1 else ("batch", "tokens", "rows")[:count]
