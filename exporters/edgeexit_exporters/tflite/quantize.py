"""Quantization of float .tflite files with ai-edge-quantizer and our own ranges.

Stages pass integers on: a cut tensor has one scale and zero point on both its sides, or there is no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError, ModelError
from edgeexit_exporters.spec import LEAST_ROWS
from edgeexit_exporters.tflite import tools
from edgeexit_exporters.tflite.bounds import probability_bounds
from edgeexit_exporters.tflite.calibration import FloatChain, Linked, check_rows, linked
from edgeexit_exporters.tflite.counts import Counts, count
from edgeexit_exporters.tflite.file.checked import text
from edgeexit_exporters.tflite.file.flatbuffer import inlined
from edgeexit_exporters.tflite.file.signatures import Tensor
from edgeexit_exporters.tflite.file.tflite_file import TfliteFile
from edgeexit_exporters.tflite.ranges import estimate

PRECISIONS = {
    "int8": "static_wi8_ai8",
    "int16x8": "static_wi8_ai16",
    "int8-dynamic": "dynamic_wi8_afp32",
    "weight-only": "weight_only_wi8_afp32",
}
"""Our name -> the quantizer's recipe. The first two compute in integers only; the others take and give floats."""
_BITS = {"int8": 8, "int16x8": 16}
_NO_POWER = {"int8": 1.0, "int16x8": 1.01}
"""Factor of known ranges: the engine's 16-bit sums fail where all scales are powers of two, or nearly."""
_ULPS = 1e-6
"""Relative difference of scales that is rounding: then the producer's scale is written into the reader."""

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class PrecisionFile:
    """A file in one precision."""

    file: TfliteFile
    counts: tuple[Counts, ...] = ()
    """Per signature, in the order of the chain; empty = in float."""


@dataclass(frozen=True)
class Scale:
    """How a tensor's integers are read: `(integer - zero_point) * scale`."""

    scale: float
    zero_point: int


def quantize_chain(
    files: Sequence[TfliteFile],
    rows: Arrays | None,
    precision: str = "int8",
    ranges: str = "minmax",
    least_rows: int = LEAST_ROWS,
    allow_float: Sequence[str] = (),
) -> list[PrecisionFile]:
    """Quantize float files that follow each other: one with a signature per stage, a file per stage, or one prefix.

    Args:
        files: of `convert_chain`, `convert_stage_files`, or one of `convert_prefixes`.
        rows: calibration inputs by model input name, `(n, ...)`, as the files take them (pictures channels last); None
            where `precision` needs none.
        precision: one of `PRECISIONS`.
        ranges: how activations' ranges are estimated, one of `ranges.METHODS`.
        least_rows: fewer rows are refused.
        allow_float: operations that may stay in float in a static file, e.g. "GATHER".

    Raises:
        DataError: calibration data that does not fit; unknown `precision` or `ranges`.
        ModelError: an operation would stay in float, a file cannot be quantized, or scales differ across a cut.
        BackendMissing: no quantizer or interpreter, or another version of it.
    """
    if precision not in PRECISIONS:
        raise DataError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    static = precision in _BITS
    if not static:
        return _counted([_quantize(f, precision, None) for f in files], precision, allow_float)
    if rows is None:
        raise DataError(f"precision {precision} needs calibration data: at least {least_rows} real inputs")
    chain = FloatChain(files)
    data = check_rows(rows, chain.inputs, least_rows)
    estimates = estimate(lambda: ((f"{f}/{n}", a) for f, n, a in chain.values(data)), ranges, 2 ** _BITS[precision])
    limits: list[dict[str, tuple[float, float]]] = [{} for _ in files]
    for key, limit in estimates.items():
        file, _, name = key.partition("/")
        limits[int(file)][name] = limit
    for own, model in zip(limits, chain.models, strict=True):
        own.update({n: (low, high * _NO_POWER[precision]) for n, (low, high) in probability_bounds(model).items()})
    return _counted(_pinned(files, precision, limits), precision, allow_float)


def quantize_prefixes(
    files: Sequence[TfliteFile],
    rows: Arrays | None,
    precision: str = "int8",
    ranges: str = "minmax",
    least_rows: int = LEAST_ROWS,
    allow_float: Sequence[str] = (),
) -> list[PrecisionFile]:
    """Quantize files that each stand for themselves (`convert_prefixes`); arguments and errors as `quantize_chain`."""
    return [quantize_chain([f], rows, precision, ranges, least_rows, allow_float)[0] for f in files]


def _scales(tensors: Mapping[str, Tensor]) -> dict[str, Scale | None]:
    return {
        n: None if t.scale is None or t.zero_point is None else Scale(t.scale, t.zero_point) for n, t in tensors.items()
    }


