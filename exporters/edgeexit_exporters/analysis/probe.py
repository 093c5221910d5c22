"""Shapes, axes and costs of a network, measured by running it at two batch sizes and two free sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeexit.bundle.manifest import DTYPES, TensorSpec
from edgeexit.errors import ModelError
from edgeexit_exporters.onnx import measure
from edgeexit_exporters.source.inputs import InputSpec, batch_kind, make_inputs
from edgeexit_exporters.source.source import Source

Arrays = Mapping[str, NDArray[Any]]
BATCHES = (2, 3)
_CHANGES: tuple[Callable[[int], int], ...] = (lambda s: 2 * s, lambda s: s + 1, lambda s: max(1, s // 2))


@dataclass(frozen=True)
class Probe:
    """What running the network showed."""

    batch: str
    """dynamic or one; see `Manifest.batch`."""
    note: str | None
    """Why a free batch axis had to be given up; None = it was not."""
    tensors: Mapping[str, TensorSpec]
    """Exits and cuts."""
    one: Arrays
    """Their values for one input at the example sizes."""
    inputs: Arrays
    """That one input."""
    other_sizes: Mapping[str, int]
    """Free axis -> a second size that works; empty without free axes."""


def probe(source: Source, proto: onnx.ModelProto, names: Sequence[str]) -> Probe:
    """Run the all-exits graph and read off dtypes, shapes and batch axes of the tensors `names`.

    Raises:
        ModelError: the network does not run on example inputs of the stated shapes.
    """
    batch = batch_kind(source.inputs)
    names = list(dict.fromkeys(names))
    x = make_inputs(source.inputs, 1, seed=0)
    one = measure.all_values(proto, names, x)
    _refuse_odd(one)
    sizes = _other_sizes(source.inputs)
    free: dict[str, int] = {}
    other: Arrays = one
    failure: ModelError | None = None
    for candidate in sizes:
        try:
            other = measure.all_values(proto, names, make_inputs(source.inputs, 1, seed=0, free=candidate))
            free = candidate
            break
        except ModelError as e:
            failure = e
    if sizes and not free:
        axes = ", ".join(sizes[0])
        raise ModelError(f"axis {axes} is free in the model, but it runs with its example size only: {failure}")
    batch_axes: Mapping[str, int | None] = {}
    note = None
    if batch == "dynamic" and any(n.op_type == "DynamicQuantizeLinear" for n in proto.graph.node):
        note = "int8-dynamic finds one range for all inputs of a batch, so an answer would depend on its neighbours"
    elif batch == "dynamic":
        batch_axes, note = _batch_axes(source.inputs, proto, names)
    if note is not None:
        batch = "one"
    axis_names = _sizes_by_axis(source.inputs)
    tensors = {
        n: TensorSpec(
            n, str(one[n].dtype), _shape(n, one[n], other[n], batch_axes.get(n), axis_names, free), batch_axes.get(n, 0)
        )
        for n in names
    }
    return Probe(batch, note, tensors, {n: one[n] for n in names}, x, free)


def _refuse_odd(values: Mapping[str, Any]) -> None:
    """Exits and cuts are arrays of numbers: they go into files, and from stage to stage.

    Raises:
        ModelError: names one that is not.
    """
    for name, value in values.items():
        if not isinstance(value, np.ndarray):
            what = "a sequence" if isinstance(value, list) else f"no tensor ({type(value).__name__})"
        elif str(value.dtype) not in DTYPES:
            what = "text" if value.dtype.kind in "OSU" else str(value.dtype)
        else:
            continue
        raise ModelError(
            f"tensor {name!r} is {what}, and an exit or what a stage hands to the next is a tensor of one of "
            f"{', '.join(DTYPES)}: name exits with --exits between which no such value is carried"
        )


def _batch_axes(
    inputs: Sequence[InputSpec], proto: onnx.ModelProto, names: list[str]
) -> tuple[dict[str, int | None], str | None]:
    """The batch axis of every tensor, or a note why inputs of this network cannot be batched."""
    large = make_inputs(inputs, BATCHES[1], seed=1)
    small = {n: a[: BATCHES[0]] for n, a in large.items()}
    try:
        return measure.batch_axes(
            measure.all_values(proto, names, small), measure.all_values(proto, names, large), BATCHES
        ), None
    except ModelError as e:
        return {}, str(e)


def _other_sizes(inputs: Sequence[InputSpec]) -> list[dict[str, int]]:
    sizes = _sizes_by_axis(inputs)
    if not sizes:
        return []
    return [{n: change(s) for n, s in sizes.items()} for change in _CHANGES]


def _sizes_by_axis(inputs: Sequence[InputSpec]) -> dict[str, int]:
    return {a: s for spec in inputs for a, s in spec.sizes.items()}


def _shape(
    name: str,
    one: NDArray[Any],
    other: NDArray[Any],
    batch_axis: int | None,
    sizes: Mapping[str, int],
    free: Mapping[str, int],
) -> tuple[int | str, ...]:
    shape: list[int | str] = list(one.shape)
    for k, (a, b) in enumerate(zip(one.shape, other.shape, strict=False)):
        if k == batch_axis:
            shape[k] = "batch"
        elif a != b:  # follows a free axis of an input, or something computed from one
            shape[k] = next((n for n in sizes if (sizes[n], free[n]) == (a, b)), f"{name}_{k}")
    return tuple(shape)
