"""Export source: any ONNX file or torch module (`torch_source`) in one form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgeexit.bundle.manifest import DTYPES, TensorSpec
from edgeexit.common.files import sha256
from edgeexit.errors import ModelError
from edgeexit_exporters.onnx import graph, measure, reading
from edgeexit_exporters.onnx.names import is_text
from edgeexit_exporters.source.input_roles import with_roles
from edgeexit_exporters.source.inputs import InputSpec, from_data, make_inputs, make_spec, one_at_a_time
from edgeexit_exporters.source.join import JoinedExit, Joint, RawExit, join
from edgeexit_exporters.source.random_nodes import refuse_random
from edgeexit_exporters.source.unstack import unstack
from edgeexit_exporters.stages import State, no_such_tensor

if TYPE_CHECKING:
    from torch import nn

Arrays = Mapping[str, NDArray[Any]]
SAMPLES = 3
"""Example inputs that logits and probabilities are told apart on."""


@dataclass(frozen=True)
class Quantized:
    """How a network was quantised; see `quantize`."""

    precision: str
    """int8 or int8-dynamic."""
    kept: tuple[str, ...] = ()
    """Nodes that were left in float on purpose."""


@dataclass(frozen=True)
class Source:
    """A multi-exit network ready for surgery, with the untouched original to compare with."""

    model: ir.Model
    """One graph that computes every exit."""
    joint: Joint
    """Its exits, shallow to deep."""
    inputs: tuple[InputSpec, ...]
    raw_reference: Callable[[Arrays], dict[str, NDArray[Any]]]
    """Inputs -> the tensors of `joint.raw`, computed by the source model itself."""
    provenance: Mapping[str, Any]
    module: nn.Module | None = None
    """The torch module; None = an ONNX file."""
    quantized: Quantized | None = None
    """None = it is as the user gave it."""
    states: tuple[State, ...] = ()
    """What it carries from one call to the next; their inputs are among `inputs`."""
    notes: tuple[str, ...] = ()
    """What its user should know of how it was read: content of the file that was left out."""
    picks: tuple[int, ...] | None = None
    """Which of the torch module's exits these are, in order; None = an ONNX file."""
    ordered: bool = False
    """Whether its user named the exits in their order; else it is that of the file's outputs."""

    @property
    def exits(self) -> tuple[JoinedExit, ...]:
        return self.joint.exits

    @property
    def tensors(self) -> tuple[str, ...]:
        """What all exits give, and the next values of all states."""
        return (*(n for e in self.exits for n in e.outputs), *(s.output for s in self.states))

    @property
    def raw_tensors(self) -> tuple[str, ...]:
        """What the source model itself gives: the heads' tensors, and the next values of all states."""
        own = dict.fromkeys(n for e in self.joint.raw for n in e.tensors)  # exits may share their lengths
        return (*own, *(s.output for s in self.states))

    def reference(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Inputs -> `tensors` by name: the source model's own outputs, joined in numpy."""
        raw = self.raw_reference(arrays)
        return {**self.joint.answers(raw), **{s.output: raw[s.output] for s in self.states}}

    def stream(self, rows: Sequence[Arrays]) -> list[dict[str, NDArray[Any]]]:
        """Rows of one input each, as they follow one another: with the states that the source model has by then."""
        held = {i.tensor.name: np.zeros(i.shape(1), i.tensor.dtype) for i in self.inputs if i.state}
        steps = []
        for row in rows:
            steps.append({**row, **held})
            if self.states:
                after = self.raw_reference(steps[-1])
                held = {s.input: after[s.output] for s in self.states}
        return steps

    def streamed(self, data: Arrays, most: int | None = None) -> Arrays:
        """Rows of all inputs: for a network with states, the data's rows follow one another, unless it holds them.

        Args:
            data: `(rows, ...)` arrays by input name.
            most: rows that are needed; None = all.

        Raises:
            DataError: an input is missing.
        """
        names = {s.input for s in self.states}
        if not names or names <= set(data):
            return data
        n = max((len(a) for a in data.values() if a.ndim), default=0)
        rows = from_data([i for i in self.inputs if not i.state], data, n if most is None else min(n, most))
        n = min(len(a) for a in rows.values())
        steps = self.stream([{name: a[i : i + 1] for name, a in rows.items()} for i in range(n)])
        return {name: np.concatenate([row[name] for row in steps]) for name in steps[0]} if steps else data


def from_onnx(
    path: Path | str,
    exits: Sequence[str] | None,
    inputs: Sequence[InputSpec] = (),
    scores: Sequence[str] | None = None,
    outputs: str = "auto",
    single: bool = False,
    states: Mapping[str, str] | None = None,
    lengths: Sequence[str] | None = None,
) -> Source:
    """A multi-output ONNX file; needs no torch.

    Args:
        path: the ``.onnx`` file.
        exits: tensor names, shallow to deep, ``a+b`` for heads that answer together; None = the file's outputs in
            their order.
        inputs: specs whose example sizes are used for free axes, by input name.
        scores: tensors of learned scores, one per exit; None = none.
        outputs: see `join`.
        single: the file's only output is the answer of a network without further exits.
        states: inputs that get a tensor's value in the next call; None = it has no memory.
        lengths: tensors that count valid positions, one per exit or one for all; None = none.

    Raises:
        ModelError: see `onnx_graph.read`, `join` and `one_at_a_time`; or fewer than two exits where none are named.
    """
    carried = tuple(State(i, o) for i, o in (states or {}).items())
    path = Path(path)
    asked = [*(exits or ()), *(part.strip() for name in exits or () for part in name.split("+"))]
    foreign = reading.read(path, {*asked, *(scores or ()), *(lengths or ()), *(states or {}).values()})
    model, odd = foreign.model, foreign.adapted.odd_outputs
    outs = [o.name or "" for o in model.graph.outputs if o.name not in {s.output for s in carried}]
    _refuse_odd(path, odd, outs, asked, single)
    names = list(exits) if exits else outs
    if single and len(names) > 1:
        raise ModelError(
            f"{path}: {len(names)} outputs ({', '.join(names[:6])}); name the answer with --output, or, if these are "
            "exits, use `edgeexit export --exits`"
        )
    if len(names) < 2 and not exits and not single:
        raise ModelError(
            f"{path}: one exit only ({', '.join(names)}); name at least two tensors of the graph with --exits. "
            "A single-exit network needs exits attached and trained first"
        )
    raw = _raw_exits(names, scores, lengths, set(graph.values(model.graph)))
    unstack(model, [n for e in raw for n in e.tensors])
    shown = [("input", v.name or "") for v in model.graph.inputs] + [("exit", n) for e in raw for n in e.tensors]
    for what, name in shown:
        if not is_text(name):
            raise ModelError(
                f"{path}: {what} {name!r:.80} cannot be called so: a bundle's tensors have names of 1 to 512 printable "
                "characters; rename it in the source model"
            )
    specs = tuple(_input(v, path, inputs) for v in model.graph.inputs)
    known = graph.values(model.graph)
    for state in carried:
        if state.output not in known:
            raise no_such_tensor(state.output, list(known), "state")
    specs = with_roles(model.graph, one_at_a_time(specs, [s.input for s in carried]))

    wanted = [*(n for e in raw for n in e.tensors), *(s.output for s in carried)]

    def reference(arrays: Arrays) -> dict[str, NDArray[Any]]:
        return measure.all_values(foreign.original, wanted, arrays)  # untouched: it must not share our mistakes

    seen = samples(lambda x: measure.all_values(foreign.original, wanted, x, quiet=True), specs)
    joint = join(model, raw, outputs, samples=seen)
    refuse_random(model, [n for e in joint.exits for n in e.outputs] + [s.output for s in carried], str(path))
    notes = [
        *foreign.notes,
        *joint.notes,
        *(f"output {n!r} is {description}; it is left out" for n, description in odd.items()),
    ]
    if others := [n for n in outs if n not in (*asked, *(scores or ()), *(lengths or ()), *names)]:
        notes.append(f"outputs that are no exits are left out: {', '.join(repr(n) for n in others[:6])}")
    return Source(
        model,
        joint,
        specs,
        reference,
        {"source": path.name, "source_sha256": sha256(path), "onnx": onnx.__version__},
        states=carried,
        notes=tuple(notes),
        ordered=bool(exits),
    )


def _refuse_odd(path: Path, odd: Mapping[str, str], outs: Sequence[str], asked: Sequence[str], single: bool) -> None:
    """Outputs that are no tensors can be left out, but not in silence, and not where they are asked for."""
    named = [n for n in odd if n in asked]
    if not odd or (asked and not named):
        return
    name = named[0] if named else next(iter(odd))
    how = "the answer with --output" if single else "the exits with --exits"
    others = f" (tensors among the outputs: {', '.join(outs[:6])})" if outs else ""
    raise ModelError(f"{path}: output {name!r} is {odd[name]}, and an exit is a tensor: name {how}{others}")


def samples(run: Callable[[Arrays], Arrays], inputs: Sequence[InputSpec]) -> list[Arrays]:
    """What a network gives on a few example inputs; nothing where it does not run on them, which others report."""
    try:
        return [run(make_inputs(inputs, 1, seed)) for seed in range(SAMPLES)]
    except ModelError:
        return []


def _raw_exits(
    names: Sequence[str], scores: Sequence[str] | None, lengths: Sequence[str] | None, known: set[str]
) -> list[RawExit]:
    if scores is not None and len(scores) != len(names):
        raise ModelError(f"{len(scores)} learned scores for {len(names)} exits: name one tensor per exit")
    if lengths is not None and len(lengths) not in (1, len(names)):
        raise ModelError(f"{len(lengths)} lengths for {len(names)} exits: name one tensor per exit, or one for all")
    counts = [None] * len(names) if lengths is None else list(lengths) * (len(names) // len(lengths))
    exits = []
    for k, name in enumerate(names):
        heads = [name] if name in known else [part.strip() for part in name.split("+")]
        exits.append(RawExit(name, tuple(heads), None if scores is None else scores[k], counts[k]))
    return exits


def _input(value: ir.Value, path: Path, given: Sequence[InputSpec]) -> InputSpec:
    name = value.name or ""
    known = next((g for g in given if g.tensor.name == name), None)
    if value.dtype is None:
        raise ModelError(f"{path}: input {name!r} states no type; state it in the source model")
    dtype = {"FLOAT": "float32", "DOUBLE": "float64"}.get(value.dtype.name, value.dtype.name.lower())
    if dtype not in DTYPES:
        raise ModelError(f"{path}: input {name!r} is {dtype}; supported are {', '.join(DTYPES)}")
    if value.shape is None:
        if known is None or known.tensor.dtype != dtype:
            raise ModelError(f"{path}: input {name!r} states no shape: pass --input '{name}:{dtype}[batch,...]'")
        value.shape = ir.Shape(list(known.tensor.shape))
    axes: list[int | str] = []
    for k, dim in enumerate(value.shape):
        if isinstance(dim, int):
            axes.append(dim)
        else:
            axes.append(str(dim.value) if dim.value is not None else ("batch" if k == 0 else f"{name}_{k}"))
    sizes = dict(known.sizes) if known is not None else {}
    if known is not None:  # `--input image:float32[batch,time=100]` may name the axes as it likes
        for a, b in zip(axes, known.tensor.shape, strict=False):
            if isinstance(a, str) and isinstance(b, str) and b in known.sizes:
                sizes[a] = known.sizes[b]
    return make_spec(TensorSpec(name, dtype, tuple(axes)), sizes)
