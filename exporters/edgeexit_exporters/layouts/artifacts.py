"""ONNX artifacts of every layout, compared with the source model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from edgeexit.bundle.files import describe
from edgeexit.bundle.layouts import LAYOUTS, Layout
from edgeexit.bundle.manifest import Artifact, Check
from edgeexit.errors import ExportMismatch
from edgeexit_exporters.analysis.analysis import Analysis, stages_of
from edgeexit_exporters.analysis.answers import vectors
from edgeexit_exporters.analysis.describe import graph_precision
from edgeexit_exporters.analysis.tolerance import tolerance_for
from edgeexit_exporters.artifact_set import ArtifactSet
from edgeexit_exporters.int8 import kernels
from edgeexit_exporters.layouts import check, sherpa
from edgeexit_exporters.layouts.build import ONNX_LAYOUTS, build
from edgeexit_exporters.layouts.entries import entries
from edgeexit_exporters.layouts.failures import LayoutFailures
from edgeexit_exporters.layouts.fuse import check_one_output
from edgeexit_exporters.layouts.sherpa import Contract
from edgeexit_exporters.source.source import Source
from edgeexit_exporters.spec import ExportSpec, in_order
from edgeexit_exporters.stages import Stage


def onnx_artifacts(
    analysis: Analysis,
    layouts: Sequence[str],
    spec: ExportSpec,
    *,
    exact: Sequence[int] = (),
    progress: Callable[[str], None] = lambda text: None,
) -> ArtifactSet:
    """Write and check the layouts of one precision.

    Args:
        analysis: of the network; quantised already where int8 is wanted.
        layouts: that can hold the network.
        spec: score, tolerance, and whether the layouts were named, so that one that fails is an error.
        exact: exits that are computed as in the source model, so that they may differ in their last bits at most.
        progress: called with each step's name.

    Raises:
        ModelError: a layout cannot hold this network, or a stage would run in float where int8 was asked.
        ExportMismatch: an exit differs from the source model.
    """
    rows = [LAYOUTS[name] for name in in_order(layouts)]
    source, exits = analysis.source, analysis.manifest.exits
    if any(row.scored for row in rows):
        check_one_output(exits)
    precision = graph_precision(source)
    allowed = tolerance_for(precision, analysis.rounding, spec.tolerance)
    vectors_path = f"vectors/onnx-{precision}.npz"
    artifact_set = ArtifactSet({vectors_path: vectors(source, analysis.manifest, spec.score)})
    contract = _contract(analysis, progress) if any(row.self_contained for row in rows) else None
    failures = LayoutFailures(spec.layouts is not None)
    for row in rows:
        name = f"onnx-{row.name}-{precision}"
        progress(f"writing and checking {name}")
        with failures.attempt(row.name, name):
            comparison = check.ArtifactComparison(name, exits, allowed, spec.score, exact, analysis.manifest.states)
            own = contract if row.self_contained else None
            files, comparison = _built(row, analysis, comparison, own)
            if source.quantized is not None:
                ran = kernels.count_kernels(row.name, files)
                kernels.check_kernels(name, ran, source.quantized.kept)
                artifact_set.kernels[name] = [[stage.quantized, stage.compute] for stage in ran]
            artifact_set.contents.update({f"artifacts/{name}/{n}": raw for n, raw in files.items()})
            described = [describe(f"artifacts/{name}/{n}", raw) for n, raw in files.items()]
            artifact_set.artifacts.append(
                Artifact(
                    name,
                    "onnx",
                    row.name,
                    precision,
                    spec.score if row.scored else None,
                    (1.0,) * len(exits),
                    tuple(f for f in described if f.path.endswith(".onnx")),
                    tuple(f for f in described if not f.path.endswith(".onnx")),
                    vectors=describe(vectors_path, artifact_set.contents[vectors_path]),
                    check=Check(allowed.stated, comparison.errors, comparison.inputs),
                    cuts=None if source.quantized is None else analysis.manifest.cuts,
                    ports=() if own is None else own.ports(exits),
                )
            )
    artifact_set.left_out |= failures.check(progress)
    return artifact_set


def _contract(analysis: Analysis, progress: Callable[[str], None]) -> Contract | None:
    """The contract of a speech model's self-contained files, with a note about what sherpa-onnx will do otherwise."""
    m = analysis.manifest
    if m.speech is None:
        return None
    contract = sherpa.contract(m.name, m.speech, analysis.source.inputs, m.exits, analysis.answers)
    if isinstance(contract, str):
        progress(f"note: sherpa-onnx cannot run the prefix files: {contract}")
        return None
    if other := sherpa.differences(m.speech):
        progress(f"note: stock sherpa-onnx does otherwise than the network was made for: {'; '.join(other)}")
    return contract


def _built(
    row: Layout, analysis: Analysis, comparison: check.ArtifactComparison, contract: Contract | None
) -> tuple[dict[str, bytes], check.ArtifactComparison]:
    """A layout's files and how they compare: bit for bit at the exits that are `exact`, where there is a way.

    Raises:
        ExportMismatch: see `check.compare`.
    """

    def built(of: Source, stages: Sequence[Stage]) -> tuple[dict[str, bytes], check.ArtifactComparison]:
        files = build(row.name, of, stages, comparison.exits, comparison.score or "maxprob", contract)
        own = replace(comparison)
        ports = () if contract is None else contract.ports(comparison.exits)
        check.compare(ONNX_LAYOUTS[row.name].run, files, analysis.answers, own, ports)
        return files, own

    plain = built(analysis.source, analysis.stages)
    if plain[1].exactly or not row.stops_early:
        return plain
    for model in entries(analysis.source.model, analysis.stages):
        entered = replace(analysis.source, model=model)
        try:
            other = built(entered, stages_of(entered))
        except ExportMismatch:
            continue
        if other[1].exactly:
            return other
    return plain
