"""Analysis of a network before export: stages, tensors, costs and the answers that files are compared with."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from edgeexit.bundle.manifest import Manifest
from edgeexit.bundle.speech_spec import SpeechSpec
from edgeexit.errors import ModelError
from edgeexit.version import __version__
from edgeexit_exporters.analysis import describe
from edgeexit_exporters.analysis.answers import SourceAnswer, reference_answers, valid_answer
from edgeexit_exporters.analysis.exit_order import check_order
from edgeexit_exporters.analysis.probe import Probe, probe
from edgeexit_exporters.analysis.sizes import check_padding, try_sizes
from edgeexit_exporters.analysis.tolerance import MOST, own_rounding
from edgeexit_exporters.onnx import graph, pieces
from edgeexit_exporters.onnx.measure import node_costs
from edgeexit_exporters.source.inputs import InputSpec, length_inputs, make_inputs
from edgeexit_exporters.source.output_kind import check_kind
from edgeexit_exporters.source.source import Source
from edgeexit_exporters.stages import Stage, stages


@dataclass(frozen=True)
class Analysis:
    """A source and what running it showed."""

    source: Source
    stages: tuple[Stage, ...]
    seen: Probe
    manifest: Manifest
    """Without artifacts."""
    answers: list[SourceAnswer]
    """What every artifact is compared with."""
    rounding: tuple[float, ...] = ()
    """`(exits,)` how far the network's answers move under another order of summation, relative; empty where it is
    quantised, as integers are summed without rounding."""
    notes: tuple[str, ...] = ()
    """Notes for the user: content that was left out, exits in an odd order."""


def analyse(
    source: Source,
    *,
    name: str,
    task: str | None = None,
    labels: Sequence[str] | None = None,
    data: Mapping[str, NDArray[Any]] | None = None,
    score: str = "maxprob",
    speech: SpeechSpec | None = None,
) -> Analysis:
    """Find the stages, run the network, count its costs.

    Args:
        source: its graph is annotated with the shapes that were seen.
        name, task, labels: for the manifest.
        data: example inputs that files are compared on besides random ones.
        score: that every exit has to give.
        speech: features and tokens of a speech model; None = the module's `speech_spec`, if any.

    Raises:
        ModelError: the network cannot be exported, or lacks the score.
        DataError: `data` does not fit.
    """
    if source.joint.joined:  # heads that do not fit each other are told as such, not as a graph that fails
        source.reference(make_inputs(source.inputs, 1, seed=0))
    parts = stages_of(source)
    whole = ir.to_proto(pieces.all_exits(source.model, source.tensors))
    cuts = [n for p in parts for n in p.cuts]
    seen = probe(source, whole, [*source.tensors, *cuts])
    sizes = try_sizes(source, whole)
    check_padding(source, sizes.least)
    graph.annotate(source.model.graph, seen.tensors)
    costs = node_costs(source.model, seen.inputs)
    exits = describe.exits(source, parts, seen, costs)
    joins = [n.outputs[0].name or "" for n in source.model.graph if n.op_type in ("Concat", "ConcatFromSequence")]
    notes = [*source.notes, *check_order(graph.view(source.model.graph), parts, exits, source.ordered, joins)]
    if lacking := [e.name for e in exits if not e.gives(score)]:
        needed = "a learned score of every exit" if score == "learned" else "several heads at every exit"
        raise ModelError(f"score {score!r} needs {needed}; exit {lacking[0]!r} has none: choose another --score")
    if labels is not None and len(labels) != exits[-1].answer.shape[-1]:
        raise ModelError(f"{len(labels)} labels for {exits[-1].answer.shape[-1]} classes")
    if (speech := speech or getattr(source.module, "speech_spec", None)) is not None:
        speech = _with_least(speech, sizes.least, source.inputs)
    if speech is not None and len(speech.tokens) != exits[-1].answer.shape[-1]:
        raise ModelError(f"{len(speech.tokens)} speech tokens for {exits[-1].answer.shape[-1]} classes")
    manifest = Manifest(
        name,
        task or ("classification" if speech is None else "transcription"),
        seen.batch,
        tuple(i.tensor for i in source.inputs if not i.state),
        exits,
        describe.stages(source, parts, seen, costs),
        tuple(seen.tensors[n] for n in cuts),
        (),
        labels=None if labels is None else tuple(labels),
        provenance=_provenance(source, seen.note, notes),
        speech=speech,
        min_sizes=sizes.least,
    )
    answers = reference_answers(source, seen, data, sizes.tried)
    floats = describe.graph_precision(source) in MOST
    if floats and not source.joint.said:
        for exit, spec in zip(source.exits, exits, strict=True):
            if spec.kind == "probs":
                check_kind(exit.name, [valid_answer(a.outputs, exit) for a in answers])
    rounding = own_rounding(whole, source.exits, answers) if floats else ()
    return Analysis(source, parts, seen, manifest, answers, rounding, tuple(notes))


def stages_of(source: Source) -> tuple[Stage, ...]:
    """The stages of a source's graph.

    Raises:
        ModelError: see `stages.stages`.
    """
    return stages(
        graph.view(source.model.graph),
        [e.answer for e in source.exits],
        [e.extras for e in source.exits],
        source.states,
    )


def _provenance(source: Source, note: str | None, notes: Sequence[str]) -> dict[str, Any]:
    versions = {
        "edgeexit": __version__,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
    }
    return {
        **source.provenance,
        **versions,
        **({"batch_note": note} if note else {}),
        **({"notes": list(notes)} if notes else {}),
    }


def _with_least(speech: SpeechSpec, least: Mapping[str, int], inputs: Sequence[InputSpec]) -> SpeechSpec:
    """The specification with the frames that the network was found to need at least; one for sound takes no frames."""
    if all(len(i.tensor.shape) != 3 for i in inputs):
        return speech
    axis = next(iter(length_inputs(inputs).values()), None)
    return replace(speech, least_frames=max(speech.least_frames, least.get(axis or "", 1)))
