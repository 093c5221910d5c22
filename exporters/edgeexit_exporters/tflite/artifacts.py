"""TFLite artifacts of every layout, compared with the source model by the engine that will run them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgeexit.bundle.files import describe
from edgeexit.bundle.layouts import LAYOUTS, Layout
from edgeexit.bundle.manifest import Artifact, Check, Manifest
from edgeexit.engine import backends
from edgeexit.engine.layouts import Driver, drive
from edgeexit.errors import ModelError
from edgeexit_exporters.analysis.analysis import Analysis
from edgeexit_exporters.analysis.answers import SourceAnswer, vectors
from edgeexit_exporters.analysis.tolerance import Tolerance, tolerance_for
from edgeexit_exporters.artifact_set import ArtifactSet
from edgeexit_exporters.layouts import check
from edgeexit_exporters.layouts.failures import LayoutFailures
from edgeexit_exporters.spec import FORMATS, ExportSpec, in_order
from edgeexit_exporters.tflite.buckets import CHAIN_ONLY, bucket_answers, bucket_axis
from edgeexit_exporters.tflite.file.arena import MemoryPlan, memory, stage_memory
from edgeexit_exporters.tflite.file.tflite_file import TfliteFile
from edgeexit_exporters.tflite.layouts import REFERENCE, TFLITE_LAYOUTS
from edgeexit_exporters.tflite.stage_files import StageFiles, convert
from edgeexit_exporters.tflite.tensors import cuts, ports

Arrays = Mapping[str, NDArray[Any]]
_TOLERANCE = {"int16x8": 1e-2}
_KERNELS = 5e-2
"""Of the 8-bit precisions: between the kernels of two engines or processors, as a fraction of the largest output."""


def tflite_artifacts(
    analysis: Analysis,
    layouts: Sequence[str],
    spec: ExportSpec,
    rows: Arrays | None = None,
    *,
    progress: Callable[[str], None] = lambda text: None,
) -> ArtifactSet:
    """Convert, quantize, fuse and check.

    What quantized files are compared with is the quantized chain: all layouts of one precision answer alike. How far
    they are from the float network is measured by `refit`.

    Args:
        analysis: of the float network, which must come from a torch module.
        layouts: that can hold the network; those that TFLite has not (`TFLITE_LAYOUTS`) are left out beside others.
        spec: score, precisions, tolerance and the rest.
        rows: calibration inputs by name, as the network takes them.
        progress: called with each step's name.

    Raises:
        ModelError: an ONNX source, an operation that cannot be converted or would stay in float, a score that the
            fused graph cannot hold.
        DataError: calibration rows that do not fit.
        ExportMismatch: an exit differs.
        BackendMissing: no converter or no engine.
    """
    if analysis.source.module is None:
        raise ModelError(
            "TFLite files are made from torch modules; no kept converter brings a bare .onnx to TFLite beside this "
            "toolkit's libraries (onnx2tf needs an environment of its own, with one signature per file): give the "
            "torch module, or export --format onnx"
        )
    manifest = analysis.manifest
    precisions = [p for p in spec.precisions if p in FORMATS["tflite"]]
    wanted = [name for name in in_order(layouts) if name in TFLITE_LAYOUTS]
    axis = bucket_axis(analysis.source, manifest, spec.buckets, precisions) if spec.buckets else ""
    if axis and wanted != [REFERENCE]:
        if REFERENCE not in wanted:
            raise ModelError(f"no TFLite layout {' or '.join(wanted)}: {CHAIN_ONLY}. Add chain to --layouts")
        progress(f"note: TFLite {CHAIN_ONLY}")
        wanted = [REFERENCE]
    _check(manifest, wanted)
    engine = backends.get("tflite")
    floats = convert(analysis, {TFLITE_LAYOUTS[w].parts for w in wanted}, spec, axis, progress)
    artifact_set = ArtifactSet()
    for layer in floats.stages.unrolled:
        note = (
            f"{layer} is written out step by step: a large file, which TFLite Micro refuses. Give it one step, "
            "with its states as inputs and outputs (`states`, see from_torch), to avoid that"
        )
        progress(f"note: {note}")
        artifact_set.remarks.append(note)
    answers = [a for a in analysis.answers if a.batch == 1]
    if axis:
        answers = bucket_answers(analysis.source, manifest, analysis.answers, axis, spec.buckets)
    sizes = {axis: tuple(spec.buckets)} if axis else {}
    for precision in precisions:
        progress(f"TFLite {precision}: quantizing" if precision != "fp32" else "TFLite fp32")
        files = floats if precision == "fp32" else floats.quantized(precision, rows, spec)
        artifact_set.add(_Checked(analysis, spec, precision, files, engine, answers, sizes).write(wanted, progress))
    # The chain comes first, as the others are compared with it; a device should find `fused` first.
    artifact_set.artifacts.sort(key=lambda a: (precisions.index(a.precision), in_order(wanted).index(a.layout)))
    return artifact_set


def _check(manifest: Manifest, wanted: Sequence[str]) -> None:
    if not wanted:
        raise ModelError(
            f"no TFLite file holds all exits; add a layout of {', '.join(TFLITE_LAYOUTS)} (chain records them all)"
        )
    if any(LAYOUTS[name].scored for name in wanted) and any(len(e.outputs) > 1 for e in manifest.exits):
        raise ModelError(
            "a fused TFLite graph gives an answer and a score, and an exit of this network gives more (an uncertainty "
            "or a learned score): ask for --layouts chain,prefix"
        )


@dataclass
class _Checked:
    """The artifacts of one precision, compared with the source model in fp32, else with the quantized chain."""

    analysis: Analysis
    spec: ExportSpec
    precision: str
    files: StageFiles
    engine: backends.Backend
    answers: list[SourceAnswer]
    """Of the source model, single inputs."""
    sizes: Mapping[str, tuple[int, ...]]

    def write(self, wanted: Sequence[str], progress: Callable[[str], None]) -> ArtifactSet:
        """The wanted layouts; the chain is built in any case.

        Raises:
            ModelError, ExportMismatch: see `LayoutFailures`.
        """
        artifact_set, failures = ArtifactSet(), LayoutFailures(self.spec.layouts is not None)
        with tempfile.TemporaryDirectory(prefix="edgeexit-") as folder:
            for name in (REFERENCE, *(w for w in wanted if w != REFERENCE)):
                artifact = f"tflite-{name}-{self.precision}"
                progress(f"checking {artifact}")
                with failures.attempt(name, artifact, needed=name == REFERENCE):
                    self._write(LAYOUTS[name], artifact, name in wanted, Path(folder, name), artifact_set)
        artifact_set.left_out |= failures.check(progress)
        return artifact_set

    def _write(self, row: Layout, name: str, keep: bool, folder: Path, artifact_set: ArtifactSet) -> None:
        manifest, source = self.analysis.manifest, self.analysis.source
        built = TFLITE_LAYOUTS[row.name].files(self.files, manifest.exits, self.spec.score)
        files = [f.file for f in built]
        paths = _write_files(folder, files, row)
        draft = Artifact(
            name, "tflite", row.name, self.precision, self.spec.score if row.scored else None,
            (1.0,) * len(manifest.exits),
            tuple(describe(f"artifacts/{name}/{p.name}", f.data) for p, f in zip(paths, files, strict=True)),
            batch="one", cuts=cuts([f.file for f in self.files.chain], manifest),
            ports=ports(files, self.files.stages, manifest), sizes=self.sizes,
        )  # fmt: skip
        run = _reference(drive(manifest, draft, paths, self.engine), manifest)
        vectors_path = f"vectors/tflite-{self.precision}.npz"
        if row.name == REFERENCE:
            quantized = None if self.precision == "fp32" else run
            if quantized is not None:
                self.answers = [SourceAnswer(a.inputs, quantized(a.inputs), 1) for a in self.answers]
            artifact_set.contents[vectors_path] = vectors(source, manifest, self.spec.score, quantized)
        if not keep:
            return
        allowed = _tolerance(self.precision, row, self.analysis.rounding, self.spec.tolerance)
        errors = check.ArtifactComparison(name, manifest.exits, allowed, states=manifest.states)
        for answer in self.answers:
            outputs = run(answer.inputs)
            for k in range(len(manifest.exits)):
                errors.add(k, outputs, answer)
        errors.check()
        artifact_set.contents.update({d.path: f.data for d, f in zip(draft.models, files, strict=True)})
        shipped = describe(vectors_path, artifact_set.contents[vectors_path])
        compared = Check(allowed.stated, errors.errors, errors.inputs)
        artifact_set.artifacts.append(replace(draft, vectors=shipped, check=compared))
        if counts := [c for f in built for c in f.counts]:
            artifact_set.kernels[name] = [[c.quantized, c.total] for c in counts]
        artifact_set.memory[name] = [_numbers(m) for m in _memories(row, files)]


def _tolerance(precision: str, row: Layout, rounding: Sequence[float], asked: float | None) -> Tolerance:
    """Files of one precision are compared with the source model in fp32, else with the quantized chain."""
    if asked is not None or precision == "fp32":
        return tolerance_for("fp32", rounding, asked)
    stated = _TOLERANCE.get(precision, _KERNELS)
    return Tolerance(stated, stated if row.self_contained else min(stated, 1e-4))


def _reference(driver: Driver, manifest: Manifest) -> Callable[[Arrays], dict[str, NDArray[Any]]]:
    """Inputs -> what every exit gives, by name."""

    def run(inputs: Arrays) -> dict[str, NDArray[Any]]:
        given = driver.all_exits([inputs[t.name] for t in manifest.feeds])
        outputs = dict(given.states)
        for k, exit in enumerate(manifest.exits):
            outputs[exit.answer.name] = given.outputs[k]
            counts = None if given.lengths is None else given.lengths[k]
            extras = (
                (exit.uncertainty, given.uncertainties[k]),
                (exit.learned, given.learned[k]),
                (exit.lengths, counts),
            )
            for name, values in extras:
                if name is not None and values is not None:
                    outputs[name] = values
        return outputs

    return run


def _write_files(folder: Path, files: Sequence[TfliteFile], row: Layout) -> list[Path]:
    folder.mkdir()
    stem = TFLITE_LAYOUTS[row.name].stem
    alone = len(files) == 1 and not row.self_contained
    paths = [folder / ("model.tflite" if alone else f"{stem}_{k}.tflite") for k in range(len(files))]
    for path, file in zip(paths, files, strict=True):
        path.write_bytes(file.data)
    return paths


def _memories(row: Layout, files: Sequence[TfliteFile]) -> list[MemoryPlan]:
    """Per file; per signature of one that several networks share."""
    if row.one_file and len(files) == 1:
        return list(stage_memory(files[0]).values())
    return [memory(file) for file in files]


def _numbers(m: MemoryPlan) -> dict[str, int]:
    return {"flash": m.flash, "arena": m.arena, "tables": m.total - m.arena}
