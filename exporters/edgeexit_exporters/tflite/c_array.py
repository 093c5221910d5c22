"""C header and source of a .tflite file, for TensorFlow Lite Micro without a file system."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeexit.bundle.bundle import Bundle
from edgeexit.errors import ModelError
from edgeexit_exporters.tflite.file.arena import memory
from edgeexit_exporters.tflite.file.checked import indices, text
from edgeexit_exporters.tflite.file.flatbuffer import Model
from edgeexit_exporters.tflite.file.signatures import Tensor, op_counts, reached, tensor
from edgeexit_exporters.tflite.file.tflite_file import TfliteFile
from edgeexit_exporters.tflite.fuse import FUSED, OUTPUTS, THRESHOLDS

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")
_PER_LINE = 16
_METHODS = {
    "AVERAGE_POOL_2D": "AveragePool2D",
    "BATCH_MATMUL": "BatchMatMul",
    "CONV_2D": "Conv2D",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D",
    "L2_POOL_2D": "L2Pool2D",
    "MAX_POOL_2D": "MaxPool2D",
    "PADV2": "PadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
}
"""Where the resolver's method is not called like the operator."""


@dataclass(frozen=True)
class CSource:
    """Two texts that belong together."""

    name: str
    header: str
    """For `<name>.h`."""
    source: str
    """For `<name>.c`, which is valid C99 and C++."""


def c_source(
    file: TfliteFile, name: str, exits: int, score: str, thresholds: Sequence[float], arena_bytes: int
) -> CSource:
    """Write a file as C.

    The header declares the array, 16-byte aligned, and the default thresholds, and tells in macros (`<NAME>_...`) what
    a program has to know: how many exits, which score, the arena, and for every input and output its place, dtype,
    shape and quantization. The same arguments give the same texts.

    Args:
        file: a .tflite that runs from its first subgraph: a fused one, one exit's, or one stage's.
        name: of the array and the files: lower case letters, digits and `_`.
        exits: how many it can answer at.
        score: what its thresholds are compared with.
        thresholds: the default for every exit but the last; inf and -inf are allowed.
        arena_bytes: RAM for the interpreter, for instance `total` of `arena.memory`.

    A program in C++ registers exactly the operators that the file uses::

        tflite::MicroMutableOpResolver<KWS_OPERATORS> resolver;
        KWS_REGISTER(resolver);
        alignas(16) static uint8_t arena[KWS_ARENA_BYTES];
        tflite::MicroInterpreter interpreter(tflite::GetModel(kws_model), resolver, arena, sizeof arena);

    Raises:
        BundleError: the file is damaged.
        ModelError: a name that is no identifier, numbers that do not fit each other or the file, a custom operator, or
            a file that a microcontroller cannot open.
    """
    if not _NAME.match(name):
        raise ModelError(f"{name!r} cannot name a C array: 1 to 63 of a-z 0-9 _, beginning with a letter")
    if exits < 1 or len(thresholds) != exits - 1:
        raise ModelError(f"{len(thresholds)} thresholds for {exits} exits; there is one for every exit but the last")
    if any(math.isnan(t) for t in thresholds):
        raise ModelError("a threshold is NaN; use inf to forbid an exit and -inf to force it")
    if arena_bytes < 1:
        raise ModelError(
            f"an arena of {arena_bytes} bytes; ask edgeexit_exporters.tflite.file.arena.memory for the size"
        )
    if not re.fullmatch(r"[a-z_0-9]{1,32}", score):
        raise ModelError(f"{score!r} is no score's name")
    model = file.model
    if len(reached(model, 0)) != len(model.subgraphs):
        raise ModelError(
            "the first subgraph does not run all others: split the signatures of a chain, or use the fused layout"
        )
    inputs, outputs = _ends(file)
    _check_fused(inputs, outputs, exits)
    return CSource(
        name,
        _header(name, len(file.data), exits, score, arena_bytes, inputs, outputs, _operators(model)),
        _source(name, file.data, thresholds),
    )


def c_source_of(bundle: Bundle) -> CSource:
    """The fused TFLite graph of a bundle as C, int8 where there is one.

    Default thresholds are those of the operating point that it is run with where none is named
    (`Bundle.default_point`); without one, no exit but the last answers.

    Raises:
        ModelError: no fused TFLite artifact, or see `c_source`.
    """
    fused = [a for a in bundle.manifest.artifacts if (a.format, a.layout) == ("tflite", "fused")]
    if not fused:
        raise ModelError(f"{bundle.path} holds no fused TFLite artifact to write as C")
    artifact = next((a for a in fused if a.precision == "int8"), fused[0])
    file = TfliteFile.open(bundle.file(artifact.models[0]))
    exits = len(bundle.manifest.exits)
    thresholds: tuple[float, ...] = (math.inf,) * (exits - 1)
    point = bundle.default_point(artifact.name)
    compared = None if point is None or point.policy.score != artifact.score else point.policy.graph_thresholds
    if compared is not None:
        thresholds = tuple(float(t) for t in compared)
    needed = memory(file)
    name = re.sub(r"[^a-z0-9_]+", "_", bundle.manifest.name.lower())
    name = name if name[:1].isalpha() else f"net_{name}"
    return c_source(file, name[:63], exits, artifact.score or "maxprob", thresholds, needed.arena + needed.tables)


