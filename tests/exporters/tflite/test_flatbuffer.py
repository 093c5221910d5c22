"""Reading, taking apart and writing .tflite files, honest and not."""

from __future__ import annotations

import contextlib
import random
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="holds the .tflite schema; in the extra tflite-export")

from ai_edge_litert.interpreter import Interpreter
from tflite_chains import EXITS, READS, STAGES, chain, fed, fuse_bytes, images, passing_chain, run_chain

from edgeexit.errors import BundleError, EdgeExitError, ModelError
from edgeexit_exporters.tflite import fuse
from edgeexit_exporters.tflite.file import arena, flatbuffer, signatures
from edgeexit_exporters.tflite.file.tflite_file import TfliteFile

PRECISIONS = ("float", "int8")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_written_is_the_same_network_and_the_same_bytes_every_time(precision: str) -> None:
    original = chain(precision)
    written = flatbuffer.write(flatbuffer.read(original))
    assert flatbuffer.write(flatbuffer.read(written)) == written
    image = fed(original, images(1)[0])
    for a, b in zip(run_chain(original, image), run_chain(written, image), strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_weights_are_aligned_to_16_bytes() -> None:
    written = flatbuffer.write(flatbuffer.read(chain("int8")))
    weights = [bytes(b.data) for b in flatbuffer.read(written).buffers if b.data is not None and len(b.data) >= 100]
    assert len(weights) > 3
    assert [written.index(w) % 16 for w in weights] == [0] * len(weights)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_signatures_tell_names_shapes_and_scales(precision: str) -> None:
    model = flatbuffer.read(chain(precision))
    found = signatures.signatures(model)
    assert list(found) == [f"stage_{k}" for k in range(STAGES)]
    for k, signature in enumerate(found.values()):
        assert {n: t.shape for n, t in signature.inputs.items()} == READS[k]
        assert EXITS[k] in signature.outputs
    made, read = found["stage_0"].outputs["cut_0"], found["stage_2"].inputs["cut_0"]
    assert (made.dtype, made.scale, made.zero_point) == (read.dtype, read.scale, read.zero_point)
    assert (made.scale is not None) == (precision == "int8")
    assert signatures.op_counts(model, 2)["MEAN"] == 2
    with pytest.raises(ModelError, match=r"no signature 'stage_9'.*stage_0, stage_1, stage_2"):
        signatures.signature(model, "stage_9")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_signature_split_out_answers_alike_and_carries_only_its_own(precision: str, tmp_path: Path) -> None:
    whole = chain(precision)
    (tmp_path / "chain.tflite").write_bytes(whole)
    image = fed(whole, images(1)[0])
    expected = run_chain(whole, image)
    known = {"image": image, **{n: a for s in expected for n, a in s.items()}}
    total = 0
    for k in range(STAGES):
        one = TfliteFile.open(tmp_path / "chain.tflite").part(f"stage_{k}").data
        total += len(one)
        before = signatures.signatures(flatbuffer.read(whole))[f"stage_{k}"].outputs
        after = signatures.signatures(flatbuffer.read(one))[f"stage_{k}"].outputs
        assert {n: (t.scale, t.zero_point) for n, t in after.items()} == {
            n: (t.scale, t.zero_point) for n, t in before.items()
        }
        engine = Interpreter(model_content=one)
        engine.allocate_tensors()
        answer = engine.get_signature_runner()(**{n: known[n] for n in READS[k]})
        for name, array in expected[k].items():
            np.testing.assert_array_equal(answer[name], array)
    assert total < 1.2 * len(whole)


# --- files that lie


def _use(data: bytes) -> None:
    """Everything that is done with a file from outside."""
    model = flatbuffer.read(data)
    flatbuffer.write(model)
    for i in range(len(model.subgraphs)):
        signatures.op_counts(model, i)
    for step in (arena.stage_memory, arena.memory, lambda file: fuse.fuse(file, EXITS)):
        with contextlib.suppress(EdgeExitError):
            step(TfliteFile(data))


def test_truncated_files_are_refused() -> None:
    data = chain("int8")
    for size in [*range(0, 64, 7), *np.linspace(64, len(data) - 1, 60).astype(int)]:
        with pytest.raises(BundleError):
            flatbuffer.read(data[:size])


@pytest.mark.parametrize("kind", ["chain", "fused"])
def test_flipped_bytes_end_in_one_line_and_soon(kind: str) -> None:
    data = chain("int8") if kind == "chain" else fuse_bytes(chain("int8"), EXITS)
    dice = random.Random(5)
    refused = 0
    began = time.monotonic()
    for _ in range(120):
        damaged = bytearray(data)
        for _ in range(dice.choice([1, 2, 8])):
            place = dice.randrange(len(data))
            if dice.random() < 0.5:
                damaged[place] = dice.randrange(256)
            else:
                place &= ~3
                damaged[place : place + 4] = struct.pack("<I", dice.choice([0, 0xFFFFFFFF, 0x7FFFFFFF, len(data)]))
        try:
            _use(bytes(damaged))
        except EdgeExitError as e:
            assert "\n" not in str(e)
            refused += 1
    assert refused > 30
    assert time.monotonic() - began < 40


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (b"\x1c\x00\x00\x00TFL2" + bytes(40), "TFL3"),
        (b"\xff\xff\xff\xffTFL3" + bytes(40), "outside"),
        (b"\x08\x00\x00\x00TFL3" + bytes(40), "damaged|version"),
    ],
)
def test_not_a_tflite(data: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        flatbuffer.read(data)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"gone\.tflite"):
        TfliteFile.open(tmp_path / "gone.tflite")


