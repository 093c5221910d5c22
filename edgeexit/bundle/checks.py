"""Rules between the parts of a manifest, which annotations and JSON Schema cannot express."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from edgeexit.bundle.layouts import LAYOUTS
from edgeexit.bundle.lm_spec import DecoderFiles
from edgeexit.bundle.manifest import MAX_STATE, Artifact, ExitSpec, Manifest, TensorSpec
from edgeexit.bundle.tasks import task_of, tasks_of
from edgeexit.errors import BundleError, DataError
from edgeexit.pictures.preprocess import Preprocess


def check_parts(m: Manifest, at: str) -> None:
    """Check that stages, exits, tensors and artifacts fit each other.

    Args:
        m: a manifest whose fields are each valid.
        at: name of the document, for messages.

    Raises:
        BundleError: they do not.
    """
    count = len(m.exits)
    if len(m.stages) != count:
        raise BundleError(f"{at}: {count} exits but {len(m.stages)} stages; every exit has its stage")
    if m.batch == "dynamic":  # with one input per call no input is taken out of a batch
        for t in m.cuts:
            if t.batch_axis is not None and t.batch_axis >= len(t.shape):
                raise BundleError(f"{at}: cut {t.name!r:.60} has {len(t.shape)} axes, its batch_axis is {t.batch_axis}")
    for state in m.states:
        if (numbers := math.prod(a for a in state.input.shape if isinstance(a, int))) > MAX_STATE:
            raise BundleError(f"{at}: state {state.input.name!r:.60} has {numbers} numbers; expected up to {MAX_STATE}")
    tensors = [*m.tensors, *m.cuts]
    for what, names in (
        ("tensor", [t.name for t in tensors]),
        ("exit", [e.name for e in m.exits]),
        ("artifact", [a.name for a in m.artifacts]),
        ("file", [f.path for f in m.files]),
    ):
        twice = {n for n, times in Counter(names).items() if times > 1}
        # A tensor may be an exit's output and be carried on as well, but then the two say the same.
        if twice and not (what == "tensor" and _say_the_same(tensors, twice)):
            raise BundleError(f"{at}: {what} {sorted(twice)[0]!r:.60} stands twice")
    known = {t.name for t in m.feeds}
    if m.states and m.batch != "one":
        raise BundleError(f"{at}: a network with states takes one input per call, batch is {m.batch!r}")
    for k, (stage, e) in enumerate(zip(m.stages, m.exits, strict=True)):
        if lost := [s.output for s in stage.states if s.output not in stage.outputs]:
            raise BundleError(f"{at}: stage {k} carries {lost[0]!r:.60} on, which it does not make")
        later = {s.input.name for deeper in m.stages[k + 1 :] for s in deeper.states}
        if early := [n for n in stage.inputs if n in later]:
            raise BundleError(f"{at}: stage {k} reads {early[0]!r:.60}, a state that a later stage carries")
        if missing := [n for n in stage.inputs if n not in known]:
            raise BundleError(f"{at}: stage {k} reads {missing[0]!r:.60}, which nothing before it makes")
        if lacking := [t.name for t in e.outputs if t.name not in stage.outputs]:
            raise BundleError(f"{at}: exit {e.name!r:.60} names {lacking[0]!r:.60}, which stage {k} does not make")
        _check_outputs(e, at)
        known.update(stage.outputs)
    if len({e.lengths is None for e in m.exits}) > 1:
        raise BundleError(f"{at}: some exits have lengths and some have none")
    if strange := [n for n in m.min_sizes if not any(n in t.shape[1:] for t in m.inputs)]:
        raise BundleError(f"{at}.min_sizes: {strange[0]!r:.60} is no free axis of an input")
    try:
        check_declared(m.inputs, m.preprocess)
    except DataError as e:
        raise BundleError(f"{at}.preprocess: {e}") from e
    if strange := [n for n in m.ranges if n not in {t.name for t in m.inputs}]:
        raise BundleError(f"{at}.ranges: {strange[0]!r:.60} is no input")
    described = {t.name for t in tensors}
    if strange := [n for s in m.stages for n in s.outputs if n not in described]:
        raise BundleError(f"{at}: stage output {strange[0]!r:.60} is described nowhere")
    if m.default_policy is not None and m.default_policy not in m.policies:
        raise BundleError(f"{at}: default_policy {m.default_policy!r:.60} is no operating point of `policies`")
    classes = m.exits[-1].answer.shape[-1]
    if m.labels is not None and isinstance(classes, int) and len(m.labels) != classes:
        raise BundleError(f"{at}: {len(m.labels)} labels for {classes} classes")
    for task in tasks_of(m) or (task_of(m),):
        task.check(m, at)
    for a in m.artifacts:
        layout = LAYOUTS[a.layout]
        if layout.section is not None and getattr(m, layout.section) is None:
            raise BundleError(
                f"{at}: artifact {a.name!r}: layout {a.layout} needs a section, and there is no `{layout.section}`"
            )
        expected = layout.count_networks(count)
        if len(a.models) != expected and (not layout.one_file or len(a.models) != 1 or a.format == "onnx"):
            raise BundleError(f"{at}: artifact {a.name!r}: {len(a.models)} models, layout {a.layout} needs {expected}")
        if len(a.temperatures) != count:
            raise BundleError(f"{at}: artifact {a.name!r}: {len(a.temperatures)} temperatures for {count} exits")
        if a.check is not None and len(a.check.max_error) != count:
            raise BundleError(f"{at}: artifact {a.name!r}: {len(a.check.max_error)} errors for {count} exits")
        if layout.scored != (a.score is not None):
            raise BundleError(f"{at}: artifact {a.name!r}: a fused graph, and no other, names its score")
        _check_ports(a, m, at)
        if a.sizes:
            _check_sizes(a, m, at)
        _check_decoder(a, at)
        if a.score is not None and (lacking := [e.name for e in m.exits if not e.gives(a.score)]):
            raise BundleError(f"{at}: artifact {a.name!r}: exit {lacking[0]!r:.60} gives no score {a.score!r}")


def check_declared(inputs: Sequence[TensorSpec], declared: Mapping[str, Preprocess]) -> None:
    """Check that preprocessing fits the inputs that it is declared for.

    Raises:
        DataError: it does not.
    """
    known = {t.name: t for t in inputs}
    for name, p in declared.items():
        if name not in known:
            raise DataError(f"{name!r:.60} is no input; the network takes {', '.join(known)!s:.200}")
        try:
            p.check(known[name].shape, known[name].dtype)
        except DataError as e:
            raise DataError(f"{name!r:.60}: {e}") from e


def _check_sizes(a: Artifact, m: Manifest, at: str) -> None:
    if not LAYOUTS[a.layout].one_file or len(a.models) != 1 or a.batch != "one" or m.exits[0].lengths is None:
        raise BundleError(
            f"{at}: artifact {a.name!r}: sizes are of a chain in one file, one input per call, of exits with lengths"
        )
    if strange := [n for n in a.sizes if not any(n in t.shape[1:] for t in m.inputs)]:
        raise BundleError(f"{at}: artifact {a.name!r}: sizes of {strange[0]!r:.60}, which is no free axis of an input")


def _check_decoder(a: Artifact, at: str) -> None:
    if not LAYOUTS[a.layout].language_model:
        if a.proof is not None:
            raise BundleError(f"{at}: artifact {a.name!r}: a proof is of a decoder, layout is {a.layout}")
        return
    try:
        DecoderFiles.of(a.models, a.data)
    except BundleError as e:
        raise BundleError(f"{at}: artifact {a.name!r}: {e}") from e


def _check_ports(a: Artifact, m: Manifest, at: str) -> None:
    own = {t.name: t for t in m.tensors}
    if twice := [n for n, times in Counter(p.name for p in a.ports).items() if times > 1]:
        raise BundleError(f"{at}: artifact {a.name!r}: port {twice[0]!r:.60} stands twice")
    for p in a.ports:
        place = f"{at}: artifact {a.name!r}: port {p.name!r:.60}"
        if p.name not in own:
            raise BundleError(f"{place} is no input, state or exit's tensor")
        if (p.scale is None) != (p.zero_point is None):
            raise BundleError(f"{place}: a scale and a zero_point come together")
        if p.scale is not None and not p.dtype.startswith(("int", "uint")):
            raise BundleError(f"{place}: {p.dtype} with a scale; quantized numbers are integers")
        if p.order is not None and sorted(p.order) != [*range(len(p.order))]:
            raise BundleError(f"{place}: order {list(p.order)} does not name every axis once")
        if p.order is not None and (len(p.order) != len(own[p.name].shape) or p.order[0] != 0):
            raise BundleError(f"{place} orders {len(p.order)} axes wrongly")


def _check_outputs(e: ExitSpec, at: str) -> None:
    """Every output has its part: the answer first, then uncertainty of several heads, learned score and lengths."""
    parts = [e.answer.name, *(n for n in (e.uncertainty, e.learned, e.lengths) if n is not None)]
    if [t.name for t in e.outputs] != parts:
        names = ", ".join(t.name for t in e.outputs)
        raise BundleError(
            f"{at}: exit {e.name!r:.60}: outputs {names:.120} are not answer, uncertainty, learned score, lengths"
        )
    if any((t.dtype, len(t.shape)) != ("float32", 1) for t in e.outputs[1:] if t.name != e.lengths):
        raise BundleError(f"{at}: exit {e.name!r:.60}: uncertainty and learned score are float32 (inputs,)")
    if e.lengths is not None and (
        (e.outputs[-1].dtype, len(e.outputs[-1].shape), len(e.answer.shape)) != ("int64", 1, 3)
    ):
        raise BundleError(
            f"{at}: exit {e.name!r:.60}: lengths are int64 (inputs,), of an answer (inputs, positions, classes)"
        )
    if (e.members > 1) != (e.uncertainty is not None):
        raise BundleError(f"{at}: exit {e.name!r:.60}: {e.members} heads; several, and no other, have an uncertainty")


def _say_the_same(tensors: list[TensorSpec], names: set[str]) -> bool:
    """Whether each of these stands exactly twice, with one dtype and shape."""
    by_name: dict[str, list[TensorSpec]] = {}
    for t in tensors:
        if t.name in names:
            by_name.setdefault(t.name, []).append(t)
    return all(len(f) == 2 and (f[0].dtype, f[0].shape) == (f[1].dtype, f[1].shape) for f in by_name.values())
