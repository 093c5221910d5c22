"""Export of a multi-exit network: source model to checked bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.bundle import Bundle, write_bundle
from edgeexit.bundle.input_range import InputRange, measure_all
from edgeexit.bundle.layouts import DEFAULT_LAYOUTS, LAYOUTS
from edgeexit.common.files import sha256
from edgeexit.errors import BackendMissing, BundleError, ModelError
from edgeexit.pictures.preprocess import Preprocess
from edgeexit_exporters.analysis.analysis import analyse
from edgeexit_exporters.formats import build_artifacts, float_answers, labelled_rows
from edgeexit_exporters.refit import Refit, refit, refuse_drop
from edgeexit_exporters.source.input_roles import like_data
from edgeexit_exporters.source.inputs import parse_input
from edgeexit_exporters.source.preprocessing import declare, network_rows
from edgeexit_exporters.source.source import Source, from_onnx
from edgeexit_exporters.spec import ExportSpec

if TYPE_CHECKING:
    from torch import nn


def export(
    source: nn.Module | str | Path,
    out: Path | str,
    spec: ExportSpec | None = None,
    *,
    data: Mapping[str, NDArray[Any]] | None = None,
    classes: NDArray[np.int64] | None = None,
    progress: Callable[[str], None] = lambda text: None,
    report: Callable[[Refit], None] = lambda refit: None,
    **options: Any,
) -> Bundle:
    """Export a multi-exit network to a bundle, checked against the source model exit by exit.

    ``export(net, "digits.edgeexit", layouts=["fused", "chain"], precisions=["fp32", "int8"], data={"x": x})``

    Args:
        source: a module that returns its exits in order (`torch_source.from_torch` says what an exit may be),
            ``"package.module:function"`` that makes one, or the path of an ``.onnx`` file (no torch needed).
        out: the bundle's folder, e.g. ``digits.edgeexit``.
        spec: what to export and how; None = the defaults.
        data: example inputs (by input name, or "x"), `(rows, ...)`, that are checked besides random ones, and what
            quantized files are calibrated and measured on.
        classes: `(rows,)` true classes of the data; None = agreement with the float network counts.
        progress: called with each step's name.
        report: called with what quantizing did to every exit, where there is something to measure and there are rows.
        options: fields of `ExportSpec`, instead of or on top of `spec`.

    Raises:
        ModelError: the source cannot be exported; `ExportMismatch` where an exit differs from it, or loses more than
            `max_drop` allows.
        DataError: data that does not fit, or too few rows to calibrate on.
        BundleError: `out` exists, or cannot be written.
        TypeError: no such option.
    """
    spec, out = replace(spec or ExportSpec(), **options), Path(out)
    check_free(out, spec.overwrite)
    spec.check_data(data)
    progress("reading the source model")
    opened = open_source(source, spec)
    declared = declare(opened, spec.preprocess, progress)
    if data is not None:
        data = network_rows(data, [i.tensor for i in opened.inputs], declared)
    return export_source(
        opened, out, spec, preprocess=declared, data=data, classes=classes, progress=progress, report=report
    )


def check_free(out: Path, overwrite: bool) -> None:
    """Refuse before minutes of work what would be refused after them.

    Raises:
        BundleError: `out` exists.
    """
    if out.exists() and not overwrite:
        raise BundleError(f"{out}: exists already; choose another name or pass --overwrite")


def export_source(
    source: Source,
    out: Path,
    spec: ExportSpec | None = None,
    *,
    preprocess: Mapping[str, Preprocess] | None = None,
    data: Mapping[str, NDArray[Any]] | None = None,
    classes: NDArray[np.int64] | None = None,
    exact: Sequence[int] = (),
    progress: Callable[[str], None] = lambda text: None,
    report: Callable[[Refit], None] = lambda refit: None,
) -> Bundle:
    """As `export`, for a source that is read already.

    Args:
        preprocess: by the inputs' names, in place of the spec's.
        data: as of `export`, in the network's own numbers.
        exact: exits that are computed as in the source model, so that they may differ in their last bits at most.

    Raises:
        ModelError, BundleError: as `export`.
    """
    spec = spec or ExportSpec()
    layouts = _layouts(source, spec, progress)
    source = replace(source, inputs=like_data(source.inputs, data or {}))
    progress("finding the stages")
    analysis = analyse(
        source, name=spec.name or out.name.removesuffix(".edgeexit"), task=spec.task, labels=spec.labels, data=data,
        score=spec.score, speech=spec.speech,
    )  # fmt: skip
    manifest = replace(analysis.manifest, preprocess=dict(preprocess or {}), ranges=_ranges(source, data))
    analysis = replace(analysis, manifest=manifest)
    for note in analysis.notes:
        progress(f"note: {note}")
    count = manifest.exits[-1].answer.shape[-1]
    rows = labelled_rows(spec, source, data, classes, count if isinstance(count, int) else None)
    artifact_set = build_artifacts(analysis, layouts, spec, rows, exact=exact, progress=progress)
    contents, manifest = artifact_set.contents, artifact_set.into(manifest)
    if rows is None:
        progress("writing the bundle")
        return write_bundle(out, contents, manifest, overwrite=spec.overwrite)
    with tempfile.TemporaryDirectory(prefix="edgeexit-") as folder:  # what loses too much is not written
        draft = write_bundle(Path(folder, "draft.edgeexit"), contents, manifest)
        reference = float_answers(source, manifest.batch == "dynamic")
        draft, measured = refit(
            draft, rows.inputs, rows.labels, rows.parts, reference, score=spec.score, drop=spec.drop, progress=progress
        )
        if spec.max_drop is not None:
            refuse_drop(measured, spec.max_drop)
        report(replace(measured, layers=artifact_set.layers))
        progress("writing the bundle")
        contents = {f.path: draft.file(f).read_bytes() for f in draft.manifest.files}
        return write_bundle(out, contents, draft.manifest, overwrite=spec.overwrite)


def _ranges(source: Source, data: Mapping[str, NDArray[Any]] | None) -> Mapping[str, InputRange]:
    """What the numbers of the inputs are like in data, where that has them."""
    names = [i.tensor.name for i in source.inputs if not i.state]
    rows = {n: (data or {}).get(n, (data or {}).get("x") if len(names) == 1 else None) for n in names}
    there = {n: a for n, a in rows.items() if a is not None and a.ndim}
    return measure_all(list(there), list(there.values()))


def _layouts(source: Source, spec: ExportSpec, progress: Callable[[str], None]) -> Sequence[str]:
    """The layouts to write: without those whose graph decides where the network has states.

    Raises:
        ModelError: such a layout was named.
    """
    layouts = DEFAULT_LAYOUTS if spec.layouts is None else spec.layouts
    deciding = [name for name in layouts if LAYOUTS[name].scored]
    if not source.states or not deciding:
        return layouts
    names = ", ".join(s.input for s in source.states)
    why = (
        f"the network has states ({names}), and a {deciding[0]} graph that stops early would leave those of deeper "
        "stages behind for good; in a chain they catch up"
    )
    if spec.layouts is not None:
        raise ModelError(f"no {deciding[0]} layout: {why}. Ask for --layouts chain,prefix")
    progress(f"note: no {deciding[0]} layout: {why}")
    return tuple(name for name in layouts if name not in deciding)


def open_source(source: nn.Module | str | Path, spec: ExportSpec | None = None, *, single: bool = False) -> Source:
    """Read what `export` takes as a source.

    Args:
        source: see `export`.
        spec: exits, weights, inputs, scores, lengths, states and outputs are read; None = the defaults. With `single`,
            `exits` names the answer: for ONNX a tensor of the graph, for torch a key or number of what the module
            returns.
        single: a network without early exits is expected: its one output is the answer.

    Raises:
        ModelError: it cannot be exported.
        BackendMissing: a torch module without torch.
    """
    spec = spec or ExportSpec()
    exits = spec.exits
    inputs = [parse_input(text, f"input{k}" if k else "input") for k, text in enumerate(spec.inputs)]
    if isinstance(source, Path) or (isinstance(source, str) and (source.endswith(".onnx") or ":" not in source)):
        if spec.weights is not None:
            raise ModelError(f"{source}: an .onnx file brings its own weights; leave --weights out")
        return from_onnx(source, exits, inputs, spec.scores, spec.outputs, single, spec.states, spec.lengths)
    if spec.states:
        raise ModelError("--state names tensors of an .onnx file; a torch module lists its states in `states`")
    for what, named in (("scores", spec.scores), ("lengths", spec.lengths)):
        if named is not None:
            raise ModelError(
                f"--{what} names tensors of an .onnx file; a torch module returns its {what} with its exits"
            )
    try:
        from edgeexit_exporters.source.torch_loading import load_module
        from edgeexit_exporters.source.torch_source import from_torch
    except ImportError as e:
        raise BackendMissing(f"exporting a torch module needs torch ({e}): pip install 'edgeexit[export]'") from e
    provenance: dict[str, Any] = {}
    if isinstance(source, str):
        provenance["source"] = source
        source = load_module(source, spec.weights)
    if single and exits:
        from edgeexit_exporters.source.torch_answer import AnswerModule

        provenance.setdefault("source", type(source).__name__)
        source = AnswerModule(source, exits[0])
        exits = [f"output{name}" if name.isdigit() else name for name in exits]
    if spec.weights is not None:
        provenance["weights_sha256"] = sha256(Path(spec.weights))
    return from_torch(source, inputs, exits, provenance, spec.outputs, single)