def _changed(change: Any) -> bytes:
    model = flatbuffer.read(passing_chain((1, 4)))
    change(model, model.subgraphs[0])
    return flatbuffer.write(model)


def _calls_itself(model: Any, graph: Any) -> None:
    schema = flatbuffer.schema
    model.operatorCodes.append(schema.OperatorCodeT(deprecatedBuiltinCode=118, builtinCode=118))
    options = schema.IfOptionsT(thenSubgraphIndex=0, elseSubgraphIndex=1)
    made = schema.OperatorT(1, [0], [2], schema.BuiltinOptions.IfOptions, options)
    graph.operators.append(made)


def _operator(**fields: Any) -> Any:
    return lambda model, graph: [setattr(graph.operators[0], n, v) for n, v in fields.items()]


def _tensor(**fields: Any) -> Any:
    return lambda model, graph: [setattr(graph.tensors[0], n, v) for n, v in fields.items()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_operator(inputs=[0, 77]), "input of operator 0 of subgraph 0 is number 77"),
        (_operator(opcodeIndex=9), "code of operator 0"),
        (_operator(inputs=[2, 1]), "before anything makes it"),
        (_tensor(shape=[1, -4]), r"shape \[1, -4\]"),
        (_tensor(shape=[2**30, 2**30]), "shape"),
        (_tensor(buffer=1000), "buffer of tensor 0"),
        (_tensor(buffer=1), "needs 16 bytes, its buffer has 8"),
        (_tensor(name=b"\xff\xfe"), "UTF-8"),
        (lambda m, g: setattr(m, "version", 4), "version 4"),
        (lambda m, g: setattr(m, "subgraphs", []), "no subgraph"),
        (lambda m, g: setattr(m.signatureDefs[1], "subgraphIndex", 5), "signature 'stage_1'"),
        (lambda m, g: setattr(m.signatureDefs[1], "signatureKey", "stage_0"), "two signatures"),
        (lambda m, g: setattr(m.signatureDefs[0].outputs[0], "tensorIndex", 1), "no output of its subgraph"),
        (_calls_itself, "calls itself"),
    ],
)  # fmt: skip
def test_a_lie_is_named(change: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        flatbuffer.read(_changed(change))


def test_many_tensors_that_share_one_long_name_do_not_fill_memory() -> None:
    """Offsets that all point at one text: 1 MB of file would unpack to 20 GB."""
    schema, flatbuffers = flatbuffer.schema, flatbuffer.flatbuffers
    builder = flatbuffers.Builder(1 << 20)
    name = builder.CreateString("n" * 500_000)
    tensors = []
    for _ in range(20_000):
        schema.TensorStart(builder)
        schema.TensorAddName(builder, name)
        tensors.append(schema.TensorEnd(builder))
    schema.SubGraphStartTensorsVector(builder, len(tensors))
    for t in tensors:
        builder.PrependUOffsetTRelative(t)
    vector = builder.EndVector()
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, vector)
    graph = schema.SubGraphEnd(builder)
    schema.ModelStartSubgraphsVector(builder, 1)
    builder.PrependUOffsetTRelative(graph)
    graphs = builder.EndVector()
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, 3)
    schema.ModelAddSubgraphs(builder, graphs)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    with pytest.raises(BundleError, match="texts are longer than the file"):
        flatbuffer.read(bytes(builder.Output()))


def test_more_tables_than_the_file_can_hold_are_refused_before_they_are_unpacked() -> None:
    data = bytearray(flatbuffer.write(flatbuffer.read(passing_chain((1, 4)))))
    model = flatbuffer.schema.Model.GetRootAs(bytes(data), 0)
    offset = model._tab.Pos + model._tab.Offset(8)  # the vector of subgraphs
    vector = offset + struct.unpack_from("<I", data, offset)[0]
    assert struct.unpack_from("<I", data, vector)[0] == 2
    struct.pack_into("<I", data, vector, 0x0FFFFFFF)
    with pytest.raises(BundleError, match="268435455 subgraphs"):
        flatbuffer.read(bytes(data))
