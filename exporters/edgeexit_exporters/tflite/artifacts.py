"""TFLite files of every layout, compared with the source model by the engine that will run them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgeexit.bundle.bundle import describe
from edgeexit.bundle.manifest import Artifact, Check, Manifest
from edgeexit.engine import backends
from edgeexit.engine.layouts import Driver, drive
from edgeexit.errors import ModelError
from edgeexit_exporters.analysis.analysis import Analysis
from edgeexit_exporters.analysis.answers import Answer, vectors
from edgeexit_exporters.analysis.tolerance import Tolerance, tolerance_for
from edgeexit_exporters.artifact_set import ArtifactSet
from edgeexit_exporters.layouts import check
from edgeexit_exporters.layouts.failures import LayoutFailures
from edgeexit_exporters.tflite.buckets import (
    CHAIN_ONLY,
    bucket_answers,
    bucket_axis,
    convert_buckets,
    divide_buckets,
)
from edgeexit_exporters.tflite.convert import convert_chain, convert_prefixes, convert_stage_files
from edgeexit_exporters.tflite.file.arena import Memory, memory, stage_memory
from edgeexit_exporters.tflite.file.tflite_file import TfliteFile
from edgeexit_exporters.tflite.from_torch.stages import TorchStages, divide
from edgeexit_exporters.tflite.fuse import fuse
from edgeexit_exporters.tflite.quantize import PrecisionFile, quantize_chain, quantize_prefixes
from edgeexit_exporters.tflite.tensors import as_file, cuts, ports

Arrays = Mapping[str, NDArray[Any]]
LAYOUTS = ("fused", "chain", "prefix")
"""There is no file of all exits: chain records them as well."""
PRECISIONS = ("int8", "int16x8", "int8-dynamic", "weight-only")
"""Besides fp32."""
_TOLERANCE = {"int16x8": 1e-2}
_KERNELS = 5e-2
"""Of the 8-bit precisions: between the kernels of two engines or processors, as a fraction of the largest output."""


def tflite_artifacts(
    known: Analysis,
    layouts: Sequence[str],
    score: str,
    precisions: Sequence[str],
    rows: Arrays | None = None,
    *,
    ranges: str = "minmax",
    stage_files: bool = False,
    allow_float: Sequence[str] = (),
    buckets: Sequence[int] = (),
    tolerance: float | None = None,
    named: bool = True,
    progress: Callable[[str], None] = lambda text: None,
) -> ArtifactSet:
    """Convert, quantize, fuse and check.

    What quantized files are compared with is the quantized chain: all layouts of one precision answer alike. How far
    they are from the float network is measured by `refit`.

    Args:
        known: of the float network, which must come from a torch module.
        layouts: which of `LAYOUTS`; `all` is left out beside them.
        score: inside the fused graph.
        precisions: "fp32" and any of `PRECISIONS`.
        rows: calibration inputs by name, as the network takes them.
        ranges: how activations' ranges are found; see `tflite.quantize`.
        stage_files: the chain as one file per stage, for devices that never run the last stages.
        allow_float: operations that may stay float in int8 files.
        buckets: rising sizes for the one free axis of the inputs; see `buckets`.
        tolerance: see `exporting.export`.
        named: the user named the layouts, so that one that fails is an error; see `LayoutFailures`.
        progress: called with each step's name.

    Raises:
        ModelError: an ONNX source, an operation that cannot be converted or would stay in float, a score that the
            fused graph cannot hold.
        DataError: calibration rows that do not fit.
        ExportMismatch: an exit differs.
        BackendMissing: no converter or no engine.
    """
    source = known.source
    if source.module is None:
        raise ModelError(
            "TFLite files are made from torch modules; no kept converter brings a bare .onnx to TFLite beside this "
            "toolkit's libraries (onnx2tf needs an environment of its own, with one signature per file): give the "
            "torch module, or export --format onnx"
        )
    wanted = [w for w in LAYOUTS if w in layouts]
    axis = bucket_axis(source, known.manifest, buckets, precisions) if buckets else ""
    if buckets and wanted != ["chain"]:
        if "chain" not in wanted:
            raise ModelError(f"no TFLite layout {' or '.join(wanted)}: {CHAIN_ONLY}. Add chain to --layouts")
        progress(f"note: TFLite {CHAIN_ONLY}")
        wanted = ["chain"]
    _check(known.manifest, wanted)
    engine = backends.get("tflite")
    progress("dividing the torch module into stages")
    by_size = divide_buckets(source, axis, buckets)
    stages = (
        by_size[0] if buckets else divide(source.module, source.inputs, source.exits, source.joint.kinds, source.picks)
    )
    progress("converting to TFLite")
    if buckets:
        one = [convert_buckets(by_size, axis, buckets)]
    else:
        one = [convert_chain(stages)] if not stage_files or "fused" in wanted else []
    chain = convert_stage_files(stages) if stage_files and not buckets else one
    prefixes = convert_prefixes(stages) if "prefix" in wanted else []
    artifact_set = ArtifactSet()
    for layer in stages.unrolled:
        note = (
            f"{layer} is written out step by step: a large file, which TFLite Micro refuses. Give it one step, "
            "with its states as inputs and outputs (`states`, see from_torch), to avoid that"
        )
        progress(f"note: {note}")
        artifact_set.remarks.append(note)
    for precision in precisions:
        progress(f"TFLite {precision}: quantizing" if precision != "fp32" else "TFLite fp32")
        fused = one if "fused" in wanted else []
        failures = LayoutFailures(named)
        files = _files(
            stages, known.manifest, fused, chain, prefixes, precision, score, rows, ranges, allow_float, failures
        )  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="edgeexit-") as folder:
            sizes = {axis: tuple(buckets)} if buckets else {}
            _artifacts(
                artifact_set, known, stages, files, precision, score, Path(folder), engine, wanted, sizes, tolerance,
                failures, progress,
            )  # fmt: skip
        artifact_set.left_out |= failures.check(progress)
    # The chain comes first, as the others are compared with it; a device should find `fused` first.
    artifact_set.artifacts.sort(key=lambda a: (list(precisions).index(a.precision), LAYOUTS.index(a.layout)))
    return artifact_set


def _check(manifest: Manifest, wanted: Sequence[str]) -> None:
    if not wanted:
        raise ModelError(
            f"no TFLite file holds all exits; add a layout of {', '.join(LAYOUTS)} (chain records them all)"
        )
    if "fused" in wanted and any(len(e.outputs) > 1 for e in manifest.exits):
        raise ModelError(
            "a fused TFLite graph gives an answer and a score, and an exit of this network gives more (an uncertainty "
            "or a learned score): ask for --layouts chain,prefix"
        )


def _files(
    stages: TorchStages, manifest: Manifest, one: list[TfliteFile], chain: list[TfliteFile],
    prefixes: list[TfliteFile], precision: str, score: str, rows: Arrays | None, ranges: str, allow: Sequence[str],
    failures: LayoutFailures,
) -> dict[str, list[PrecisionFile]]:  # fmt: skip
    """Layout -> its files."""
    joined, by_stage, by_exit = ([PrecisionFile(f) for f in files] for files in (one, chain, prefixes))
    if precision != "fp32":
        last = None if rows is None else {e.name: as_file(rows[e.name], e) for e in stages.inputs}
        by_stage = quantize_chain(chain, last, precision, ranges, allow_float=allow)
        joined = by_stage
        if one is not chain:
            joined = quantize_chain(one, last, precision, ranges, allow_float=allow) if one else []
        by_exit = quantize_prefixes(prefixes, last, precision, ranges, allow_float=allow)
    files = {"chain": by_stage, "prefix": by_exit}
    if joined:
        kinds: list[Any] = [e.kind for e in manifest.exits]
        with failures.attempt("fused", f"tflite-fused-{precision}"):
            fused = fuse(joined[0].file, [e.answer.name for e in manifest.exits], score, kinds=kinds)
            files["fused"] = [PrecisionFile(fused, joined[0].counts)]
    return files


def _artifacts(
    artifact_set: ArtifactSet, known: Analysis, stages: TorchStages, by_layout: Mapping[str, list[PrecisionFile]],
    precision: str, score: str, folder: Path, engine: backends.Backend, wanted: Sequence[str], sizes: Mapping[str, tuple[int, ...]], tolerance: float | None,
    failures: LayoutFailures, progress: Callable[[str], None],
) -> None:  # fmt: skip
    manifest = known.manifest
    carried = cuts([f.file for f in by_layout["chain"]], manifest)
    reference: Callable[[Arrays], Arrays] | None = None
    answers = [a for a in known.answers if a.batch == 1]
    for axis, buckets in sizes.items():
        answers = bucket_answers(known.source, manifest, known.answers, axis, buckets)
    vectors_path = f"vectors/tflite-{precision}.npz"
    for layout in ("chain", *(w for w in wanted if w != "chain" and w in by_layout)):
        name = f"tflite-{layout}-{precision}"
        progress(f"checking {name}")
        with failures.attempt(layout, name, needed=layout == "chain"):
            files = [f.file for f in by_layout[layout]]
            paths = _written(folder / layout, files, layout)
            draft = Artifact(
                name, "tflite", layout, precision, score if layout == "fused" else None, (1.0,) * len(manifest.exits),
                tuple(describe(f"artifacts/{name}/{p.name}", p.read_bytes()) for p in paths), batch="one", cuts=carried,
                ports=ports(files, stages, manifest), sizes=sizes,
            )  # fmt: skip
            driver = drive(manifest, draft, paths, engine)
            if reference is None:
                reference = _reference(driver, manifest)
                if precision != "fp32":
                    answers = [Answer(a.inputs, reference(a.inputs), 1) for a in answers]
                artifact_set.contents[vectors_path] = vectors(
                    known.source, manifest, score, reference if precision != "fp32" else None
                )
            if layout not in wanted:
                continue
            allowed = _tolerance(precision, layout, known.rounding, tolerance)
            errors = check.Comparison(name, manifest.exits, allowed, states=manifest.states)
            for answer in answers:
                outputs = _reference(driver, manifest)(answer.inputs)
                for k in range(len(manifest.exits)):
                    errors.add(k, outputs, answer)
            errors.check()
            artifact_set.contents.update({f"artifacts/{name}/{p.name}": p.read_bytes() for p in paths})
            spec = describe(vectors_path, artifact_set.contents[vectors_path])
            compared = Check(allowed.stated, errors.errors, errors.inputs)
            artifact_set.artifacts.append(replace(draft, vectors=spec, check=compared))
            if counts := [c for f in by_layout[layout] for c in f.counts]:
                artifact_set.kernels[name] = [[c.quantized, c.total] for c in counts]
            artifact_set.memory[name] = [_memory(m) for m in _memories(layout, files)]


def _tolerance(precision: str, layout: str, rounding: Sequence[float], asked: float | None) -> Tolerance:
    """Files of one precision are compared with the source model in fp32, else with the quantized chain."""
    if asked is not None or precision == "fp32":
        return tolerance_for("fp32", rounding, asked)
    stated = _TOLERANCE.get(precision, _KERNELS)
    return Tolerance(stated, stated if layout == "prefix" else min(stated, 1e-4))


def _reference(driver: Driver, manifest: Manifest) -> Callable[[Arrays], dict[str, NDArray[Any]]]:
    """Inputs -> what every exit gives, by name."""

    def run(inputs: Arrays) -> dict[str, NDArray[Any]]:
        given = driver.all_exits([inputs[t.name] for t in manifest.feeds])
        found = dict(given.states)
        for k, exit in enumerate(manifest.exits):
            found[exit.answer.name] = given.outputs[k]
            counts = None if given.lengths is None else given.lengths[k]
            extras = (
                (exit.uncertainty, given.uncertainties[k]),
                (exit.learned, given.learned[k]),
                (exit.lengths, counts),
            )
            for name, values in extras:
                if name is not None and values is not None:
                    found[name] = values
        return found

    return run


def _written(folder: Path, files: Sequence[TfliteFile], layout: str) -> list[Path]:
    folder.mkdir()
    stem = {"prefix": "exit", "chain": "stage"}.get(layout, "model")
    names = ["model.tflite"] if len(files) == 1 and layout != "prefix" else []
    names = names or [f"{stem}_{k}.tflite" for k in range(len(files))]
    for name, file in zip(names, files, strict=True):
        (folder / name).write_bytes(file.data)
    return [folder / name for name in names]


def _memories(layout: str, files: Sequence[TfliteFile]) -> list[Memory]:
    if layout == "chain" and len(files) == 1:
        return list(stage_memory(files[0]).values())
    return [memory(file) for file in files]


def _memory(m: Memory) -> dict[str, int]:
    return {"flash": m.flash, "arena": m.arena, "tables": m.total - m.arena}
