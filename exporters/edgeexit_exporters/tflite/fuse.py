"""The fused layout for TFLite: a chain's stages in one graph whose nested IFs decide.

The contract is that of `docs/bundle-format.md`, as far as the format can follow it. One signature, `fused`:

====  =================  ==========================  ==========================================================
in    the model's own    as in the chain             quantized where the chain's are
in    exit_thresholds    float32 `(K-1,)`            not there where K = 1: engines differ about empty tensors
out   output             float32 `(1, ..., classes)` of the exit that answered; dequantized, for scales differ
out   exit_index         **int32** `(1,)`            ONNX: int64 scalar
out   exit_score         float32 `(1,)`              ONNX: scalar
====  =================  ==========================  ==========================================================

Without signatures (TensorFlow Lite Micro): inputs and outputs in this order. It stops at the first exit k with
score_k >= exit_thresholds[k], so NaN goes on. Temperatures are constants named `temperature_<k>`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from edgeexit.errors import ModelError
from edgeexit.policy import scores
from edgeexit_exporters.tflite.file.building import BOOL, FLOAT, INT32, Scope
from edgeexit_exporters.tflite.file.checked import MAX_DEPTH, text
from edgeexit_exporters.tflite.file.flatbuffer import Model, read, schema, write
from edgeexit_exporters.tflite.file.signatures import KEPT_METADATA, Signature, Tensor, compact
from edgeexit_exporters.tflite.file.tflite_file import TfliteFile
from edgeexit_exporters.tflite.score_ops import TEMPERATURE, add_score, check_score

FUSED, STAGE = "fused", "stage_"
THRESHOLDS = "exit_thresholds"
OUTPUTS = ("output", "exit_index", "exit_score")
_DEQUANTIZE_VERSIONS = {"uint8": 1, "int8": 2, "int16": 3}
_SAME_SCALE = 1e-6
"""Relative; quantizers round one scale twice and differ in the last bit."""


def fuse(
    chain: TfliteFile,
    exits: Sequence[str],
    score: str = "maxprob",
    *,
    kinds: Sequence[scores.Kind] | None = None,
    temperatures: Sequence[float] | None = None,
) -> TfliteFile:
    """Build the fused file.

    Args:
        chain: a .tflite with the signatures `stage_0` to `stage_<K-1>`, whose inputs and outputs are called like the
            model's inputs, exits and cuts.
        exits: the output of each stage that is its exit's answer, shallow to deep.
        score: one of `score_ops.BUILDERS`.
        kinds: what each exit holds; all logits where missing.
        temperatures: divisors of the logits; all 1 where missing.

    Raises:
        BundleError: `chain` is damaged.
        ModelError: stages do not fit each other or one output tensor, or give what a fused file cannot.
        PolicyError: no such score.
    """
    check_score(score)
    stages = _stages(chain.signatures, exits)
    count = len(stages)
    kinds = kinds or ["logits"] * count
    temperatures = temperatures or [1.0] * count
    _check_temperatures(temperatures, count)
    if len(kinds) != count:
        raise ModelError(f"{len(kinds)} kinds for {count} exits")
    model = chain.model
    fused = schema.ModelT(version=model.version, description=model.description, subgraphs=[])
    codes, buffers = fused.operatorCodes, fused.buffers = list(model.operatorCodes), list(model.buffers)
    fused.metadata = [copy.copy(m) for m in model.metadata or [] if text(m.name) == KEPT_METADATA] or None
    settings = [_Exit(*s) for s in zip(stages, exits, kinds, temperatures, strict=True)]
    _Fusion(model, fused, settings, score).build()
    compact(fused, codes, buffers)
    return TfliteFile(write(fused))


def with_temperatures(fused: bytes, temperatures: Sequence[float]) -> bytes:
    """Rewrite the named temperature constants of a fused file; everything else stays.

    Raises:
        BundleError: the file is damaged.
        ModelError: it has no such constant for every exit, or has more; a temperature is not above 0.
    """
    _check_temperatures(temperatures, len(temperatures))
    model = read(fused)
    left = {f"{TEMPERATURE}{k}": t for k, t in enumerate(temperatures)}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            name = text(tensor.name)
            if not name.startswith(TEMPERATURE) or tensor.type != FLOAT or data is None or len(data) != 4:
                continue
            if name not in left:
                raise ModelError(f"the fused file has {name!r}, but {len(temperatures)} temperatures were given")
            model.buffers[tensor.buffer].data = np.frombuffer(np.float32(left.pop(name)).tobytes(), np.uint8)
    if left:
        raise ModelError(f"not a fused .tflite of this toolkit with that many exits: it lacks {sorted(left)[0]!r}")
    return write(model)


class _Exit(NamedTuple):
    stage: Signature
    answer: str
    kind: scores.Kind
    temperature: float


class _Fusion:
    """Builds subgraph by subgraph; the tensors of stage k keep their numbers in the subgraph of its scope."""

    def __init__(self, chain: Model, fused: Model, exits: list[_Exit], score: str) -> None:
        self.chain, self.fused, self.exits, self.score = chain, fused, exits, score
        self.last = len(exits) - 1
        self._shared: dict[bytes, int] = {}
        self.needs: list[list[str]] = [[] for _ in exits]
        """Tensors that stage k or a later one reads and none from k on makes before."""
        later: list[str] = []
        for k in range(self.last, -1, -1):
            stage = exits[k].stage
            later = list(dict.fromkeys([*stage.inputs, *(n for n in later if n not in stage.outputs)]))
            self.needs[k] = later

    def build(self) -> None:
        main = self._place("main")
        known = self._enter(main, 0)
        inputs = {n: known[n] for n in self.needs[0]}
        if self.last:
            inputs[THRESHOLDS] = main.tensor(THRESHOLDS, [self.last])
        outputs = self._decide(main, 0, known, inputs.get(THRESHOLDS, -1))
        main.graph.inputs, main.graph.outputs = list(inputs.values()), outputs
        maps = [
            [schema.TensorMapT(name=n, tensorIndex=i) for n, i in side]
            for side in (inputs.items(), zip(OUTPUTS, outputs, strict=True))
        ]
        self.fused.signatureDefs = [schema.SignatureDefT(*maps, signatureKey=FUSED, subgraphIndex=0)]

    def _place(self, name: str) -> Scope:
        """A new empty subgraph, numbered now: branches come after the graph they belong to."""
        graph = schema.SubGraphT(tensors=[], inputs=[], outputs=[], operators=[], name=name)
        self.fused.subgraphs.append(graph)
        return Scope(self.fused, graph, self._shared)

    def _enter(self, scope: Scope, k: int) -> dict[str, int]:
        """Put stage k here, with an input for everything that later stages need; tensors by name."""
        stage = self.exits[k].stage
        source = self.chain.subgraphs[stage.subgraph]
        scope.graph.tensors = copy.deepcopy(source.tensors)
        scope.graph.operators = copy.deepcopy(source.operators)
        known = {t.name: t.index for t in stage.inputs.values()}
        for name in self.needs[k]:
            if name not in known:
                reader = next(e.stage for e in self.exits[k:] if name in e.stage.inputs)
                known[name] = scope.like(self.chain.subgraphs[reader.subgraph].tensors[reader.inputs[name].index])
        known.update({t.name: t.index for t in stage.outputs.values()})
        return known

    def _decide(self, scope: Scope, k: int, known: dict[str, int], thresholds: int) -> list[int]:
        """Score exit k and, unless it is the last, answer or go on; the three outputs of this subgraph."""
        it = self.exits[k]
        answer = known[it.answer]
        dtype = it.stage.outputs[it.answer].dtype
        quantized = dtype != "float32"
        if quantized:
            axes = scope.axes(answer)
            answer = scope.add("DEQUANTIZE", [answer], axes, version=_DEQUANTIZE_VERSIONS[dtype])
        score = add_score(scope, answer, self.score, it.kind, k, it.temperature, finite=quantized)
        if k == self.last:
            produced = {o for operator in scope.graph.operators for o in operator.outputs}
            return [answer if answer in produced else scope.copied(answer), _index(scope, k), score]
        begin, size = scope.constant("begin", [k], np.int32), scope.constant("size", [1], np.int32)
        threshold = scope.add("SLICE", [thresholds, begin, size], [1])
        stop = scope.add("GREATER_EQUAL", [score, threshold], [1], BOOL)
        passed = {n: known[n] for n in self.needs[k + 1]}
        handed = [answer, score, *([thresholds] if k + 1 < self.last else []), *passed.values()]
        then, other = len(self.fused.subgraphs), len(self.fused.subgraphs) + 1
        then_scope, other_scope = self._place(f"exit_{k}"), self._place(f"{STAGE}{k + 1}")
        self._answer(then_scope, scope, k, handed)
        self._go_on(other_scope, scope, k + 1, handed)
        types = (FLOAT, INT32, FLOAT)
        shapes = (scope.axes(answer), (1,), (1,))
        made_here = [scope.tensor(n, s, t) for n, s, t in zip(OUTPUTS, shapes, types, strict=True)]
        scope.op("IF", [stop, *handed], made_here, thenSubgraphIndex=then, elseSubgraphIndex=other)
        return made_here

    def _answer(self, scope: Scope, outer: Scope, k: int, handed: list[int]) -> None:
        """The branch that stops: its inputs are those of the other branch, as IF demands."""
        inputs = [scope.like(outer.graph.tensors[i]) for i in handed]
        scope.graph.inputs = inputs
        scope.graph.outputs = [scope.copied(inputs[0]), _index(scope, k), scope.copied(inputs[1])]

    def _go_on(self, scope: Scope, outer: Scope, k: int, handed: list[int]) -> None:
        """The branch that computes stage k and what follows."""
        known = self._enter(scope, k)
        unread = [scope.like(outer.graph.tensors[i]) for i in handed[:2]]
        thresholds = [scope.tensor(THRESHOLDS, [self.last])] if k < self.last else []
        scope.graph.inputs = [*unread, *thresholds, *(known[n] for n in self.needs[k])]
        scope.graph.outputs = self._decide(scope, k, known, thresholds[0] if thresholds else -1)


def _index(scope: Scope, k: int) -> int:
    return scope.constant("exit_index_value", [k], np.int32)


def _stages(signatures: Mapping[str, Signature], exits: Sequence[str]) -> list[Signature]:
    """The stages' signatures, proven to fit each other and the contract."""
    if len(exits) > MAX_DEPTH:
        raise ModelError(f"{len(exits)} exits; a fused .tflite nests one decision in another, at most {MAX_DEPTH} deep")
    names = [f"{STAGE}{k}" for k in range(len(exits))]
    if not exits or set(signatures) != set(names):
        raise ModelError(
            f"a chain of {len(exits)} exits has the signatures {', '.join(names) or '(none)'}; "
            f"this file has {', '.join(signatures) or 'none'}"
        )
    stages = [signatures[n] for n in names]
    known: dict[str, Tensor] = {}
    first: Tensor | None = None
    for k, (stage, answer) in enumerate(zip(stages, exits, strict=True)):
        _check_inputs(stage, known)
        for name, tensor in stage.outputs.items():
            if name in known and name not in stage.inputs:
                raise ModelError(f"{stage.name} gives {name!r}, which an earlier stage or the model's input is called")
            known.setdefault(name, tensor)
        read_later = {n for s in stages[k + 1 :] for n in s.inputs}
        extra = [n for n in stage.outputs if n != answer and n not in read_later]
        if answer not in stage.outputs:
            raise ModelError(f"{stage.name} has no output {answer!r}; it has {', '.join(stage.outputs)}")
        if extra:
            raise ModelError(
                f"exit {k} gives {extra[0]!r} besides its answer {answer!r}; a fused .tflite has one output per exit: "
                "use --layouts chain"
            )
        first = first or stage.outputs[answer]
        _check_answer(k, stage.outputs[answer], first)
    return stages


