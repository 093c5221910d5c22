"""Length inputs of a network: whole numbers that say how much of another input is not padding."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgeexit.bundle.manifest import TensorSpec

_NAME = re.compile(r"(?:(?P<of>.+)_)?len(?:s|gth|gths)?", re.IGNORECASE)


def length_inputs(inputs: Sequence[TensorSpec]) -> dict[str, tuple[str, int]]:
    """Length input -> the input whose positions it counts, and the axis.

    Length inputs are whole numbers `(inputs,)` called `lengths`, `lens` or the like, or `x_lens` beside the input `x`.
    There must be one axis that they can mean: the only free one of `x`, or of all inputs where there is no `x`; where
    no axis is free (a stream's chunks), axis 1 of `x`, or of the only input that has one.
    """
    found = {}
    others = {t.name: t for t in inputs if len(t.shape) > 1}
    for t in inputs:
        match = _NAME.fullmatch(t.name)
        if match is None or len(t.shape) != 1 or not t.dtype.startswith(("int", "uint")):
            continue
        own = others.get(match["of"] or "")
        meant = [own] if own is not None and _free(own) else list(others.values())
        free = {a: (o.name, o.shape.index(a)) for o in reversed(meant) for a in _free(o)}
        if len(free) == 1:
            found[t.name] = next(iter(free.values()))
        elif not free and (own is not None or len(others) == 1):
            found[t.name] = ((own or meant[0]).name, 1)
    return found


def _free(t: TensorSpec) -> list[str]:
    return [a for a in t.shape[1:] if isinstance(a, str)]
