"""The scores of `edgeexit.policy.scores` as TFLite operators, all of which TensorFlow Lite Micro has too.

NaN decides the form. A NaN answer must give a NaN score, but kernels differ: the reference REDUCE_MAX of NaN is the
lowest float, XNNPACK's EXP of NaN is 0, and arithmetic clamps infinities. So z - max z is formed before anything else,
its NaN is put back by comparison, which no kernel gets wrong, into the sum of exponentials, and every score divides by
that sum. A dequantized answer is finite and spared this.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from edgeexit.errors import ModelError
from edgeexit.policy import scores
from edgeexit_exporters.tflite.file.building import BOOL, FLOAT, Scope

TEMPERATURE = "temperature_"
_TINY = 1e-30
"""As in `edgeexit.policy.scores`."""
_FAR = 1000.0
"""exp(-1000) is 0 in float32."""


def check_score(name: str) -> None:
    """Refuse a score that operators cannot compute from an answer.

    Raises:
        PolicyError: no score of that name.
        ModelError: the network's heads give it.
    """
    scores.score_named(name)
    if name not in BUILDERS:
        raise ModelError(
            f"score {name!r} is an output of the network, and a fused .tflite has one output per exit; "
            f"use --layouts chain, or one of {', '.join(BUILDERS)}"
        )


def add_score(scope: Scope, answer: int, name: str, kind: scores.Kind, k: int, temperature: float, finite: bool) -> int:
    """Add the score of exit k.

    Args:
        scope: the subgraph that holds the answer.
        answer: a float32 tensor `(1, ..., classes)`.
        name: one of `BUILDERS`.
        kind: whether the answer holds logits or probabilities.
        k: which exit; names its temperature.
        temperature: divides the logits.
        finite: the answer cannot hold NaN or an infinity.

    Returns:
        a float32 tensor `(1,)`: the mean over the axes between the first and the last.

    Raises:
        ModelError: fewer than two classes.
    """
    axes = scope.axes(answer)
    if len(axes) < 2 or axes[-1] < 2:
        raise ModelError(f"exit {k} has shape {list(axes)}; a score needs at least 2 classes in the last axis")
    z = answer
    if kind == "probs":
        floor = scope.constant("tiny", [_TINY])
        z = scope.add("LOG", [scope.add("MAXIMUM", [z, floor], axes)], axes)
        if not finite:  # MAXIMUM may drop NaN
            zero = scope.add("MUL", [answer, scope.constant("zero", [0])], axes)
            z = scope.add("ADD", [z, zero], axes)
    divisor = scope.constant(f"{TEMPERATURE}{k}", [temperature], own=True)
    score = BUILDERS[name](_Logits(scope, z, divisor, finite))
    if len(axes) > 2:
        places = scope.constant("positions", list(range(1, len(axes) - 1)), np.int32)
        score = scope.add("MEAN", [score, places], axes[:1], keepDims=False)
    return score


class _Logits:
    """Logits z and what the scores share: d = (z - max z) / T, e = exp d, the sum of e and its largest, which is 1.

    Where all z are -inf, the sum is 0 in some kernels; so nothing but e is ever divided by it: 0 / 0 is NaN.
    """

    def __init__(self, scope: Scope, z: int, temperature: int, finite: bool) -> None:
        self.scope, self.z, self.temperature, self.finite = scope, z, temperature, finite
        self.axes = scope.axes(z)
        self.classes = self.axes[-1]
        self._last = scope.constant("last_axis", [len(self.axes) - 1], np.int32)
        self.one = scope.constant("one", [1])

    @cached_property
    def top(self) -> int:
        return self.reduce("REDUCE_MAX", self.z, keep=True)

    @cached_property
    def d(self) -> int:
        return self.wide("DIV", self.wide("SUB", self.z, self.top), self.temperature)

    @cached_property
    def e(self) -> int:
        e = self.wide("EXP", self.d)
        if self.finite:
            return e
        zero, nan = self.scope.constant("zero", [0]), self.scope.constant("nan", [math.nan])
        defined = self.scope.add("LESS_EQUAL", [self.d, zero], self.axes, BOOL)
        return self.wide("SELECT_V2", defined, e, nan)

    @cached_property
    def peak(self) -> int:
        return self.one if self.finite else self.reduce("REDUCE_MAX", self.e)

    @cached_property
    def total(self) -> int:
        return self.reduce("SUM", self.e)

    def reduce(self, kind: str, tensor: int, keep: bool = False) -> int:
        axes = (*self.axes[:-1], 1) if keep else self.axes[:-1]
        return self.scope.add(kind, [tensor, self._last], axes, keepDims=keep)

    def wide(self, kind: str, *inputs: int) -> int:
        """An operator on all logits."""
        return self.scope.add(kind, list(inputs), self.axes)

    def small(self, kind: str, *inputs: int) -> int:
        """An operator on what the reductions left."""
        return self.scope.add(kind, list(inputs), self.axes[:-1])


def _maxprob(s: _Logits) -> int:
    if s.finite:
        z = s.wide("DIV", s.z, s.temperature)
        return s.reduce("REDUCE_MAX", s.scope.add("SOFTMAX", [z], s.axes, beta=1.0))
    return s.small("DIV", s.peak, s.total)


def _entropy(s: _Logits) -> int:
    """1 - (ln total - sum(e d) / total) / ln C; d is cut off where e is 0, for 0 * -inf is NaN."""
    weighted = s.reduce("SUM", s.wide("MUL", s.e, s.wide("MAXIMUM", s.d, s.scope.constant("far", [-_FAR]))))
    entropy = s.small("SUB", s.small("LOG", s.total), s.small("DIV", weighted, s.total))
    most = s.scope.constant("most", [math.log(s.classes)])
    return s.small("SUB", s.one, s.small("DIV", entropy, most))


def _margin(s: _Logits) -> int:
    """(1 - exp d2) / total, with d2 the largest d once the maximum is pushed away; 0 where two classes are the maximum.

    TOPK_V2 would say it in one operator, but TensorFlow Lite Micro has none.
    """
    scope = s.scope
    equal = scope.add("EQUAL", [s.z, s.top], s.axes, BOOL)
    is_top = scope.add("CAST", [equal], s.axes, inDataType=BOOL, outDataType=FLOAT)
    pushed = s.wide("SUB", s.d, s.wide("MUL", is_top, scope.constant("far", [_FAR])))
    second = s.reduce("REDUCE_MAX", pushed)
    others = s.small("SUB", scope.constant("two", [2]), s.reduce("SUM", is_top))
    alone = s.small("MAXIMUM", others, scope.constant("zero", [0]))
    gap = s.small("SUB", s.one, s.small("EXP", s.small("MUL", second, alone)))
    return s.small("DIV", s.small("MUL", gap, s.peak), s.total)


BUILDERS = {"maxprob": _maxprob, "entropy": _entropy, "margin": _margin}
"""Name of an `edgeexit.policy.scores.Score` that needs the answer -> what adds its operators."""