def _check_inputs(stage: Signature, known: dict[str, Tensor]) -> None:
    for name, tensor in stage.inputs.items():
        if name == THRESHOLDS or (name in OUTPUTS and name not in known):
            raise ModelError(f"{stage.name} reads {name!r}, a name the fused contract uses; rename it")
        if any(a < 0 for a in tensor.shape):
            raise ModelError(
                f"{stage.name} reads {name!r} of shape {list(tensor.shape)}; a fused .tflite needs fixed sizes"
            )
        before = known.setdefault(name, tensor)
        if (before.dtype, before.shape) != (tensor.dtype, tensor.shape) or not _same_scale(before, tensor):
            raise ModelError(
                f"{stage.name} reads {name!r} as {_told(tensor)}, but it is made as {_told(before)}; "
                "quantize the stages together so that both sides of a cut agree"
            )


def _same_scale(a: Tensor, b: Tensor) -> bool:
    if a.scale is None or b.scale is None:
        return a.scale is b.scale
    return a.zero_point == b.zero_point and math.isclose(a.scale, b.scale, rel_tol=_SAME_SCALE)


def _told(tensor: Tensor) -> str:
    scale = "" if tensor.scale is None else f" scale {tensor.scale:.9g} zero point {tensor.zero_point}"
    return f"{tensor.dtype} {list(tensor.shape)}{scale}"


def _check_answer(k: int, answer: Tensor, first: Tensor) -> None:
    if answer.dtype != "float32" and (answer.dtype not in _DEQUANTIZE_VERSIONS or answer.scale is None):
        raise ModelError(f"exit {k} gives {answer.dtype}; a score needs float32, or int8, uint8 or int16 with a scale")
    if answer.shape != first.shape:
        raise ModelError(
            f"exit {k} gives shape {list(answer.shape)}, exit 0 {list(first.shape)}; a fused .tflite has one output "
            "for all exits: use --layouts chain"
        )
    if answer.shape[:1] != (1,) or min(answer.shape) < 0:
        raise ModelError(
            f"exit {k} gives shape {list(answer.shape)}; a fused .tflite has fixed sizes and one input a call"
        )


def _check_temperatures(temperatures: Sequence[float], count: int) -> None:
    if len(temperatures) != count:
        raise ModelError(f"{len(temperatures)} temperatures for {count} exits")
    for t in temperatures:
        if not (math.isfinite(t) and t > 0):
            raise ModelError(f"a temperature is {t}; temperatures are finite and above 0")
