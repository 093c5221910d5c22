"""Example inputs, which the export is checked and measured with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.length_inputs import length_inputs as counting
from edgeexit.bundle.manifest import DTYPES, TensorSpec
from edgeexit.errors import DataError, ModelError

DEFAULT_FREE_SIZE = 16
_SPEC = re.compile(r"\s*(?:(?P<name>[^:\[\]]+):)?\s*(?P<dtype>\w+)\s*\[(?P<shape>[^\]]*)\]\s*")


@dataclass(frozen=True)
class InputSpec:
    """One model input with the sizes that its free axes take in examples."""

    tensor: TensorSpec
    sizes: Mapping[str, int]
    """Free axis -> example size, the batch axis left out."""
    center: float = 0.0
    spread: float = 1.0
    """Mean and standard deviation of example numbers, where they are floating-point."""
    state: bool = False
    """Whether the network carries it on itself; examples are zeros, as at the beginning of a stream."""
    low: int = 0
    """Smallest example of whole numbers."""
    below: int = 2
    """Examples of whole numbers stay under it: the rows of the table that they index."""
    mask: bool = False
    """Whether it says which positions along its last axis are real."""

    def shape(self, batch: int, free: Mapping[str, int] | None = None) -> tuple[int, ...]:
        """A concrete shape; `free` overrides the example sizes."""
        sizes = {**self.sizes, **(free or {})}
        first, *rest = self.tensor.shape
        return (first if isinstance(first, int) else batch, *(a if isinstance(a, int) else sizes[a] for a in rest))


def parse_input(text: str, default_name: str = "input") -> InputSpec:
    """Read ``name:float32[batch,3,32,32]``; names are free axes, ``time=100`` gives one its example size.

    Raises:
        ModelError: not of that form.
    """
    match = _SPEC.fullmatch(text)
    if match is None or match["dtype"] not in DTYPES:
        raise ModelError(
            f"--input {text!r}: expected NAME:DTYPE[AXES], e.g. image:float32[batch,3,32,32] or "
            "tokens:int64[batch,time=64]"
        )
    name = (match["name"] or default_name).strip()
    return shaped(name, match["dtype"], [a.strip() for a in match["shape"].split(",")], f"--input {text!r}")


def shaped(name: str, dtype: str, axes: Sequence[int | str], at: str) -> InputSpec:
    """An input whose axes are sizes, names of free axes, or ``time=100``: a free one with its example size.

    Raises:
        ModelError: an axis that is none of these; `at` names the place in the message.
    """
    found: list[int | str] = []
    sizes: dict[str, int] = {}
    for axis in axes:
        called, _, size = str(axis).partition("=")
        if called.isdigit():
            found.append(int(called))
        elif re.fullmatch(r"[A-Za-z_]\w*", called) and (not size or size.isdigit()):
            found.append(called)
            sizes[called] = int(size or DEFAULT_FREE_SIZE)
        else:
            raise ModelError(f"{at}: {axis!r} is neither a size nor the name of a free axis")
    return make_spec(TensorSpec(name, dtype, tuple(found)), sizes)


def make_spec(tensor: TensorSpec, sizes: Mapping[str, int] | None = None) -> InputSpec:
    """An input with default example sizes where none are given."""
    free = [a for a in tensor.shape[1:] if isinstance(a, str)]
    return InputSpec(tensor, {a: (sizes or {}).get(a, DEFAULT_FREE_SIZE) for a in free})


def batch_kind(inputs: Sequence[InputSpec]) -> str:
    """ "dynamic" when axis 0 of every input is free, "one" when it is 1.

    Raises:
        ModelError: neither; the message says what to change.
    """
    first = {i.tensor.name: i.tensor.shape[0] if i.tensor.shape else None for i in inputs}
    if all(isinstance(a, str) for a in first.values()):
        return "dynamic"
    if all(a == 1 or isinstance(a, str) for a in first.values()):
        return "one"
    name, size = next((n, a) for n, a in first.items() if a != 1 and not isinstance(a, str))
    actual = "no axes" if size is None else f"a first axis of {size}"
    raise ModelError(
        f"input {name!r} has {actual}; its first axis must count inputs: free, or 1. "
        "Export the source model with a free batch axis"
    )


def make_inputs(
    inputs: Sequence[InputSpec], batch: int, seed: int, free: Mapping[str, int] | None = None
) -> dict[str, NDArray[Any]]:
    """Seeded random inputs: normal floats, whole numbers in their range (0 or 1 by default), booleans, masks, lengths.

    Of several inputs, the later ones are shorter: an axis of 16 has lengths 16, 14, 11 in a batch of 3. A mask is 1 up
    to some length and 0 behind it, and never all of one kind: 1 may mean real or padding.
    """
    rng = np.random.default_rng(seed)
    arrays: dict[str, NDArray[Any]] = {}
    for spec in inputs:
        shape, dtype = spec.shape(batch, free), np.dtype(spec.tensor.dtype)
        if spec.state:
            arrays[spec.tensor.name] = np.zeros(shape, dtype)
        elif spec.mask:
            ends = 1 + (np.arange(batch) + seed) % 3  # quarters of the axis
            ones = np.maximum(shape[-1] * ends // 4, 1).reshape(-1, *[1] * (len(shape) - 1))
            arrays[spec.tensor.name] = np.broadcast_to(np.arange(shape[-1]) < ones, shape).astype(dtype)
        elif dtype.kind == "f":
            arrays[spec.tensor.name] = (rng.standard_normal(shape) * spec.spread + spec.center).astype(dtype)
        else:
            arrays[spec.tensor.name] = rng.integers(spec.low, spec.below, shape).astype(dtype)
    for name, axis in length_inputs(inputs).items():
        size = next(arrays[s.tensor.name].shape[s.tensor.shape.index(axis)] for s in inputs if axis in s.tensor.shape)
        lengths = size - np.arange(batch) * size // (2 * batch)
        arrays[name] = lengths.astype(arrays[name].dtype)
    return arrays


def length_inputs(inputs: Sequence[InputSpec]) -> dict[str, str]:
    """Inputs that say how much of another one is not padding -> the free axis that they count along."""
    tensors = {s.tensor.name: s.tensor for s in inputs}
    states = {s.tensor.name for s in inputs if s.state}
    axes = {n: tensors[of].shape[k] for n, (of, k) in counting(list(tensors.values())).items() if n not in states}
    return {n: axis for n, axis in axes.items() if isinstance(axis, str)}


def one_at_a_time(inputs: Sequence[InputSpec], states: Sequence[str]) -> tuple[InputSpec, ...]:
    """The inputs of a network with memory, which takes one input per call: without free batch axes, states marked.

    Args:
        inputs: all of them.
        states: names of those that it carries on; none = it has no memory, and the inputs stay as they are.

    Raises:
        ModelError: a state that is no input, is the only one, or is of free sizes or without a first axis of 1.
    """
    if not states:
        return tuple(inputs)
    known = [i.tensor.name for i in inputs]
    if lacking := [n for n in states if n not in known]:
        raise ModelError(f"state {lacking[0]!r} is no input of the network; its inputs are {', '.join(known)}")
    if len(set(states)) == len(known):
        raise ModelError("every input of the network is a state; one must bring something new")
    batch = {i.tensor.shape[0] for i in inputs if i.tensor.shape and isinstance(i.tensor.shape[0], str)}
    fixed = []
    for spec in inputs:
        t = spec.tensor
        shape = tuple(1 if (k == 0 and isinstance(a, str)) or a in batch else a for k, a in enumerate(t.shape))
        state = t.name in states
        if state and (not shape or shape[0] != 1 or not all(isinstance(a, int) for a in shape)):
            raise ModelError(
                f"state {t.name!r} has shape {list(t.shape)}; a state has fixed sizes and a first axis of 1: fix them "
                f"with --input '{t.name}:{t.dtype}[1,...]', or give it such an axis in the network (x.unsqueeze(0))"
            )
        sizes = {a: n for a, n in spec.sizes.items() if a in shape}
        fixed.append(replace(spec, tensor=replace(t, shape=shape), sizes=sizes, state=state))
    return tuple(fixed)


def from_data(inputs: Sequence[InputSpec], data: Mapping[str, NDArray[Any]], rows: int) -> dict[str, NDArray[Any]]:
    """The first rows of a data file as inputs.

    Raises:
        DataError: an input is missing, or has no rows.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for spec in inputs:
        array = data.get(spec.tensor.name, data.get("x") if len(inputs) == 1 else None)
        if array is None:
            raise DataError(f"the data has no array for model input {spec.tensor.name!r}; it holds {', '.join(data)}")
        if array.ndim == 0:
            raise DataError(f"the data for input {spec.tensor.name!r} is a single number, expected one row per input")
        arrays[spec.tensor.name] = np.ascontiguousarray(array[:rows]).astype(spec.tensor.dtype, copy=False)
    return arrays
