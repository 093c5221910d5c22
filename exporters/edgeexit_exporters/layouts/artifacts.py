"""ONNX files of every layout, compared with the source model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from edgeexit.bundle.files import describe
from edgeexit.bundle.manifest import NETWORK_LAYOUTS, Artifact, Check
from edgeexit.errors import ExportMismatch
from edgeexit_exporters.analysis import describe as describing
from edgeexit_exporters.analysis.analysis import Analysis, stages_of
from edgeexit_exporters.analysis.answers import vectors
from edgeexit_exporters.analysis.tolerance import tolerance_for
from edgeexit_exporters.artifact_set import ArtifactSet
from edgeexit_exporters.int8 import kernels
from edgeexit_exporters.layouts import build as building
from edgeexit_exporters.layouts import check, sherpa
from edgeexit_exporters.layouts.entries import entries
from edgeexit_exporters.layouts.failures import LayoutFailures
from edgeexit_exporters.layouts.fuse import check_one_output
from edgeexit_exporters.layouts.sherpa import Contract
from edgeexit_exporters.source.source import Source
from edgeexit_exporters.stages import Stage


def onnx_artifacts(
    known: Analysis,
    layouts: Sequence[str],
    score: str,
    *,
    tolerance: float | None = None,
    exact: Sequence[int] = (),
    named: bool = True,
    progress: Callable[[str], None] = lambda text: None,
) -> ArtifactSet:
    """Write and check the layouts of one precision.

    Args:
        known: of the network; quantised already where int8 is wanted.
        layouts: of `edgeexit.bundle.manifest.NETWORK_LAYOUTS`.
        score: inside the fused graph.
        tolerance: see `exporting.export`.
        exact: exits that are computed as in the source model, so that they may differ in their last bits at most.
        named: the user named the layouts, so that one that fails is an error; see `LayoutFailures`.
        progress: called with each step's name.

    Raises:
        ModelError: a layout cannot hold this network, or a stage would run in float where int8 was asked.
        ExportMismatch: an exit differs from the source model.
    """
    if "fused" in layouts:
        check_one_output(known.manifest.exits)
    source, exits = known.source, known.manifest.exits
    precision = describing.precision(source)
    allowed = tolerance_for(precision, known.rounding, tolerance)
    vectors_path = f"vectors/onnx-{precision}.npz"
    made = ArtifactSet({vectors_path: vectors(source, known.manifest, score)})
    contract = _contract(known, progress) if "prefix" in layouts else None
    failures = LayoutFailures(named)
    for layout in [w for w in NETWORK_LAYOUTS if w in layouts]:
        name = f"onnx-{layout}-{precision}"
        progress(f"writing and checking {name}")
        with failures.attempt(layout, name):
            comparison = check.Comparison(name, exits, allowed, score, exact, known.manifest.states)
            own = contract if layout == "prefix" else None
            files, comparison = _built(layout, known, comparison, own)
            if source.quantized is not None:
                ran = kernels.count_kernels(layout, files)
                kernels.check_kernels(name, ran, source.quantized.kept)
                made.kernels[name] = [[stage.quantized, stage.compute] for stage in ran]
            made.contents.update({f"artifacts/{name}/{n}": raw for n, raw in files.items()})
            described = [describe(f"artifacts/{name}/{n}", raw) for n, raw in files.items()]
            made.artifacts.append(
                Artifact(
                    name,
                    "onnx",
                    layout,
                    precision,
                    score if layout == "fused" else None,
                    (1.0,) * len(exits),
                    tuple(f for f in described if f.path.endswith(".onnx")),
                    tuple(f for f in described if not f.path.endswith(".onnx")),
                    vectors=describe(vectors_path, made.contents[vectors_path]),
                    check=Check(allowed.stated, comparison.errors, comparison.inputs),
                    cuts=None if source.quantized is None else known.manifest.cuts,
                    ports=() if own is None else own.ports(exits),
                )
            )
    made.left_out |= failures.check(progress)
    return made


def _contract(known: Analysis, progress: Callable[[str], None]) -> Contract | None:
    """What the prefix files of a speech model keep to, with a note about what sherpa-onnx will do otherwise."""
    m = known.manifest
    if m.speech is None:
        return None
    found = sherpa.contract(m.name, m.speech, known.source.inputs, m.exits, known.answers)
    if isinstance(found, str):
        progress(f"note: sherpa-onnx cannot run the prefix files: {found}")
        return None
    if other := sherpa.differences(m.speech):
        progress(f"note: stock sherpa-onnx does otherwise than the network was made for: {'; '.join(other)}")
    return found


def _built(
    layout: str, known: Analysis, comparison: check.Comparison, contract: Contract | None
) -> tuple[dict[str, bytes], check.Comparison]:
    """A layout's files and how they compare: bit for bit at the exits that are `exact`, where there is a way.

    Raises:
        ExportMismatch: see `check.compare`.
    """

    def built(of: Source, stages: Sequence[Stage]) -> tuple[dict[str, bytes], check.Comparison]:
        files = building.build(layout, of, stages, comparison.exits, comparison.score or "maxprob", contract)
        found = replace(comparison)
        ports = () if contract is None else contract.ports(comparison.exits)
        check.compare(layout, files, known.answers, found, ports)
        return files, found

    plain = built(known.source, known.stages)
    if plain[1].exactly or layout not in ("chain", "fused"):
        return plain
    for model in entries(known.source.model, known.stages):
        entered = replace(known.source, model=model)
        try:
            other = built(entered, stages_of(entered))
        except ExportMismatch:
            continue
        if other[1].exactly:
            return other
    return plain
