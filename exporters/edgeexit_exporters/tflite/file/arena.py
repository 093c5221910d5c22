"""Memory that TensorFlow Lite Micro needs for a file, from the flatbuffer alone.

Activations share one arena: a tensor needs its bytes only from the operator that makes it to the last that reads it.
The plan is greedy by size (Pisarchyk & Lee, 2020, arXiv:2001.03288, section 5.2), with the order among equal sizes, the
rounding to 16 bytes and the reading of control flow of TensorFlow Lite Micro's own planner, so that the number is the
one it reports as "head". Scratch memory that kernels ask for is counted for reductions only, as its reference kernels
ask for none in other common layers; optimised kernels (CMSIS-NN) ask for more.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgeexit.errors import ModelError
from edgeexit_exporters.tflite.file.checked import byte_size, called, indices, shape
from edgeexit_exporters.tflite.file.flatbuffer import Model, schema
from edgeexit_exporters.tflite.file.signatures import op_name, reached
from edgeexit_exporters.tflite.file.tflite_file import TfliteFile

_ALIGNMENT = 16
_MAX_VISITS = 10_000
"""Subgraphs run, counted as often as they are called: calls that share a callee multiply."""
_INT = 4
_REDUCTIONS = {"MEAN", "SUM", "REDUCE_MAX"}
_SUMMED_WIDER = {schema.TensorType.INT8, schema.TensorType.UINT8, schema.TensorType.INT16}
_CONVOLUTIONS = {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"}
_BASE, _TENSOR, _OPERATOR, _CHANNEL = 1024, 24, 160, 8
"""Bytes of tables: per file, tensor, operator and output channel."""
_PLAN, _PER_BUFFER = 256, 120
"""Bytes while planning: per file, and per buffer that is placed."""
_PLANNED = {"IF", "WHILE", "CALL_ONCE"}


@dataclass(frozen=True)
class MemoryPlan:
    """What one file needs on a microcontroller, in bytes."""

    flash: int
    """The file: weights are read where they lie."""
    arena: int
    """Activations, as planned."""
    least: int
    """What is alive at the busiest operator: no plan needs less."""
    tables: int
    """The interpreter's own tables, which stand in the same arena: a bound fitted to what a 64-bit build asks for
    (networks of MLPerf Tiny, fused graphs); 32-bit devices need about half."""
    planning: int
    """What the planner asks for while it plans, where the activations will lie; a bound fitted likewise."""

    @property
    def total(self) -> int:
        """An arena of this size is enough: small networks need more to be planned than to be run."""
        return self.tables + max(self.arena, self.planning)


@dataclass
class _Use:
    """One tensor: how large, and between which steps it is needed."""

    size: int
    first: int = -1
    last: int = -1


def memory(file: TfliteFile) -> MemoryPlan:
    """Flash and arena of a file that is run as a whole: one subgraph, or several joined by control flow.

    Raises:
        BundleError: a damaged file.
        ModelError: a subgraph that nothing calls (a chain file: see `stage_memory`), a tensor of unknown size, or
            control flow that the planner does not know.
    """
    model = file.model
    run = len(reached(model, 0))
    if run != len(model.subgraphs):
        raise ModelError(
            f"the .tflite has {len(model.subgraphs)} subgraphs and runs {run} of them from the first; "
            "a microcontroller cannot open it: split its signatures or use the fused layout"
        )
    uses = _Lifetimes(model).uses()
    planning = _round(_PLAN + _PER_BUFFER * len(uses))
    return MemoryPlan(len(file.data), _planned(uses), _busiest(uses), _tables(model), planning)


def stage_memory(chain: TfliteFile) -> dict[str, MemoryPlan]:
    """`memory` of every signature as a file of its own."""
    return {name: memory(chain.part(name)) for name in chain.signatures}


def _tables(model: Model) -> int:
    tensors = sum(len(g.tensors) for g in model.subgraphs)
    operators = sum(len(g.operators) for g in model.subgraphs)
    channels = sum(_channels(model, g, o) for g in model.subgraphs for o in g.operators)
    return _round(_BASE + _TENSOR * tensors + _OPERATOR * operators + _CHANNEL * channels)


def _channels(model: Model, graph: Any, operator: Any) -> int:
    """Output channels for which the interpreter keeps multipliers: convolutions, and scales per channel."""
    reads, makes = indices(operator.inputs), indices(operator.outputs)
    if not makes or len(reads) < 2 or reads[1] < 0:
        return 0
    axes, q = shape(graph.tensors[makes[0]]), graph.tensors[reads[1]].quantization
    per_channel = q is not None and q.scale is not None and len(q.scale) > 1
    convolves = op_name(model.operatorCodes[operator.opcodeIndex]) in _CONVOLUTIONS
    return axes[-1] if axes and (convolves or per_channel) else 0


class _Lifetimes:
    """Walks the graph in the order in which it is planned; time is one step per operator and per subgraph entered."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.time = 0
        self.visits = 0
        self.scratch: list[_Use] = []
        self.tensors = [[_use(t, i, j) for j, t in enumerate(g.tensors)] for i, g in enumerate(model.subgraphs)]

    def uses(self) -> list[_Use]:
        """The tensors that share the arena, in the file's order."""
        self._enter(0)
        shared: list[_Use] = []
        for graph, uses in zip(self.model.subgraphs, self.tensors, strict=True):
            for tensor, use in zip(graph.tensors, uses, strict=True):
                data = self.model.buffers[tensor.buffer].data
                constant = data is not None and len(data) > 0
                if not constant and not tensor.isVariable and use.size:
                    shared.append(use)
        return shared + self.scratch

    def _enter(self, i: int) -> None:
        self.visits += 1
        if self.visits > _MAX_VISITS:
            raise ModelError(f"control flow runs more than {_MAX_VISITS} subgraphs; it cannot be planned")
        graph, uses = self.model.subgraphs[i], self.tensors[i]
        for j in (*indices(graph.inputs), *indices(graph.outputs)):
            uses[j].first = uses[j].last = self.time
        for operator in graph.operators:
            self.time += 1
            outputs = indices(operator.outputs)
            self.scratch += [_Use(_round(size), self.time, self.time) for size in self._scratch(graph, operator)]
            for j in outputs:
                uses[j].first = uses[j].last = self.time
            for callee in self._callees(operator):
                self.time += 1
                self._enter(callee)
            for j in (*(n for n in indices(operator.inputs) if n >= 0), *outputs):
                uses[j].last = self.time
        for j in indices(graph.outputs):
            uses[j].last = self.time

    def _scratch(self, graph: Any, operator: Any) -> list[int]:
        """Bytes of the buffers that a reduction asks for."""
        name = op_name(self.model.operatorCodes[operator.opcodeIndex])
        reads, makes = indices(operator.inputs), indices(operator.outputs)
        if name not in _REDUCTIONS or len(reads) < 2 or min(reads) < 0 or not makes:
            return []
        tensor = graph.tensors[reads[0]]
        sizes = [_INT * len(shape(tensor)), _INT * math.prod(shape(graph.tensors[reads[1]]))]
        if name != "REDUCE_MAX" and tensor.type in _SUMMED_WIDER:
            sizes.append(_INT * math.prod(shape(graph.tensors[makes[0]])))
        return sizes

    def _callees(self, operator: Any) -> list[int]:
        callees = called(operator)
        name = op_name(self.model.operatorCodes[operator.opcodeIndex])
        if callees and name not in _PLANNED:
            raise ModelError(f"operator {name} runs a subgraph; only {', '.join(sorted(_PLANNED))} can be planned")
        return callees


