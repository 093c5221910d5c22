"""Sizes that the free axes of a network may take, tried on the exported graph beside the source model.

That an export succeeds proves nothing: a decision in Python (`if frames % 2`) is frozen as it was for the example,
without a word, and the graph fails or errs at other sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from edgeexit.engine.inputs import LEAST_SCALE, largest_difference
from edgeexit.errors import ModelError
from edgeexit_exporters.onnx import measure
from edgeexit_exporters.source.inputs import length_inputs, make_inputs
from edgeexit_exporters.source.join import valid_of
from edgeexit_exporters.source.source import Source

Arrays = Mapping[str, NDArray[Any]]
_STEPS = (1, 2, 4, 8, 16)
"""Added to the example's sizes: whatever power of 2 up to 16 the network divides by, both parities are seen."""
_ALIKE = 1e-2
"""Error beyond which a graph is not the source model at all; layouts are compared more strictly."""
_PADDED = 1e-4
"""Allowed between an input alone and the same among garbage, as a fraction of the largest output."""


@dataclass(frozen=True)
class Sizes:
    """What the free axes can take."""

    least: Mapping[str, int]
    """Free axis -> the smallest size, the others being as in the example."""
    tried: tuple[Mapping[str, int], ...] = ()
    """Sizes besides the example's that the graph and the source model agree at: the least, even and odd ones."""


def try_sizes(source: Source, proto: onnx.ModelProto) -> Sizes:
    """Run graph and source model at other sizes: odd and even, and down to the least.

    Args:
        source: the network.
        proto: its graph with all exits.

    Raises:
        ModelError: the graph fails or errs at a size that the source model takes.
    """
    example = {a: n for spec in source.inputs for a, n in spec.sizes.items()}
    if not example:
        return Sizes({})
    session = measure.session(proto.SerializeToString(), quiet=True)
    usual = source.reference(make_inputs(source.inputs, 1, seed=5))
    scales = {e.answer: largest_difference(usual[e.answer], usual[e.answer])[1] for e in source.exits}
    tried: list[Mapping[str, int]] = []
    for step in _STEPS:
        sizes = {a: n + step for a, n in example.items()}
        problem = _differs(source, session, sizes, scales)
        if problem is None:
            tried.append(sizes)
        elif problem:
            here, there = ", ".join(f"{a}={n}" for a, n in example.items()), ", ".join(map(str, sizes.values()))
            raise ModelError(
                f"the exported graph is right at {here} and wrong at {there}, where the source model runs: {problem}. "
                "A decision in Python about a size (`if x.shape[1] % 2:`) was frozen as it was for the example: write "
                "it without one, as slices (x[:, ::2]) and masks"
            )
    least = {a: _least(source, session, example, a, scales) for a in example}
    lowest = [s for s in (least, {a: n + 1 for a, n in least.items()}) if s != example and s not in tried]
    return Sizes(least, (*(s for s in lowest if _differs(source, session, s, scales) is None), *tried))


def _least(
    source: Source, session: onnxruntime.InferenceSession, example: Mapping[str, int], axis: str,
    scales: Mapping[str, float],
) -> int:  # fmt: skip
    low, high = 0, example[axis]
    while high - low > 1:
        middle = (low + high) // 2
        if _differs(source, session, {**example, axis: middle}, scales) is None:
            high = middle
        else:
            low = middle
    return high


