"""Axes of tensors as an exit sees them: inputs, channels, and positions between them."""

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
from edgeexit_exporters.augment.axes import channel_axes
from edgeexit_exporters.onnx import graph, measure

Arrays = Mapping[str, NDArray[Any]]
_RECURRENT = {"LSTM", "GRU", "RNN"}
LENGTH = {"steps": 0, "tokens": 1, "signal": 2}
"""Kinds of tensors that are sequences -> the axis of their length."""
_BATCHES = (2, 3)
_CHANGES: tuple[Callable[[int], int], ...] = (lambda s: 2 * s, lambda s: s + 1, lambda s: max(1, s // 2))
"""Of free sizes, as `probe` tries them. Axes of several inputs may have to agree: equal sizes stay equal."""


@dataclass(frozen=True)
class Look:
    """A tensor that an exit can read."""

    kind: str
    """ "picture" (b, c, h, w), "signal" (b, c, t), "tokens" (b, t, c), "steps" (t, b, c) or "vector" (b, c)."""
    channels: int
    positions: int
    """h * w or t in the example; 1 for a vector."""
    bytes: int
    """For one input."""
    sizes: tuple[int, ...] = ()
    """(h, w) or (t,) where they are fixed."""


def looks(
    model: ir.Model, names: Sequence[str], inputs: Arrays, output: str, mask: str | None = None
) -> dict[str, Look | str]:
    """Run the model, at other batch sizes and other free sizes too, and look at its tensors.

    Args:
        model: as `onnx_graph.prepare` gives it.
        names: the tensors in question.
        inputs: one example input, axis 0 of size 1, by name.
        output: the network's answer: where it cannot be batched, the network takes one input per call.
        mask: an input or tensor (b, t) that says which positions are real; sequences must be as long as it is.

    Returns:
        Per name what it is, or in words why no exit can read it.

    Raises:
        ModelError: the model does not run on the example, or at no other size of an axis that it calls free; or the
            mask is not (b, t).
    """
    names = list(dict.fromkeys(names))
    if not names:
        return {}
    proto = ir.to_proto(model)
    everything = [n for n in graph.values(model.graph) if n not in inputs]
    one = _arrays(measure.all_values(proto, everything, inputs))
    asked = names if mask is None or mask in inputs else [mask, *names]
    other = _other_sizes(model, proto, asked, inputs, mask is not None)
    batch = _batch_axes(model, proto, [*asked, output], inputs)
    axes = channel_axes(model.graph, {n: a.shape for n, a in {**one, **inputs}.items()})
    last = {v.name for n in model.graph if n.op_type in _RECURRENT for v in n.outputs[1:]}
    lengths = (0, 0)
    if mask is not None:
        masks = [{**inputs, **one}.get(mask), other.get(mask)]
        lengths = _mask_lengths(mask, masks, mask in inputs or batch is None or batch[mask] == 0)
    result: dict[str, Look | str] = {}
    for name in names:
        if name not in one or name not in other:
            result[name] = "is no tensor"
            continue
        a, b = one[name], other[name]
        axis = _of_one(a) if batch is None else batch[name]
        free = {k for k, (p, q) in enumerate(zip(a.shape, b.shape, strict=False)) if p != q}
        if name in last and axis != 0:
            result[name] = f"{list(a.shape)} holds the last state of every direction, not steps"
            continue
        look = _misfit(a, axis) or _look(a, free, axes.get(name), axis or 0)
        if isinstance(look, Look) and mask is not None:
            look = _uncovered(look, a, b, mask, lengths) or look
        result[name] = look
    return result


def _mask_lengths(mask: str, masks: Sequence[NDArray[Any] | None], counts: bool) -> tuple[int, int]:
    """How long a mask is at the example's sizes, and at the others."""
    a, b = masks
    if a is None or b is None or a.ndim != 2 or b.ndim != 2 or a.dtype.kind not in "biuf" or not counts:
        what = "no array" if a is None else f"{a.dtype}{list(a.shape)}"
        raise ModelError(
            f"mask {mask!r} is {what} for one input; expected (b, t): one number for every position of every input, "
            "nonzero where it is real"
        )
    return a.shape[1], b.shape[1]


def _uncovered(look: Look, a: NDArray[Any], b: NDArray[Any], mask: str, lengths: tuple[int, int]) -> str | None:
    """Why a mask does not fit a tensor, in words; at both sizes, as lengths may be equal by chance at one."""
    if look.kind == "vector":
        return None
    if look.kind == "picture":
        return f"{list(a.shape)} is a picture; mask {mask!r} knows positions along one axis only"
    axis = LENGTH[look.kind]
    if (a.shape[axis], b.shape[axis]) == lengths:
        return None
    if a.shape[axis] == lengths[0]:
        return f"{list(a.shape)} has other positions than mask {mask!r}: their lengths differ at other sizes"
    return f"{list(a.shape)} has {a.shape[axis]} positions, mask {mask!r} has {lengths[0]}"


def _misfit(a: NDArray[Any], batch: int | None) -> str | None:
    if a.dtype.kind != "f":
        return f"holds {a.dtype}, not floating-point numbers"
    if not 2 <= a.ndim <= 4:
        return f"has {a.ndim} axes; an exit reads 2 to 4"
    if batch is None or a.shape[batch] != 1:
        return f"{list(a.shape)} does not count inputs on axis 0, nor as (t, b, c) on axis 1"
    if batch != 0 and (batch, a.ndim) != (1, 3):
        return f"{list(a.shape)} counts inputs on axis {batch}; an exit reads them on axis 0, or of (t, b, c) on axis 1"
    return None


def _look(a: NDArray[Any], free: set[int], batch_axis: int | None, batch: int) -> Look | str:
    """
    Args:
        a: the tensor for one input.
        free: axes that follow a free size of an input.
        batch_axis: the channel axis by the operations around it; None = they do not tell.
        batch: the axis that counts inputs: 0, or 1 of three.
    """
    inner = {*range(a.ndim)} - {batch} - free
    axis = batch_axis
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
    if (a.ndim == 4 and axis != 1) or (batch == 1 and axis != 2):
        count, expected = ("four", 1) if a.ndim == 4 else ("three with inputs on axis 1", 2)
        return f"{list(a.shape)} has its channels on axis {axis}; of {count} axes, axis {expected} is expected to"
    sequence = "steps" if batch == 1 else "signal" if axis == 1 else "tokens"
    kind = {2: "vector", 3: sequence, 4: "picture"}[a.ndim]
    around = [k for k in range(a.ndim) if k not in (batch, axis)]
    sizes = () if free & set(around) else tuple(a.shape[k] for k in around)
    return Look(kind, a.shape[axis], math.prod(a.shape) // a.shape[axis], a.nbytes, sizes)


def _of_one(a: NDArray[Any]) -> int | None:
    """The axis that counts inputs, of a network that takes one per call."""
    if a.ndim and a.shape[0] == 1:
        return 0
    return 1 if a.ndim == 3 and a.shape[1] == 1 else None


def _batch_axes(
    model: ir.Model, proto: onnx.ModelProto, names: Sequence[str], inputs: Arrays
) -> dict[str, int | None] | None:
    """Which axis of each tensor counts inputs, if one does; None = the network takes one input per call."""
    if any(v.shape is None or not v.shape or isinstance(v.shape[0], int) for v in model.graph.inputs):
        return None
    large = {n: _rows(a, _BATCHES[1]) for n, a in inputs.items()}
    small = {n: a[: _BATCHES[0]] for n, a in large.items()}
    try:
        runs = [_arrays(measure.all_values(proto, names, x)) for x in (small, large)]
    except ModelError:  # the free batch axis is in name only, as the exporter will find, too
        return None
    axes = {n: _batch_axis(runs[0][n], runs[1][n]) if n in runs[0] and n in runs[1] else None for n in names}
    return axes if axes[names[-1]] == 0 else None


def _batch_axis(small: NDArray[Any], large: NDArray[Any]) -> int | None:
    try:
        return measure.batch_axes({"": small}, {"": large}, _BATCHES)[""]
    except ModelError:
        return None


def _rows(a: NDArray[Any], count: int) -> NDArray[Any]:
    """Different inputs of one: rolled, so that what is a token or a flag stays one."""
    return np.concatenate([np.roll(a, k, axis=-1) if a.ndim > 1 else a for k in range(count)])


def _other_sizes(model: ir.Model, proto: onnx.ModelProto, names: Sequence[str], inputs: Arrays, apart: bool) -> Arrays:
    """Inputs and tensors with every free axis but the batch axis at another size; unchanged where none is free.

    With `apart`, axes of different names get different sizes where the model runs so.
    """
    free: dict[tuple[str, int], int] = {}
    label: dict[tuple[str, int], str] = {}
    for value in model.graph.inputs:
        name = value.name or ""
        for k, d in enumerate(value.shape or ()):
            if k and not isinstance(d, int):
                free[name, k], label[name, k] = inputs[name].shape[k], d.value or f"axis {k} of {name}"
    ranks = {n: i for i, n in enumerate(dict.fromkeys(label.values()))}
    attempts = [(change, 0) for change in _CHANGES]
    if apart and len(ranks) > 1:
        attempts.insert(0, (_CHANGES[0], 1))
    failure: ModelError | None = None
    for change, distance in attempts:
        x = dict(inputs)
        for (name, k), size in free.items():
            new = change(size) + distance * ranks[label[name, k]]
            x[name] = np.take(x[name], np.arange(new) % size, axis=k)
        try:
            return {**x, **_arrays(measure.all_values(proto, names, x))}
        except ModelError as e:
            failure = e
    axes = ", ".join(f"{k} of input {n!r}" for n, k in free)
    raise ModelError(f"axis {axes} is free in the model, but it runs with its example size only: {failure}")


def _arrays(values: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Without sequences and empty optionals, which graphs may hold, too."""
    return {n: a for n, a in values.items() if isinstance(a, np.ndarray)}
