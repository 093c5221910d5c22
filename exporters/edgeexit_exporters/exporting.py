"""The way from a source model to a bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgeexit.bundle.bundle import Bundle, write_bundle
from edgeexit.bundle.input_range import InputRange, measure_all
from edgeexit.bundle.manifest import NETWORK_LAYOUTS
from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.common.files import sha256
from edgeexit.errors import BackendMissing, BundleError, ModelError
from edgeexit.pictures.preprocess import Preprocess
from edgeexit.policy.scores import GRAPH_SCORES
from edgeexit_exporters.analysis.analysis import survey
from edgeexit_exporters.layouts.failures import DEFAULT_LAYOUTS
from edgeexit_exporters.plan import Forms, float_answers, make
from edgeexit_exporters.refit import Refit, refit, refuse_drop
from edgeexit_exporters.source.input_roles import like_data
from edgeexit_exporters.source.inputs import InputSpec, parse_input
from edgeexit_exporters.source.preprocessing import declare, network_rows
from edgeexit_exporters.source.source import Source, from_onnx

if TYPE_CHECKING:
    from torch import nn


def export(
    source: nn.Module | str | Path,
    out: Path | str,
    *,
    exits: Sequence[str] | None = None,
    weights: Path | str | None = None,
    inputs: Sequence[str] = (),
    layouts: Sequence[str] | None = None,
    score: str = "maxprob",
    scores: Sequence[str] | None = None,
    lengths: Sequence[str] | None = None,
    outputs: str = "auto",
    states: Mapping[str, str] | None = None,
    tolerance: float | None = None,
    data: Mapping[str, NDArray[Any]] | None = None,
    labels: Sequence[str] | None = None,
    name: str | None = None,
    task: str | None = None,
    speech: SpeechSpec | None = None,
    preprocess: Any = None,
    forms: Forms | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda text: None,
    report: Callable[[Refit], None] = lambda found: None,
) -> Bundle:
    """Export a multi-exit network to a bundle, checked against the source model exit by exit.

    Args:
        source: a module that returns its exits in order (`torch_source.from_torch` says what an exit may be),
            ``"package.module:function"`` that makes one, or the path of an ``.onnx`` file (no torch needed).
        out: the bundle's folder, e.g. ``digits.edgeexit``.
        exits: for ONNX the exits' tensor names, shallow to deep, ``a+b`` for heads that answer together (default: the
            file's outputs); for torch names to give them.
        weights: state dict for a ``module:function`` source.
        inputs: ``"name:dtype[axes]"`` specs; see `inputs.parse_input`.
        layouts: which of fused, chain, prefix, all to write; a layout that fails is an error then. None = all four: one
            that fails is left out, with a warning that says why, as long as one that leaves early is there.
        score: the score inside the fused graph, one of `edgeexit.policy.scores.GRAPH_SCORES`.
        scores: for ONNX, tensors ``(batch,)`` in [0, 1] of learned scores, one per exit; torch modules return theirs.
        lengths: for ONNX, tensors ``(batch,)`` of whole numbers that count the valid positions of sequences, one per
            exit or one for all; torch modules return theirs.
        outputs: "logits", "probs", or "auto" (probs where an exit's rows sum to 1 on every example input).
        states: for ONNX, state inputs -> the tensors that are their next values; torch modules list theirs in an
            attribute ``states`` (see `torch_source.from_torch`). A network with states gets no fused layout.
        tolerance: largest allowed error as a fraction of an exit's largest output over all compared inputs; None =
            1e-4, in half precision 1e-2, or what the network's own rounding needs (see `tolerance`); for int8 1e-4 here
            and 3e-2 on other machines.
        data: example inputs (by input name, or "x") that are checked besides random ones, and what quantized files
            are calibrated and measured on.
        labels: class names.
        name: the bundle's name; None = that of `out`.
        task: noted in the manifest; None = transcription with `speech`, else classification.
        speech: how a speech model hears and what its answers spell; None = as the module says in `speech_spec`.
        preprocess: how pictures become inputs, see `preprocessing.declare`; uint8 rows of `data` are pictures then.
            None = as is attached to the module, e.g. in its attribute `preprocess`.
        forms: formats and precisions; None = ONNX in the network's own.
        overwrite: replace a bundle that is there.
        progress: called with each step's name.
        report: is given what quantizing did to every exit, where `forms` asked for it and there are rows.

    Raises:
        ModelError: the source cannot be exported; `ExportMismatch` where an exit differs from it, or loses more than
            `forms` allows.
        DataError: data that does not fit, or too few rows to calibrate on.
        BundleError: `out` exists, or cannot be written.
    """
    out = Path(out)
    check_wish(out, layouts, score, overwrite)
    if forms is not None:
        forms.check(data)
    progress("reading the source model")
    found = open_source(source, exits, weights, inputs, scores, outputs, states=states, lengths=lengths)
    declared = declare(found, preprocess, progress)
    if data is not None:
        data = network_rows(data, [i.tensor for i in found.inputs], declared)
    return export_source(
        found,
        out,
        preprocess=declared,
        layouts=layouts,
        score=score,
        tolerance=tolerance,
        data=data,
        labels=labels,
        name=name,
        task=task,
        speech=speech,
        forms=forms,
        overwrite=overwrite,
        progress=progress,
        report=report,
    )


def check_wish(out: Path, layouts: Sequence[str] | None, score: str, overwrite: bool) -> None:
    """Refuse before minutes of work what would be refused after them.

    Raises:
        BundleError: `out` exists.
        ModelError: an unknown score, an unknown layout, or none.
    """
    if out.exists() and not overwrite:
        raise BundleError(f"{out}: exists already; choose another name or pass --overwrite")
    if score not in GRAPH_SCORES:
        raise ModelError(f"unknown score {score!r} for a graph; known: {', '.join(GRAPH_SCORES)}")
    layouts = DEFAULT_LAYOUTS if layouts is None else layouts
    if unknown := [w for w in layouts if w not in NETWORK_LAYOUTS]:
        raise ModelError(f"unknown layout {unknown[0]!r}; known: {', '.join(NETWORK_LAYOUTS)}")
    if not layouts:
        raise ModelError(f"no layout asked for; known: {', '.join(NETWORK_LAYOUTS)}")


def export_source(
    found: Source,
    out: Path,
    *,
    layouts: Sequence[str] | None = None,
    score: str = "maxprob",
    tolerance: float | None = None,
    data: Mapping[str, NDArray[Any]] | None = None,
    labels: Sequence[str] | None = None,
    name: str | None = None,
    task: str | None = None,
    speech: SpeechSpec | None = None,
    preprocess: Mapping[str, Preprocess] | None = None,
    forms: Forms | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda text: None,
    report: Callable[[Refit], None] = lambda found: None,
    exact: Sequence[int] = (),
) -> Bundle:
    """As `export`, for a source that is read already.

    Args:
        data: as of `export`, in the network's own numbers.
        preprocess: by the inputs' names.
        exact: exits that are computed as in the source model, so that they may differ in their last bits at most.

    Raises:
        ModelError, BundleError: as `export`.
    """
    named = layouts is not None
    layouts = _stateful_layouts(found, layouts, progress)
    found = replace(found, inputs=like_data(found.inputs, data or {}))
    progress("finding the stages")
    known = survey(
        found, name=name or out.name.removesuffix(".edgeexit"), task=task, labels=labels, data=data, score=score,
        speech=speech,
    )  # fmt: skip
    known = replace(
        known, manifest=replace(known.manifest, preprocess=dict(preprocess or {}), ranges=_ranges(found, data))
    )
    for note in known.notes:
        progress(f"note: {note}")
    wanted = forms or Forms()
    classes = known.manifest.exits[-1].answer.shape[-1]
    rows = wanted.rows(found, data, classes if isinstance(classes, int) else None)
    made = make(
        known, layouts, score, wanted, rows, tolerance=tolerance, exact=exact, named=named, progress=progress
    )  # fmt: skip
    manifest = made.into(known.manifest)
    if rows is None:
        progress("writing the bundle")
        return write_bundle(out, made.contents, manifest, overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix="edgeexit-") as folder:  # what loses too much is not written
        draft = write_bundle(Path(folder, "draft.edgeexit"), made.contents, manifest)
        reference = float_answers(found, known.manifest.batch == "dynamic")
        draft, measured = refit(
            draft, rows.inputs, rows.labels, rows.parts, reference, score=score, drop=wanted.drop, progress=progress
        )
        if wanted.max_drop is not None:
            refuse_drop(measured, wanted.max_drop)
        report(replace(measured, layers=made.layers))
        progress("writing the bundle")
        contents = {f.path: draft.file(f).read_bytes() for f in draft.manifest.files}
        return write_bundle(out, contents, draft.manifest, overwrite=overwrite)


def _ranges(source: Source, data: Mapping[str, NDArray[Any]] | None) -> Mapping[str, InputRange]:
    """What the numbers of the inputs are like in data, where that has them."""
    names = [i.tensor.name for i in source.inputs if not i.state]
    rows = {n: (data or {}).get(n, (data or {}).get("x") if len(names) == 1 else None) for n in names}
    there = {n: a for n, a in rows.items() if a is not None and a.ndim}
    return measure_all(list(there), list(there.values()))


def _stateful_layouts(found: Source, layouts: Sequence[str] | None, progress: Callable[[str], None]) -> Sequence[str]:
    """The layouts that can hold the network: all of them, but for one with memory.

    Raises:
        ModelError: fused was asked for, and the network has states.
    """
    if not found.states or (layouts is not None and "fused" not in layouts):
        return DEFAULT_LAYOUTS if layouts is None else layouts
    names = ", ".join(s.input for s in found.states)
    why = (
        f"the network has states ({names}), and a fused graph that stops early would leave those of deeper stages "
        "behind for good; in a chain they catch up"
    )
    if layouts is not None:
        raise ModelError(f"no fused layout: {why}. Ask for --layouts chain,prefix")
    progress(f"note: no fused layout: {why}")
    return tuple(w for w in DEFAULT_LAYOUTS if w != "fused")


def open_source(
    source: nn.Module | str | Path,
    exits: Sequence[str] | None = None,
    weights: Path | str | None = None,
    inputs: Sequence[str] = (),
    scores: Sequence[str] | None = None,
    outputs: str = "auto",
    single: bool = False,
    states: Mapping[str, str] | None = None,
    lengths: Sequence[str] | None = None,
) -> Source:
    """Read what `export` takes as a source; see there for the arguments.

    Args:
        exits: with `single`, the answer: for ONNX a tensor of the graph, for torch a key or number of what the module
            returns.
        single: a network without early exits is what is wanted: its one output is the answer.
        states: for ONNX, inputs that get a tensor's value in the next call; torch modules say so themselves.

    Raises:
        ModelError: it cannot be exported.
        BackendMissing: a torch module without torch.
    """
    specs: list[InputSpec] = [parse_input(text, f"input{k}" if k else "input") for k, text in enumerate(inputs)]
    if isinstance(source, Path) or (isinstance(source, str) and (source.endswith(".onnx") or ":" not in source)):
        if weights is not None:
            raise ModelError(f"{source}: an .onnx file brings its own weights; leave --weights out")
        return from_onnx(source, exits, specs, scores, outputs, single, states, lengths)
    if states:
        raise ModelError("--state names tensors of an .onnx file; a torch module lists its states in `states`")
    for what, named in (("scores", scores), ("lengths", lengths)):
        if named is not None:
            raise ModelError(
                f"--{what} names tensors of an .onnx file; a torch module returns its {what} with its exits"
            )
    try:
        from edgeexit_exporters.source import torch_source
    except ImportError as e:
        raise BackendMissing(f"exporting a torch module needs torch ({e}): pip install 'edgeexit[export]'") from e
    notes: dict[str, Any] = {}
    if isinstance(source, str):
        notes["source"] = source
        source = torch_source.load_module(source, weights)
    if single and exits:
        from edgeexit_exporters.source.torch_answer import Answer

        notes.setdefault("source", type(source).__name__)
        source = Answer(source, exits[0])
        exits = [f"output{name}" if name.isdigit() else name for name in exits]
    if weights is not None:
        notes["weights_sha256"] = sha256(Path(weights))
    return torch_source.from_torch(source, specs, exits, notes, outputs, single)