def _differs(
    source: Source, session: onnxruntime.InferenceSession, sizes: Mapping[str, int], scales: Mapping[str, float]
) -> str | None:
    """How the graph is wrong at these sizes; None = it is right, "" = they are none for the source model either.

    `scales` has the exits' largest outputs at the example's sizes, by tensor: those here may happen to be tiny.
    """
    x = make_inputs(source.inputs, 1, seed=5, free=sizes)
    try:
        wanted = source.reference(x)
    except ModelError:
        return ""
    if any(0 in wanted[e.answer].shape for e in source.exits):
        return ""
    try:
        outputs = measure.run(session, x, [n for e in source.exits for n in e.outputs])
    except ModelError as e:
        return str(e)
    for exit in source.exits:
        a, b = outputs[exit.answer], wanted[exit.answer]
        if exit.lengths is not None and a.shape == b.shape:
            if not np.array_equal(outputs[exit.lengths], wanted[exit.lengths]):
                return f"exit {exit.name!r} has lengths {outputs[exit.lengths]} instead of {wanted[exit.lengths]}"
            a, b = (valid_of(v, wanted[exit.lengths]) for v in (a, b))
        difference, scale = largest_difference(a, b)
        if not (error := difference / max(scale, scales[exit.answer], LEAST_SCALE)) <= _ALIKE:
            what = f"error {error:.1e}" if a.shape == b.shape else f"shape {a.shape} instead of {b.shape}"
            return f"exit {exit.name!r}: {what}"
    return None


def check_padding(source: Source, least: Mapping[str, int]) -> None:
    """Ask the source model whether an input is answered alone as it is among padding that holds garbage.

    Nothing to ask where exits have no lengths, no input says how much of another is padding, or the network is
    quantized (whose ranges are found with the padding).

    Raises:
        ModelError: it is not; names the usual culprits.
    """
    counting = length_inputs(source.inputs)
    if source.quantized is not None or source.states or not counting or any(e.lengths is None for e in source.exits):
        return
    example = {a: n for spec in source.inputs for a, n in spec.sizes.items()}
    sizes = {a: 2 * n + 1 for a, n in example.items()}
    x = make_inputs(source.inputs, 2, seed=6, free=sizes)
    counts = {a: max(least.get(a, 1), n) for a, n in example.items()}
    lengths = {n: np.array([sizes[a], counts[a]], x[n].dtype) for n, a in counting.items()}
    rng = np.random.default_rng(7)
    for spec in source.inputs:
        array, inside = x[spec.tensor.name], [slice(None)] * len(spec.tensor.shape)
        for k, axis in enumerate(spec.tensor.shape):
            if axis in counting.values():
                inside[k] = slice(counts[str(axis)], None)
                if array.dtype.kind == "f":
                    array[1:][tuple(inside)] = 10 * rng.standard_normal(array[1:][tuple(inside)].shape)
    x.update(lengths)
    try:
        together = source.reference(x)
        apart = [_row(source, x, 0, sizes), _row(source, x, 1, counts)]
    except ModelError as e:
        raise ModelError(f"the source model does not run on a padded batch: {e}") from e
    alone = [source.reference(a) for a in apart]
    for exit in source.exits:
        assert exit.lengths is not None
        answers = [valid_of(a[exit.answer], a[exit.lengths])[None] for a in alone]
        usual = max(largest_difference(b, b)[1] for b in answers)
        for i, b in enumerate(answers):
            kept, wanted = int(together[exit.lengths][i]), alone[i][exit.lengths]
            difference, _ = largest_difference(together[exit.answer][i : i + 1, :kept], b)
            error = difference / max(usual, LEAST_SCALE)
            if kept != wanted[0] or not error <= _PADDED:
                what = f"{kept} valid positions instead of {wanted[0]}"
                what = what if kept != wanted[0] else f"error {error:.1e} of the largest output"
                raise ModelError(
                    f"exit {exit.name!r} answers an input of {counts} otherwise when it stands in padding up to "
                    f"{sizes} ({what}): the answer would depend on its neighbours in a batch. Usual culprits: a "
                    "convolution that sees padding (multiply its input by the mask), attention without a key mask, "
                    "GroupNorm or statistics over time (use LayerNorm or BatchNorm), and lengths like x_lens // 4 "
                    "where convolutions give (x_lens - 3) // 4"
                )


def _row(source: Source, x: Arrays, i: int, counts: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """One input of a padded batch without its padding."""
    row = {}
    for spec in source.inputs:
        cut = [
            slice(i, i + 1),
            *(slice(counts[a]) if isinstance(a, str) else slice(None) for a in spec.tensor.shape[1:]),
        ]
        row[spec.tensor.name] = np.ascontiguousarray(x[spec.tensor.name][tuple(cut)])
    return row
