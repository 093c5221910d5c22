"""Nodes that a network gains at a place: one pooled feature vector, and a head on it.

The same nodes are measured for fitting and shipped afterwards.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import onnx_ir as ir

from edgeexit.errors import ModelError
from edgeexit_exporters.augment.heads import Head, MlpHead
from edgeexit_exporters.augment.looks import LENGTH
from edgeexit_exporters.augment.masked import Masked
from edgeexit_exporters.onnx.graph import values
from edgeexit_exporters.onnx.nodes import Nodes
from edgeexit_exporters.stages import no_such_tensor

PREFIX = "edgeexit_augment"
"""How the names of all added nodes begin."""


class FeaturePlace(Protocol):
    """Where a head may stand: tensors that are read together."""

    @property
    def name(self) -> str: ...

    @property
    def tensors(self) -> tuple[str, ...]: ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of every tensor: "picture" `(b, c, h, w)`, "signal" `(b, c, t)`, "tokens" `(b, t, c)`, "steps" `(t, b, c)`,
        "vector" `(b, c)`."""

    @property
    def channels(self) -> tuple[int, ...]: ...

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Of every tensor: (h, w) or (t,) where they are fixed; empty where they are free, or there are none."""

    @property
    def mask(self) -> str | None:
        """The input or tensor `(b, t)` that is nonzero where a position of the sequences is real; None = all are."""


_TABLE: dict[str, dict[str, tuple[str, ...]]] = {
    # pool: of a picture, of a signal, of tokens and steps; a vector is taken as it is
    "average": {"picture": ("mean",), "signal": ("mean",), "tokens": ("mean",)},
    "avgmax": {"picture": ("mean", "max"), "signal": ("mean", "max"), "tokens": ("mean", "max")},
    "grid": {"picture": ("windows", "max"), "signal": ("windows", "max"), "tokens": ("mean", "max")},
    "first": {"picture": ("mean",), "signal": ("mean",), "tokens": ("first",)},
    "last": {"picture": ("mean",), "signal": ("last",), "tokens": ("last",)},
}
POOLS = tuple(_TABLE)
"""How a tensor becomes a vector: the mean of every channel; mean and maximum side by side; means over a grid of windows
(T-RECX 2023), which keep coarse positions, and the maximum, for tokens and steps as avgmax; of tokens and steps the
first, and of pictures and signals the mean; the last token, step or sample, and of pictures the mean.

With a mask, mean and maximum are over real positions, and the last is the last real one; the first stays the first.
The last step of a recurrent layer has read the whole sequence. Of a bidirectional one, only its forward half has; the
backward half of that vector has read the last step alone, so that avgmax says more."""
GRID = 4
"""Windows along an axis, at most."""


def pooled_width(place: FeaturePlace, pool: str) -> int:
    """How many numbers `add_pooled` makes of the place for one input.

    Raises:
        ModelError: an unknown pool or kind, or a grid over positions that are not fixed, or masked.
    """
    width = 0
    for c, kind, size in zip(place.channels, place.kinds, place.sizes, strict=True):
        ways = ways_of(kind, pool)
        grid = math.prod(s // k for s, k in zip(size, _window(place, size), strict=True)) if "windows" in ways else 0
        width += c * (max(len(ways), 1) + max(grid - 1, 0))
    return width


def _window(place: FeaturePlace, size: tuple[int, ...]) -> list[int]:
    """Sides of the windows that leave at most `GRID` along every axis."""
    if not size:
        raise ModelError(f"pool grid needs positions of fixed size; those of {place.name!r} are free: choose avgmax")
    if place.mask is not None:
        raise ModelError(f"pool grid knows no mask, and {place.name!r} has mask {place.mask!r}: choose avgmax")
    return [-(-s // GRID) for s in size]


def add_pooled(add: Nodes, place: FeaturePlace, pool: str) -> ir.Value:
    """Add the nodes that make one float32 vector `(batch, width)` of a place's tensors.

    A place that is one float32 vector already gets no node: its own value comes back.

    Raises:
        ModelError: a tensor that is not in the graph, an unknown pool or kind.
    """
    known = values(add.graph)
    parts: list[ir.Value] = []
    for tensor, kind, size in zip(place.tensors, place.kinds, place.sizes, strict=True):
        for what, name in (("place", tensor), ("mask", place.mask)):
            if name is not None and name not in known:
                raise no_such_tensor(name, list(known), what)
        ways, x = ways_of(kind, pool), add.floats(known[tensor])
        masked = place.mask is not None and kind in LENGTH and ways != ("first",)
        real = Masked(add, x, kind, known[place.mask or ""]) if masked else None
        for way in ways:
            if way == "windows":
                window = _window(place, size)
                parts.append(add.op("Flatten", add.op("AveragePool", x, kernel_shape=window, strides=window), axis=1))
            elif real is not None:
                parts.append({"mean": real.mean, "max": real.max, "last": real.last}[way]())
            else:
                parts.append(_over_all(add, x, kind, way))
        if not ways:
            parts.append(x)
    pooled = parts[0] if len(parts) == 1 else add.op("Concat", *parts, axis=1)
    pooled.dtype = ir.DataType.FLOAT
    return pooled


def _over_all(add: Nodes, x: ir.Value, kind: str, way: str) -> ir.Value:
    """One way to make `(b, c)` of a tensor whose positions are all real."""
    if kind in ("picture", "signal") and way in ("mean", "max"):
        return add.op("Flatten", add.op("GlobalAveragePool" if way == "mean" else "GlobalMaxPool", x), axis=1)
    if way in ("mean", "max"):
        return add.reduce("ReduceMean" if way == "mean" else "ReduceMax", x, [LENGTH[kind]])
    index = add.weight(f"{PREFIX}_{way}", np.array(0 if way == "first" else -1, np.int64))
    return add.op("Gather", x, index, axis=LENGTH[kind])


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
    logits = add.op("Gemm", x, weight, add.weight(f"{name}.bias", head.bias), name=name)
    logits.dtype = ir.DataType.FLOAT
    logits.shape = ir.Shape([feature.shape[0] if feature.shape is not None else None, len(head.bias)])
    return logits


def ways_of(kind: str, pool: str) -> tuple[str, ...]:
    """How the numbers of a tensor are made; none of a vector, which is one already."""
    if pool not in _TABLE:
        raise ModelError(f"unknown pool {pool!r}: choose one of {', '.join(POOLS)}")
    row = {**_TABLE[pool], "vector": ()}
    row["steps"] = row["tokens"]
    if kind not in row:
        raise ModelError(f"unknown kind of tensor {kind!r}; known are picture, signal, tokens, steps and vector")
    return row[kind]