def _quantize(file: TfliteFile, precision: str, limits: Mapping[str, tuple[float, float]] | None) -> TfliteFile:
    lib = tools.quantizer()
    statistics = None
    if limits is not None:
        statistics = {
            n: {"min": np.array([[low]], np.float32), "max": np.array([[high]], np.float32)}
            for n, (low, high) in limits.items()
        }
    try:
        with tools.quiet():
            recipe = getattr(tools.recipes(), PRECISIONS[precision])()
            quantizer = lib.Quantizer(bytearray(file.data), recipe)
            result = quantizer.quantize(statistics, enable_progress_bar=False, enable_progress_report=False)
        return TfliteFile(inlined(bytes(result.quantized_model)))
    except Exception as e:
        raise ModelError(f"ai-edge-quantizer cannot make {precision} of it: {' '.join(str(e).split())[:300]}") from e


def _pinned(
    files: Sequence[TfliteFile], precision: str, limits: list[dict[str, tuple[float, float]]]
) -> list[TfliteFile]:
    """Quantize until every cut tensor has one scale: a reader with another gets its producer's range, in order.

    They differ where the producer's scale is fixed (tanh, sigmoid, softmax) or taken over from its input (max pooling).
    """
    quantized = [_quantize(f, precision, own) for f, own in zip(files, limits, strict=True)]
    pinned: set[tuple[int, str, str]] = set()
    while True:
        unequal = _unequal(linked(quantized))
        if not unequal:
            return quantized
        first = unequal[0][0]
        again: set[int] = set()
        for reader, name, wanted, own in (u for u in unequal if u[0] is first):
            key = (reader.file, reader.name, name)
            if own is not None and wanted is not None and _close(wanted, own):
                quantized[reader.file] = _write_scale(quantized[reader.file], reader, name, wanted.scale)
            elif key in pinned or wanted is None:
                raise ModelError(
                    f"{reader.name}: cut tensor {name!r} is read with {_scale_text(own)} and made with "
                    f"{_scale_text(wanted)}: the quantizer does not give both sides one scale. Cut elsewhere, or "
                    "export the files as prefixes"
                )
            else:
                pinned.add(key)
                limits[reader.file][_float_name(files[reader.file], reader, name)] = _range(wanted, precision)
                again.add(reader.file)
        for file in again:
            quantized[file] = _quantize(files[file], precision, limits[file])


def _unequal(chain: Sequence[Linked]) -> list[tuple[Linked, str, Scale | None, Scale | None]]:
    known: dict[str, Scale | None] = {}
    unequal = []
    for signature in chain:
        for name, scale in _scales(signature.inputs).items():
            if name not in known:
                known[name] = scale  # a model input: later stages read it with the same scale too
            elif known[name] != scale:
                unequal.append((signature, name, known[name], scale))
        known.update(_scales(signature.outputs))
    return unequal


def _close(a: Scale, b: Scale) -> bool:
    return a.zero_point == b.zero_point and abs(a.scale - b.scale) <= _ULPS * a.scale


def _range(scale: Scale, precision: str) -> tuple[float, float]:
    if precision == "int16x8":
        return -32767 * scale.scale, 32767 * scale.scale
    return (-128 - scale.zero_point) * scale.scale, (127 - scale.zero_point) * scale.scale


def _float_name(file: TfliteFile, reader: Linked, name: str) -> str:
    """The input tensor's name in the float file; the quantizer may have put another in its place."""
    own = file.signatures[reader.name]
    return text(file.model.subgraphs[own.subgraph].tensors[own.inputs[name].index].name)


def _write_scale(file: TfliteFile, reader: Linked, name: str, scale: float) -> TfliteFile:
    """The file with one number changed."""
    raw = bytearray(file.data)
    tensor = tools.schema().Model.GetRootAs(raw, 0).Subgraphs(reader.subgraph).Tensors(reader.inputs[name].index)
    tensor.Quantization().ScaleAsNumpy()[0] = scale
    return TfliteFile(bytes(raw))


def _scale_text(scale: Scale | None) -> str:
    return "no scale (float)" if scale is None else f"scale {scale.scale:.6g}, zero point {scale.zero_point}"


def _counted(files: Sequence[TfliteFile], precision: str, allow_float: Sequence[str]) -> list[PrecisionFile]:
    static = precision in _BITS
    by_file: list[list[Counts]] = [[] for _ in files]
    for signature in linked(files):
        counts = count(files[signature.file].model, signature, static)
        left = [(op, tensor) for op, tensor in counts.floats if op not in allow_float]
        if static and left:
            ops = list(dict.fromkeys(op for op, _ in left))
            raise ModelError(
                f"{signature.name}: {len(left)} of {counts.total} operations would stay in float ({', '.join(ops)}; "
                f"first {left[0][0]} for {left[0][1]!r}): the quantizer has no {precision} for them. Replace them in "
                f"the model, allow them by name ({' '.join(f'--keep-float {op}' for op in ops)}), or use precision "
                "int8-dynamic"
            )
        if not static and not counts.quantized:
            raise ModelError(
                f"{signature.name}: no weight was quantized ({precision}); it has {counts.total} operations"
            )
        by_file[signature.file].append(counts)
    return [PrecisionFile(f, tuple(c)) for f, c in zip(files, by_file, strict=True)]