def _ends(file: TfliteFile) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and outputs in the order in which an interpreter without signatures numbers them."""
    graph = file.model.subgraphs[0]
    named: dict[tuple[str, int], str] = {}
    for s in (s for s in file.signatures.values() if s.subgraph == 0):
        named |= {("in", t.index): n for n, t in s.inputs.items()} | {("out", t.index): n for n, t in s.outputs.items()}

    def all_of(side: str, numbers: Any) -> list[Tensor]:
        return [tensor(graph, i, named.get((side, i)) or text(graph.tensors[i].name)) for i in indices(numbers)]

    return all_of("in", graph.inputs), all_of("out", graph.outputs)


def _check_fused(inputs: list[Tensor], outputs: list[Tensor], exits: int) -> None:
    """A file with several exits must be a fused one, for as many."""
    thresholds = [t for t in inputs if t.name == THRESHOLDS]
    actual = thresholds[0].shape[0] + 1 if thresholds else 1
    if actual != exits:
        raise ModelError(f"the file decides between {actual} exits, not {exits}")
    if exits > 1 and tuple(t.name for t in outputs) != OUTPUTS:
        raise ModelError(f"the file has no {FUSED} outputs {', '.join(OUTPUTS)}; it has {[t.name for t in outputs]}")


def _operators(model: Model) -> list[str]:
    """The methods of TensorFlow Lite Micro's resolver that register what the file uses, in alphabetical order."""
    names = {n for i in range(len(model.subgraphs)) for n in op_counts(model, i)}
    unknown = sorted(n for n in names if not re.fullmatch("[A-Z0-9_]+", n))
    if unknown:
        raise ModelError(f"the .tflite uses {unknown[0]!r}, which is no builtin operator of TensorFlow Lite Micro")
    return sorted("Add" + _METHODS.get(n, "".join(part.capitalize() for part in n.split("_"))) for n in names)


def _header(
    name: str,
    size: int,
    exits: int,
    score: str,
    arena: int,
    inputs: list[Tensor],
    outputs: list[Tensor],
    operators: list[str],
) -> str:
    up = name.upper()
    lines = [
        "/* Made by EdgeExit. Do not edit. */",
        f"#ifndef {up}_H_",
        f"#define {up}_H_",
        "",
        f"#define {up}_MODEL_BYTES {size}",
        f"#define {up}_ARENA_BYTES {arena}",
        f"#define {up}_EXITS {exits}",
        f'#define {up}_SCORE "{score}"',
        f"#define {up}_SCORE_{score.upper()} 1",
    ]
    for side, tensors in (("INPUT", inputs), ("OUTPUT", outputs)):
        lines += ["", f"#define {up}_{side}S {len(tensors)}"]
        for i, t in enumerate(tensors):
            lines += _described(f"{up}_{side}_{i}", t)
    lines += ["", f"#define {up}_OPERATORS {len(operators)}", f"#define {up}_REGISTER(resolver) \\", "  do { \\"]
    lines += [f"    (resolver).{method}(); \\" for method in operators]
    lines += ["  } while (0)"]
    lines += [
        "",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
        f"extern const unsigned char {name}_model[{up}_MODEL_BYTES];",
    ]
    if exits > 1:
        lines.append(f"extern const float {name}_thresholds[{up}_EXITS - 1];")
    lines += ["", "#ifdef __cplusplus", "}", "#endif", "", f"#endif /* {up}_H_ */", ""]
    return "\n".join(lines)


def _described(prefix: str, t: Tensor) -> list[str]:
    count = math.prod(t.shape)
    lines = [
        f'#define {prefix}_NAME "{_quoted(t.name)}"',
        f'#define {prefix}_DTYPE "{t.dtype}"',
        f"#define {prefix}_RANK {len(t.shape)}",
        f"#define {prefix}_SHAPE {{{', '.join(map(str, t.shape))}}}",
        f"#define {prefix}_ELEMENTS {count}",
    ]
    if t.scale is not None:
        lines += [f"#define {prefix}_SCALE {_float(t.scale)}", f"#define {prefix}_ZERO_POINT ({t.zero_point})"]
    return lines


def _quoted(name: str) -> str:
    """A name for a C string: what would need escaping or begin a trigraph becomes `_`."""
    return re.sub(r"[^A-Za-z0-9_.:/+ -]", "_", name)


def _float(value: float) -> str:
    """A float32 as a C literal that reads back as the same bits."""
    if math.isinf(value):
        return "HUGE_VALF" if value > 0 else "-HUGE_VALF"
    short = np.format_float_scientific(np.float32(value), unique=True, trim="0")
    return f"{short}f"


def _source(name: str, data: bytes, thresholds: Sequence[float]) -> str:
    lines = [
        "/* Made by EdgeExit. Do not edit. */",
        f'#include "{name}.h"',
        "",
        "#include <math.h>",
        "",
        "#if defined(__cplusplus)",
        "#define EDGEEXIT_ALIGNED alignas(16)",
        "#elif defined(__GNUC__)",
        "#define EDGEEXIT_ALIGNED __attribute__((aligned(16)))",
        "#else",
        "#define EDGEEXIT_ALIGNED _Alignas(16)",
        "#endif",
        "",
    ]
    if thresholds:
        values = ", ".join(_float(float(np.float32(t))) for t in thresholds)
        lines += [f"const float {name}_thresholds[{name.upper()}_EXITS - 1] = {{{values}}};", ""]
    lines.append(f"EDGEEXIT_ALIGNED const unsigned char {name}_model[{name.upper()}_MODEL_BYTES] = {{")
    for i in range(0, len(data), _PER_LINE):
        lines.append("  " + ", ".join(f"0x{b:02x}" for b in data[i : i + _PER_LINE]) + ",")
    return "\n".join([*lines, "};", ""])
