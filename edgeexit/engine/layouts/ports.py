"""Ports: conversion between the network's arrays and those of an artifact's files (order of axes, quantization)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.manifest import Manifest, Port
from edgeexit.engine.backends import Runnable

Array = NDArray[Any]


class Ported:
    """A model file whose named tensors go through ports; all others pass as they are."""

    def __init__(self, model: Runnable, ports: Sequence[Port], manifest: Manifest) -> None:
        names = {p.called: p.name for p in ports if p.called is not None}
        self.model = model
        self.inputs = tuple(names.get(n, n) for n in model.inputs)
        self.outputs = tuple(names.get(n, n) for n in model.outputs)
        known = {p.name: p for p in ports}
        dtypes = {t.name: t.dtype for t in manifest.tensors}
        self._into = [(i, into(known[n])) for i, n in enumerate(self.inputs) if n in known]
        self._out_of = [(i, out_of(known[n], dtypes[n])) for i, n in enumerate(self.outputs) if n in known]

    def run(self, values: Sequence[Array]) -> list[Array]:
        inputs = list(values)
        for i, change in self._into:
            inputs[i] = change(inputs[i])
        outputs = list(self.model.run(inputs))
        for i, change in self._out_of:
            outputs[i] = change(outputs[i])
        return outputs


def into(port: Port) -> Callable[[Array], Array]:
    """The network's array -> the artifact's; numbers beyond what the integers hold are cut off."""
    scale, zero, order, dtype = port.scale, port.zero_point, port.order, np.dtype(port.dtype)

    info = np.iinfo(dtype) if scale is not None else None

    def change(x: Array) -> Array:
        if scale is not None and zero is not None and info is not None:
            x = x * np.float32(1 / scale)
            np.rint(x, out=x)
            x += zero
            np.clip(x, info.min, info.max, out=x)
        if order is not None:
            x = x.transpose(order)
        return np.ascontiguousarray(x, dtype)

    return change


def out_of(port: Port, dtype: str) -> Callable[[Array], Array]:
    """The artifact's array -> the network's."""
    scale, zero = port.scale, port.zero_point
    order = None if port.order is None else tuple(np.argsort(port.order).tolist())

    def change(x: Array) -> Array:
        if scale is not None and zero is not None:
            x = (x.astype(np.float32) - np.float32(zero)) * np.float32(scale)
        if order is not None:
            x = x.transpose(order)
        return np.ascontiguousarray(x, dtype)

    return change
