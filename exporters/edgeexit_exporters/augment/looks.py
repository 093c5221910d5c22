"""What tensors look like to an exit: how many channels on which axis, and whether axis 0 counts inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgeexit.errors import ModelError
from edgeexit_exporters import measure, onnx_graph
from edgeexit_exporters.augment.axes import channel_axes

Arrays = Mapping[str, NDArray[Any]]
_BATCHES = (2, 3)
_CHANGES: tuple[Callable[[int], int], ...] = (lambda s: 2 * s, lambda s: s + 1, lambda s: max(1, s // 2))
"""Of free sizes, as `probe` tries them. Axes of several inputs may have to agree: equal sizes stay equal."""


@dataclass(frozen=True)
class Look:
    """A tensor that an exit can read."""

    kind: str
    """ "picture" (b, c, h, w), "signal" (b, c, t), "tokens" (b, t, c) or "vector" (b, c)."""
    channels: int
    positions: int
    """h * w or t in the example; 1 for a vector."""
    bytes: int
    """For one input."""
    sizes: tuple[int, ...] = ()
    """(h, w) or (t,) where they are fixed."""


def looks(model: ir.Model, names: Sequence[str], inputs: Arrays, output: str) -> dict[str, Look | str]:
    """Run the model, at other batch sizes and other free sizes too, and look at its tensors.

    Args:
        model: as `onnx_graph.prepare` gives it.
        names: the tensors in question.
        inputs: one example input, axis 0 of size 1, by name.
        output: the network's answer: where it cannot be batched, the network takes one input per call.

    Returns:
        Per name what it is, or in words why no exit can read it.

    Raises:
        ModelError: the model does not run on the example, or at no other size of an axis that it calls free.
    """
    names = list(dict.fromkeys(names))
    if not names:
        return {}
    proto = ir.to_proto(model)
    everything = [n for n in onnx_graph.values(model.graph) if n not in inputs]
    one = _arrays(measure.all_values(proto, everything, inputs))
    other = _other_sizes(model, proto, names, inputs)
    batched = _batched(model, proto, [*names, output], inputs)
    axes = channel_axes(model.graph, {n: a.shape for n, a in {**one, **inputs}.items()})
    result: dict[str, Look | str] = {}
    for name in names:
        if name not in one or name not in other:
            result[name] = "is no tensor"
            continue
        a = one[name]
        free = {k for k, (p, q) in enumerate(zip(a.shape, other[name].shape, strict=False)) if p != q}
        result[name] = _misfit(a, batched[name]) or _look(a, free, axes.get(name))
    return result


def _misfit(a: NDArray[Any], batched: bool) -> str | None:
    if a.dtype.kind != "f":
        return f"holds {a.dtype}, not floating-point numbers"
    if not 2 <= a.ndim <= 4:
        return f"has {a.ndim} axes; an exit reads 2 to 4"
    if not batched or a.shape[0] != 1:
        return f"{list(a.shape)} does not count inputs on axis 0"
    return None


def _look(a: NDArray[Any], free: set[int], told: int | None) -> Look | str:
    """
    Args:
        a: the tensor for one input.
        free: axes that follow a free size of an input.
        told: the channel axis by the operations around it; None = they do not tell.
    """
    inner = {*range(1, a.ndim)} - free
    axis = told
    if a.ndim == 2:
        axis = 1
    elif a.ndim == 3 and len(inner) == 1:
        (axis,) = inner  # the other one is a length, whatever the operations seem to say
    if axis is None:
        return f"{list(a.shape)} does not show which axis holds its channels"
    if axis not in inner:
        return f"{list(a.shape)} has no channel axis of fixed size"
    if a.shape[axis] < 2:
        return f"{list(a.shape)} has a single channel"
    if a.ndim == 4 and axis != 1:
        return f"{list(a.shape)} has its channels on axis {axis}; of four axes, axis 1 is expected to hold them"
    kind = {2: "vector", 3: "signal" if axis == 1 else "tokens", 4: "picture"}[a.ndim]
    around = [k for k in range(1, a.ndim) if k != axis]
    sizes = () if free & set(around) else tuple(a.shape[k] for k in around)
    return Look(kind, a.shape[axis], math.prod(a.shape[1:]) // a.shape[axis], a.nbytes, sizes)


def _batched(model: ir.Model, proto: onnx.ModelProto, names: Sequence[str], inputs: Arrays) -> dict[str, bool]:
    """Which tensors count inputs on axis 0; of a network that takes one input per call, all may."""
    if any(v.shape is None or not v.shape or isinstance(v.shape[0], int) for v in model.graph.inputs):
        return dict.fromkeys(names, True)
    large = {n: _rows(a, _BATCHES[1]) for n, a in inputs.items()}
    small = {n: a[: _BATCHES[0]] for n, a in large.items()}
    try:
        runs = [_arrays(measure.all_values(proto, names, x)) for x in (small, large)]
    except ModelError:  # the free batch axis is in name only, as the exporter will find, too
        return dict.fromkeys(names, True)
    found = {n: n in runs[0] and n in runs[1] and _first(runs[0][n], runs[1][n]) for n in names}
    return found if found[names[-1]] else dict.fromkeys(names, True)


def _first(small: NDArray[Any], large: NDArray[Any]) -> bool:
    try:
        return measure.batch_axes({"": small}, {"": large}, _BATCHES)[""] == 0
    except ModelError:
        return False


def _rows(a: NDArray[Any], count: int) -> NDArray[Any]:
    """Different inputs of one: rolled, so that what is a token or a flag stays one."""
    return np.concatenate([np.roll(a, k, axis=-1) if a.ndim > 1 else a for k in range(count)])


def _other_sizes(model: ir.Model, proto: onnx.ModelProto, names: Sequence[str], inputs: Arrays) -> Arrays:
    """The tensors with every free axis but the batch axis at another size; unchanged where none is free."""
    free: dict[tuple[str, int], int] = {}
    for value in model.graph.inputs:
        name = value.name or ""
        dims = list(value.shape or ())
        free.update({(name, k): inputs[name].shape[k] for k, d in enumerate(dims) if k and not isinstance(d, int)})
    failure: ModelError | None = None
    for change in _CHANGES:
        x = dict(inputs)
        for (name, k), size in free.items():
            x[name] = np.take(x[name], np.arange(change(size)) % size, axis=k)
        try:
            return _arrays(measure.all_values(proto, names, x))
        except ModelError as e:
            failure = e
    axes = ", ".join(f"{k} of input {n!r}" for n, k in free)
    raise ModelError(f"axis {axes} is free in the model, but it runs with its example size only: {failure}")


def _arrays(found: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Without sequences and empty optionals, which graphs may hold, too."""
    return {n: a for n, a in found.items() if isinstance(a, np.ndarray)}
