"""The arena estimate is TensorFlow Lite Micro's own number, for networks, stages and fused graphs."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("ai_edge_litert", reason="holds the .tflite schema; in the extra tflite-export")

from tflite_chains import EXITS, STAGES, chain, fuse_bytes, passing_chain

from edgeexit.errors import ModelError
from edgeexit_exporters.tflite.file import arena, flatbuffer
from edgeexit_exporters.tflite.file.tflite_file import TfliteFile
from shared_data import data_dir

Report = Callable[..., tuple[int, int]]


@pytest.fixture
def report(capfd: pytest.CaptureFixture[str]) -> Report:
    """TensorFlow Lite Micro's head (activations) and tail (tables) of a file, which it prints to stderr."""
    runtime = pytest.importorskip(
        "tflite_micro.python.tflite_micro.runtime", reason="the microcontroller check needs tflite-micro (pre-release)"
    )

    def run(data: bytes, arena_size: int = 1_000_000) -> tuple[int, int]:
        engine = runtime.Interpreter.from_bytes(data, arena_size=arena_size)
        capfd.readouterr()
        engine.print_allocations()
        printed = capfd.readouterr().err
        head, tail = (re.search(rf"Arena allocation {part} (\d+) bytes", printed) for part in ("head", "tail"))
        assert head is not None and tail is not None, printed
        return int(head[1]), int(tail[1])

    return run


def _agrees(data: bytes, report: Report) -> None:
    head, tail = report(data)
    found = arena.memory(TfliteFile(data))
    assert found.arena == head
    assert tail <= found.tables <= 2 * tail
    assert found.least <= found.arena
    assert found.flash == len(data)
    assert report(data, found.total) == (head, tail)  # enough to plan in, too: else it raises


@pytest.mark.parametrize("precision", ["float", "int8"])
def test_stages_alone(precision: str, report: Report) -> None:
    every = arena.stage_memory(TfliteFile(chain(precision)))
    assert list(every) == [f"stage_{k}" for k in range(STAGES)]
    for name, found in every.items():
        one = TfliteFile(chain(precision)).part(name)
        assert arena.memory(one) == found
        _agrees(one.data, report)


@pytest.mark.parametrize("precision", ["float", "int8"])
@pytest.mark.parametrize("score", ["maxprob", "entropy", "margin"])
def test_fused(precision: str, score: str, report: Report) -> None:
    _agrees(fuse_bytes(chain(precision), EXITS, score), report)


@pytest.mark.parametrize(
    "name", ["ad01_int8", "kws_ref_model", "pretrainedResnet_quant", "str_ww_ref_model", "vww_96_int8"]
)
def test_mlperf_tiny(name: str, report: Report) -> None:
    path = data_dir() / "mlperf_tiny" / f"{name}.tflite"
    if not path.is_file():
        pytest.skip(f"{path} is not in the data pack")
    _agrees(path.read_bytes(), report)


def test_a_chain_as_a_whole_is_refused() -> None:
    with pytest.raises(ModelError, match=r"3 subgraphs and runs 1 of them.*split its signatures"):
        arena.memory(TfliteFile(chain("int8")))


def test_control_flow_that_multiplies_is_refused_soon() -> None:
    """40 subgraphs that each run the next one twice: 2 to the 40 visits."""
    schema = flatbuffer.schema
    model = flatbuffer.read(passing_chain((1, 4), count=1))
    model.operatorCodes.append(schema.OperatorCodeT(deprecatedBuiltinCode=118, builtinCode=118))
    for _ in range(40):
        model.subgraphs.append(copy.deepcopy(model.subgraphs[0]))
    for i, graph in enumerate(model.subgraphs[:-1]):
        options = schema.IfOptionsT(thenSubgraphIndex=i + 1, elseSubgraphIndex=i + 1)
        graph.operators.append(schema.OperatorT(1, [0], [], schema.BuiltinOptions.IfOptions, options))
    with pytest.raises(ModelError, match="more than 10000 subgraphs"):
        arena.memory(TfliteFile(flatbuffer.write(model)))


def test_the_plan_reuses_what_is_free(report: Report) -> None:
    """Four tensors in a row of 64 bytes: two at a time are alive."""
    found = arena.memory(TfliteFile(_row([16] * 4)))
    assert (found.arena, found.least) == (128, 128)
    _agrees(_row([16, 100, 7, 300, 16, 16, 90]), report)


def _row(sizes: list[int]) -> bytes:
    """PADs one after another, that make float32 tensors of these sizes."""
    from edgeexit_exporters.tflite.file.building import Scope

    schema = flatbuffer.schema
    model: Any = schema.ModelT(version=3, operatorCodes=[], buffers=[schema.BufferT()])
    graph = schema.SubGraphT(tensors=[], inputs=[0], outputs=[], operators=[], name="row")
    model.subgraphs = [graph]
    scope = Scope(model, graph, {})
    now = scope.tensor("first", [1, sizes[0]])
    for size in sizes[1:]:
        if size >= scope.axes(now)[1]:
            pads = scope.constant("pads", [[0, 0], [0, size - scope.axes(now)[1]]], "int32")
            now = scope.add("PAD", [now, pads], [1, size])
        else:
            begin, count = scope.constant("begin", [0, 0], "int32"), scope.constant("count", [1, size], "int32")
            now = scope.add("SLICE", [now, begin, count], [1, size])
    graph.outputs = [now]
    return flatbuffer.write(model)
