"""Checks for NaN and infinity: in inputs, and in answers without a defined softmax (docs/decisions/non-finite.md)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError

_SMALL = 4096
"""Size up to which a dot product is faster than comparing each number; larger ones would start BLAS threads."""


def finite(array: NDArray[Any]) -> bool:
    """Whether all numbers are finite; half a microsecond for an answer with few classes."""
    if array.size <= _SMALL and array.dtype.char in "fd" and math.isfinite(np.vdot(array, array)):
        return True  # else the squares may overflow
    if array.dtype.kind != "f" or not array.size:
        return True
    return math.isfinite(array.min()) and math.isfinite(array.max())  # both propagate NaN and need no memory


def sound(output: NDArray[Any], kind: str) -> bool:
    """Whether an answer `(n, ..., classes)` is valid.

    Logits may hold -inf for excluded classes if each position has a finite one, but no NaN and no +inf. Probabilities
    are finite.
    """
    if finite(output):
        return True
    return kind != "probs" and bool(np.isfinite(output.max(-1)).all())


def unsound_rows(output: NDArray[Any], kind: str, valid: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """`(n,)` rows of an answer `(n, ..., classes)` that are not `sound`.

    Args:
        output: of one exit.
        kind: "logits" or "probs".
        valid: `(n, positions)`, False in padding, which is not checked; None = all are valid.
    """
    good = np.isfinite(output).all(-1) if kind == "probs" else np.isfinite(output.max(-1))
    if valid is not None:
        good = good | ~valid.reshape(*valid.shape, *(1,) * (good.ndim - 2))
    return np.asarray(~good.reshape(len(good), -1).all(1))


def named(array: NDArray[Any]) -> str:
    """The first number that is not finite with its index, such as "NaN at [0, 3]", and the count of others."""
    wrong = ~np.isfinite(array)
    count = int(np.count_nonzero(wrong))
    at = np.unravel_index(int(np.argmax(wrong)), array.shape) if count else ()
    value = array[at] if count else 0.0
    text = "NaN" if np.isnan(value) else f"{value:g}"
    more = f", and {count - 1} more like it" if count > 1 else ""
    return f"{text} at {[int(i) for i in at]}{more}"


def check_input(name: str, array: NDArray[Any]) -> None:
    """Refuse an input with NaN or infinity.

    Raises:
        DataError: names the input and the first such number.
    """
    if finite(array):
        return
    hint = ""
    if not np.isnan(array.min()):
        hint = f" (a mask of -inf works with the lowest finite number of {array.dtype})" if array.max() < np.inf else ""
    raise DataError(f"input {name!r} holds {named(array)}; expected finite numbers{hint}")


def no_answer(artifact: str, exit: str, output: NDArray[Any], kind: str, score: float, half: bool = False) -> DataError:
    """The error for an invalid answer.

    Args:
        artifact: its name.
        exit: name of the exit, for the message.
        output: of one input, `(1, ..., classes)` without padding.
        kind: "logits" or "probs".
        score: of the exit.
        half: whether the artifact computes in 16 bits.
    """
    if sound(output, kind):
        what = f"with a score of {score:g}"
    elif kind != "probs" and not np.isnan(output).any() and output.max() < np.inf:
        what = "with -inf for every class"
    else:
        what = f"with {named(output if kind == 'probs' else np.where(output == -np.inf, 0, output))}"
    advice = (
        "its float16 numbers overflow beyond 65504: check the input's scale, or run a float32 artifact"
        if half
        else "the network is damaged: check the input's scale, and the network's weights"
    )
    return DataError(
        f"{artifact}: {exit} answers {what}, which is no answer: the input lies outside what the network was trained "
        f"on, or {advice}"
    )
