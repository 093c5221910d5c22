"""The C pair compiles as C and as C++ without a warning, and holds the file bit for bit."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="holds the .tflite schema; in the extra tflite-export")

from tflite_chains import CLASSES, EXITS, chain, fuse_bytes

from edgeexit import Bundle, OperatingPoint, Threshold, load
from edgeexit.errors import ModelError
from edgeexit_exporters.tflite.c_array import CSource, c_source, c_source_of
from edgeexit_exporters.tflite.file import arena, flatbuffer, signatures
from edgeexit_exporters.tflite.file.tflite_file import TfliteFile

THRESHOLDS = (math.inf, 0.1)
PRINTS = r"""
#include "%(name)s.h"
#include <stdio.h>
static const int shape[] = %(NAME)s_INPUT_0_SHAPE;
int main(void) {
  int aligned = ((unsigned long)%(name)s_model) %% 16 == 0;
  printf("%%d %%d %%d %%d %%.9g %%d\n", aligned, %(NAME)s_EXITS, shape[1], %(NAME)s_ARENA_BYTES,
         (double)%(NAME)s_INPUT_0_SCALE, %(NAME)s_INPUT_0_ZERO_POINT);
  printf("%%.9g %%.9g\n", (double)%(name)s_thresholds[0], (double)%(name)s_thresholds[1]);
  fwrite(%(name)s_model, 1, %(NAME)s_MODEL_BYTES, stdout);
  return 0;
}
"""


def _made(name: str = "cifar") -> tuple[bytes, CSource]:
    fused = fuse_bytes(chain("int8"), EXITS)
    needs = arena.memory(TfliteFile(fused))
    return fused, c_source(TfliteFile(fused), name, len(EXITS), "maxprob", THRESHOLDS, needs.arena + needs.tables)


@pytest.mark.parametrize("compiler", ["gcc -std=c99", "g++ -std=c++11 -x c++", "g++ -std=c++17 -x c++"])
def test_it_compiles_and_reads_back(compiler: str, tmp_path: Path) -> None:
    program, *options = compiler.split()
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    fused, made = _made()
    (tmp_path / "cifar.h").write_text(made.header)
    (tmp_path / "cifar.c").write_text(made.source)
    (tmp_path / "main.c").write_text(PRINTS % {"name": "cifar", "NAME": "CIFAR"})
    subprocess.run(
        [program, *options, "-Wall", "-Wextra", "-Werror", "-pedantic", "cifar.c", "main.c", "-o", "main"],
        cwd=tmp_path,
        check=True,
    )
    printed = subprocess.run([tmp_path / "main"], check=True, capture_output=True).stdout
    first, second, model = printed.split(b"\n", 2)
    image = signatures.signatures(flatbuffer.read(fused))["fused"].inputs["image"]
    needs = arena.memory(TfliteFile(fused))
    aligned, exits, height, size, scale, zero = first.split()
    assert (int(aligned), int(exits), int(height), int(size)) == (1, 3, image.shape[1], needs.arena + needs.tables)
    assert (np.float32(scale), int(zero)) == (np.float32(image.scale), image.zero_point)
    assert [np.float32(t) for t in second.split()] == [np.float32(t) for t in THRESHOLDS]
    assert model == fused


def test_the_header_tells_inputs_and_outputs() -> None:
    _, made = _made()
    told = dict(re.findall(r"#define (CIFAR_\w+) (.+)", made.header))
    assert told["CIFAR_SCORE"] == '"maxprob"'
    assert told["CIFAR_INPUT_1_NAME"] == '"exit_thresholds"'
    assert told["CIFAR_INPUT_1_SHAPE"] == "{2}"
    assert (told["CIFAR_OUTPUTS"], told["CIFAR_OUTPUT_0_SHAPE"]) == ("3", f"{{1, {CLASSES}}}")
    assert (told["CIFAR_INPUT_0_DTYPE"], told["CIFAR_OUTPUT_1_DTYPE"]) == ('"int8"', '"int32"')


def test_the_header_registers_the_operators_that_the_file_uses() -> None:
    fused, made = _made()
    registered = re.findall(r"\(resolver\)\.(\w+)\(\);", made.header)
    assert registered == [
        "AddConcatenation", "AddConv2D", "AddDequantize", "AddDiv", "AddFullyConnected", "AddGreaterEqual", "AddIf",
        "AddMean", "AddPad", "AddReduceMax", "AddReshape", "AddSlice", "AddSoftmax", "AddTranspose",
    ]  # fmt: skip
    assert f"#define CIFAR_OPERATORS {len(registered)}\n" in made.header
    model = flatbuffer.read(fused)
    for i, code in enumerate(model.operatorCodes):
        if signatures.op_name(code) == "MEAN":
            model.operatorCodes[i] = flatbuffer.schema.OperatorCodeT(32, "Mine", 1, 32)
    with pytest.raises(ModelError, match="'Mine', which is no builtin"):
        c_source(TfliteFile(flatbuffer.write(model)), "kws", 3, "maxprob", [0, 0], 9000)


def test_the_same_file_gives_the_same_texts() -> None:
    assert _made() == _made()


def test_one_stage_alone_has_no_thresholds() -> None:
    one = TfliteFile(chain("int8")).part("stage_0")
    made = c_source(one, "s0", 1, "maxprob", [], 5000)
    assert "thresholds" not in made.header + made.source
    assert '#define S0_OUTPUT_0_NAME "logits_0"' in made.header


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Kws"}, "cannot name a C array"),
        ({"name": "a;b"}, "cannot name a C array"),
        ({"name": ""}, "cannot name a C array"),
        ({"exits": 2, "thresholds": [1]}, "decides between 3 exits, not 2"),
        ({"thresholds": [1]}, "1 thresholds for 3 exits"),
        ({"thresholds": [1, math.nan]}, "NaN"),
        ({"arena_bytes": 0}, "arena of 0 bytes"),
        ({"score": 'x"\n'}, "no score's name"),
    ],
)
def test_what_cannot_be_written_is_refused(changes: dict[str, object], message: str) -> None:
    good = {"name": "kws", "exits": 3, "score": "maxprob", "thresholds": THRESHOLDS, "arena_bytes": 9000}
    with pytest.raises(ModelError, match=message):
        c_source(TfliteFile(fuse_bytes(chain("int8"), EXITS)), **{**good, **changes})  # type: ignore[arg-type]


def test_a_chain_is_refused() -> None:
    with pytest.raises(ModelError, match="split the signatures"):
        c_source(TfliteFile(chain("int8")), "kws", 1, "maxprob", [], 9000)


def test_names_from_the_file_cannot_leave_their_quotes() -> None:
    model = flatbuffer.read(TfliteFile(chain("int8")).part("stage_0").data)
    model.signatureDefs[0].inputs[0].name = 'x" */\n#error "\\'
    header = c_source(TfliteFile(flatbuffer.write(model)), "kws", 1, "maxprob", [], 9000).header
    assert '#define KWS_INPUT_0_NAME "x_ _/__error __"' in header


def test_thresholds_are_those_of_the_default_point(tiny: Path, tmp_path: Path) -> None:
    """The same point that `load` and `edgeexit run` follow on this artifact."""
    bundle = Bundle.open(shutil.copytree(tiny.parent / "tiny-tflite.edgeexit", tmp_path / "t.edgeexit"))
    artifact = "tflite-fused-int8"

    def written() -> list[float]:
        source = c_source_of(Bundle.open(bundle.path)).source
        (numbers,) = re.findall(r"_thresholds\[\w+ - 1\] = \{(.*?)\};", source)
        infinite = {"HUGE_VALF": math.inf, "-HUGE_VALF": -math.inf}
        return [infinite[n] if n in infinite else float(n.rstrip("f")) for n in numbers.split(", ")]

    def point(name: str, threshold: float) -> OperatingPoint:
        return OperatingPoint(name, Threshold((threshold, threshold)), artifact)

    own = bundle.default_point(artifact)
    assert own is not None and isinstance(own.policy, Threshold)
    before = written()
    assert before == pytest.approx([float(t) for t in own.policy.compared])
    bundle.with_operating_point(point("later", 0.25))
    assert written() == before
    bundle.with_operating_point(point("mine", 0.75), default=True)
    engine = load(bundle.path, artifact=artifact, warmup=0)
    assert engine.point == point("mine", 0.75) and written() == [0.75, 0.75]