def _use(tensor: Any, i: int, j: int) -> _Use:
    size = byte_size(tensor)
    if size is None:
        raise ModelError(f"tensor {j} of subgraph {i} has a type of no fixed size; its memory cannot be planned")
    return _Use(_round(size))


def _round(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _planned(uses: list[_Use]) -> int:
    """Largest first; of equal ones the later first; each at the lowest gap among those alive with it."""
    placed: list[tuple[int, _Use]] = []
    for use in sorted(reversed(uses), key=lambda u: -u.size):
        offset = 0
        for start, other in placed:
            if other.first <= use.last and use.first <= other.last:
                if start - offset >= use.size:
                    break
                offset = max(offset, start + other.size)
        placed.insert(bisect_right(placed, offset, key=lambda p: p[0]), (offset, use))
    return max((start + use.size for start, use in placed), default=0)


def _busiest(uses: list[_Use]) -> int:
    changes = sorted(_changes(uses))
    alive = most = 0
    for _, change in changes:
        alive += change
        most = max(most, alive)
    return most


def _changes(uses: list[_Use]) -> Iterator[tuple[int, int]]:
    """(time, bytes more or fewer); at one time, what ends comes before what begins."""
    for use in uses:
        yield use.first, use.size
        yield use.last + 1, -use.size
