"""What a network gains at a place, as nodes: one pooled feature vector, and a head on it.

The same nodes are measured for fitting and shipped afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import onnx_ir as ir

from edgeexit.errors import ModelError
from edgeexit_exporters.augment.heads import Head, MlpHead
from edgeexit_exporters.onnx_graph import values
from edgeexit_exporters.onnx_nodes import Nodes
from edgeexit_exporters.stages import no_such_tensor

PREFIX = "edgeexit_augment"
"""How the names of all added nodes begin."""


class Place(Protocol):
    """Where a head may stand: tensors that are read together."""

    @property
    def name(self) -> str: ...

    @property
    def tensors(self) -> tuple[str, ...]: ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of every tensor: "picture" `(b, c, h, w)`, "signal" `(b, c, t)`, "tokens" `(b, t, c)`, "vector" `(b, c)`."""

    @property
    def channels(self) -> tuple[int, ...]: ...

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Of every tensor: (h, w) or (t,) where they are fixed; empty where they are free, or there are none."""


Pool = Callable[[Nodes, ir.Value], list[ir.Value]]


def _flat(kind: str) -> Callable[[Nodes, ir.Value], ir.Value]:
    return lambda add, x: add.op("Flatten", add.op(kind, x), axis=1)


def _over_tokens(kind: str) -> Callable[[Nodes, ir.Value], ir.Value]:
    return lambda add, x: add.reduce(kind, x, [1])


def _first(add: Nodes, x: ir.Value) -> ir.Value:
    return add.op("Gather", x, add.weight(f"{PREFIX}_first", np.array(0, np.int64)), axis=1)


_AVERAGE, _LARGEST = _flat("GlobalAveragePool"), _flat("GlobalMaxPool")
_MEAN_TOKEN, _MAX_TOKEN = _over_tokens("ReduceMean"), _over_tokens("ReduceMax")

_TABLE: dict[str, dict[str, tuple[Callable[[Nodes, ir.Value], ir.Value], ...]]] = {
    # pool: of a map (picture or signal), of tokens; a vector is taken as it is
    "average": {"map": (_AVERAGE,), "tokens": (_MEAN_TOKEN,)},
    "avgmax": {"map": (_AVERAGE, _LARGEST), "tokens": (_MEAN_TOKEN, _MAX_TOKEN)},
    "grid": {"map": (_LARGEST,), "tokens": (_MEAN_TOKEN, _MAX_TOKEN)},
    "first": {"map": (_AVERAGE,), "tokens": (_first,)},
}
POOLS = tuple(_TABLE)
"""How a tensor becomes a vector: the mean of every channel; mean and maximum side by side; means over a grid of windows
(T-RECX 2023), which keep coarse positions, and the maximum, for tokens as avgmax; of tokens the first, and of pictures
and signals the mean."""
GRID = 4
"""Windows along an axis, at most."""


def pooled_width(place: Place, pool: str) -> int:
    """How many numbers `add_pooled` makes of the place for one input.

    Raises:
        ModelError: an unknown pool or kind, or a grid over positions that are not fixed.
    """
    width = 0
    for c, kind, size in zip(place.channels, place.kinds, place.sizes, strict=True):
        if pool == "grid" and kind in ("picture", "signal"):
            width += c * (1 + math.prod(s // k for s, k in zip(size, _window(place, size), strict=True)))
        else:
            width += c * max(len(_ways(kind, pool)), 1)
    return width


def _window(place: Place, size: tuple[int, ...]) -> list[int]:
    """Sides of the windows that leave at most `GRID` along every axis."""
    if not size:
        raise ModelError(f"pool grid needs positions of fixed size; those of {place.name!r} are free: choose avgmax")
    return [-(-s // GRID) for s in size]


def add_pooled(add: Nodes, place: Place, pool: str) -> ir.Value:
    """Add the nodes that make one float32 vector `(batch, width)` of a place's tensors.

    A place that is one float32 vector already gets no node: its own value comes back.

    Raises:
        ModelError: a tensor that is not in the graph, an unknown pool or kind.
    """
    known = values(add.graph)
    parts: list[ir.Value] = []
    for tensor, kind, size in zip(place.tensors, place.kinds, place.sizes, strict=True):
        if tensor not in known:
            raise no_such_tensor(tensor, list(known))
        ways, x = _ways(kind, pool), add.floats(known[tensor])
        if pool == "grid" and kind in ("picture", "signal"):
            window = _window(place, size)
            parts.append(add.op("Flatten", add.op("AveragePool", x, kernel_shape=window, strides=window), axis=1))
        parts.extend(way(add, x) for way in ways)
        if not ways:
            parts.append(x)
    found = parts[0] if len(parts) == 1 else add.op("Concat", *parts, axis=1)
    found.dtype = ir.DataType.FLOAT
    return found


def add_head(add: Nodes, feature: ir.Value, head: Head, name: str) -> ir.Value:
    """Add a fitted head; its weights are called `name.weight`, `name.bias`, `name.hidden.weight`, `name.hidden.bias`.

    Args:
        add: of the graph that `feature` is in.
        feature: `(batch, width)` float32.
        head: fitted on it.
        name: of the output, logits `(batch, classes)` float32.

    Raises:
        ModelError: the name is taken.
    """
    if name in values(add.graph) or name in add.graph.initializers:
        raise ModelError(f"the graph already has a tensor {name!r}: give the head another name")
    x = feature
    if isinstance(head, MlpHead):
        weight = add.weight(f"{name}.hidden.weight", head.hidden_weight)
        x = add.op("Relu", add.op("Gemm", x, weight, add.weight(f"{name}.hidden.bias", head.hidden_bias)))
    weight = add.weight(f"{name}.weight", head.weight)
    found = add.op("Gemm", x, weight, add.weight(f"{name}.bias", head.bias), name=name)
    found.dtype = ir.DataType.FLOAT
    found.shape = ir.Shape([feature.shape[0] if feature.shape is not None else None, len(head.bias)])
    return found


def _ways(kind: str, pool: str) -> tuple[Callable[[Nodes, ir.Value], ir.Value], ...]:
    if pool not in _TABLE:
        raise ModelError(f"unknown pool {pool!r}: choose one of {', '.join(POOLS)}")
    row = {**_TABLE[pool], "vector": ()}
    family = "map" if kind in ("picture", "signal") else kind
    if family not in row or kind == "map":
        raise ModelError(f"unknown kind of tensor {kind!r}; known are picture, signal, tokens and vector")
    return row[family]
