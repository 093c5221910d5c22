"""Join of heads that answer together: one answer with an uncertainty, as nodes of the graph.

The mean is of probabilities, never of logits: in int8, too, the softmax outputs are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeexit.bundle.manifest import MAX_MEMBERS
from edgeexit.errors import ModelError
from edgeexit.policy.scores import mean_over_valid, valid_positions
from edgeexit_exporters.onnx.graph import JOIN, values
from edgeexit_exporters.onnx.nodes import Nodes
from edgeexit_exporters.source.output_kind import kind_of
from edgeexit_exporters.stages import no_such_tensor

Arrays = Mapping[str, NDArray[Any]]
_SLACK = 1e-4
"""How far rounding may take a learned score out of [0, 1]."""


@dataclass(frozen=True)
class RawExit:
    """An exit as the source model gives it."""

    name: str
    heads: tuple[str, ...]
    """Tensors `(inputs, ..., classes)`; several answer together."""
    learned: str | None = None
    """Tensor `(inputs, ...)` of a learned score in [0, 1]; None = none."""
    lengths: str | None = None
    """Tensor `(inputs,)` of whole numbers: valid positions of heads `(inputs, positions, classes)`; None = all are."""

    @property
    def tensors(self) -> tuple[str, ...]:
        return (*self.heads, *(n for n in (self.learned, self.lengths) if n is not None))


@dataclass(frozen=True)
class JoinedExit:
    """An exit as the graph gives it."""

    name: str
    answer: str
    members: int = 1
    uncertainty: str | None = None
    learned: str | None = None
    lengths: str | None = None

    @property
    def extras(self) -> tuple[str, ...]:
        return tuple(n for n in (self.uncertainty, self.learned, self.lengths) if n is not None)

    @property
    def outputs(self) -> tuple[str, ...]:
        return (self.answer, *self.extras)


@dataclass(frozen=True)
class Joint:
    """What `join` did to a graph, and the same in numpy, to compare with."""

    raw: tuple[RawExit, ...]
    exits: tuple[JoinedExit, ...]
    kinds: tuple[str, ...]
    """Of every exit's heads: logits or probs."""
    said: bool = False
    """Whether the user said so, or else it was read off the graph and the numbers."""
    notes: tuple[str, ...] = ()
    """What the user should be told of the kinds."""

    @property
    def joined(self) -> bool:
        """Whether some exit gives more than one head's output."""
        return any(e.extras for e in self.exits)

    def answers(self, tensors: Arrays) -> dict[str, NDArray[Any]]:
        """The joined exits' outputs by name, from the heads' outputs by name.

        Raises:
            ModelError: heads of one exit that differ in shape or type, a learned score outside [0, 1], or lengths that
                do not count positions of the answer.
        """
        result: dict[str, NDArray[Any]] = {}
        for raw, exit, kind in zip(self.raw, self.exits, self.kinds, strict=True):
            heads = [tensors[n] for n in raw.heads]
            if len({(h.shape, h.dtype) for h in heads}) != 1:
                shapes = ", ".join(f"{n} {h.dtype}{list(h.shape)}" for n, h in zip(raw.heads, heads, strict=True))
                raise ModelError(f"exit {raw.name!r}: heads that answer together must be of one shape; found {shapes}")
            result[exit.answer] = heads[0]
            lengths = None
            if raw.lengths is not None and exit.lengths is not None:
                result[exit.lengths] = lengths = _counted(tensors[raw.lengths], heads[0], raw)
            if exit.uncertainty is not None:
                p = np.stack([_softmax(h.astype(np.float64)) if kind == "logits" else h for h in heads])
                mean = p.mean(0)
                distance = np.abs(p - mean).mean(0).sum(-1) / 2
                result[exit.answer] = mean.astype(heads[0].dtype)
                result[exit.uncertainty] = _mean(distance, lengths, raw.name)
            if raw.learned is not None and exit.learned is not None:
                learned = tensors[raw.learned]
                values = learned if lengths is None else valid_of(learned, lengths)
                if not ((values >= -_SLACK) & (values <= 1 + _SLACK)).all():
                    raise ModelError(
                        f"exit {raw.name!r}: a learned score lies in [0, 1], found {values.min():g} to "
                        f"{values.max():g} in {raw.learned!r}: end it with a Sigmoid"
                    )
                result[exit.learned] = _mean(learned, lengths, raw.name)
        return result


def join(
    model: ir.Model,
    exits: Sequence[RawExit],
    outputs: str | Sequence[str] = "auto",
    like: Sequence[JoinedExit] | None = None,
    samples: Sequence[Arrays] = (),
) -> Joint:
    """Add the nodes that make one answer of every exit's heads; a single head is left as it is.

    The uncertainty is the mean total-variation distance of the heads' probabilities from their mean, in [0, 1]: 0
    where all say the same. Over positions it is their mean, as a learned score of several positions is.

    Args:
        model: changed in place.
        exits: whose tensors are in the graph.
        outputs: what the heads give, of all exits or of each: "logits", "probs", or "auto" (see `output_kind`).
        like: what the same exits were called in another form of the network; None = names that are free.
        samples: the heads' tensors by name on some example inputs each, to tell probabilities from logits by.

    Raises:
        ModelError: a tensor that is not in the graph, too many heads, an exit that mixes logits and probabilities, or
            exits of which only some have lengths.
    """
    known = values(model.graph)
    add = Nodes(model.graph, JOIN)
    found, kinds = [], []
    notes: list[str] = []
    counting = [e.name for e in exits if e.lengths is not None]
    if 0 < len(counting) < len(exits):
        raise ModelError(f"exit {counting[0]!r} gives lengths and others do not: every exit has to, or none")
    own_lengths = {v.name for v in model.graph.inputs}
    for k, exit in enumerate(exits):
        called = JoinedExit(
            exit.name,
            exit.name,
            uncertainty=_free(f"{exit.name}_uncertainty", known),
            learned=_free(f"{exit.name}_score", known),
            lengths=_free(f"{exit.name}_lengths", known),
        )
        called = called if like is None else like[k]
        for name in exit.tensors:
            if name not in known:
                what = {exit.learned: "learned score", exit.lengths: "lengths"}.get(name, "exit")
                raise no_such_tensor(name, list(known), what)
        if len(exit.heads) > MAX_MEMBERS:
            raise ModelError(f"exit {exit.name!r}: {len(exit.heads)} heads; up to {MAX_MEMBERS} fit")
        if len(set(exit.heads)) < len(exit.heads):
            raise ModelError(f"exit {exit.name!r}: the heads must be different ones, and one stands twice")
        heads = [known[n] for n in exit.heads]
        stated = outputs if isinstance(outputs, str) else outputs[k]
        own = [kind_of(exit.name, _of(n, exit, samples), stated, h) for n, h in zip(exit.heads, heads, strict=True)]
        if len({kind for kind, _ in own}) > 1:
            raise ModelError(f"exit {exit.name!r}: some heads end in a Softmax and some do not; give all of one kind")
        kind = own[0][0]
        notes += [note for _, note in own if note is not None]
        answer, uncertainty = exit.heads[0], None
        lengths = None
        if exit.lengths is not None:
            lengths = _lengths(add, known[exit.lengths], called.lengths or "", own_lengths)
        if len(heads) > 1:
            answer, uncertainty = exit.name, called.uncertainty
            _together(add, heads, kind, answer, uncertainty or "", lengths)
        learned = None
        if exit.learned is not None:
            learned = _learned(add, known[exit.learned], called.learned or "", lengths)
        counts = None if lengths is None else lengths.name
        found.append(JoinedExit(exit.name, answer, len(heads), uncertainty, learned, counts))
        kinds.append(kind)
    return Joint(tuple(exits), tuple(found), tuple(kinds), outputs != "auto", tuple(dict.fromkeys(notes)))


def _of(name: str, exit: RawExit, samples: Sequence[Arrays]) -> list[NDArray[Any]]:
    """What a head gave in its valid positions, as far as it was seen."""
    pairs = [(s[name], None if exit.lengths is None else s.get(exit.lengths)) for s in samples if _numbers(s.get(name))]
    fits = [(a, n) for a, n in pairs if n is None or (a.ndim == 3 and n.shape == a.shape[:1])]
    return [a if n is None else valid_of(a, n) for a, n in fits]


def _numbers(array: object) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind == "f"


def _together(
    add: Nodes, heads: Sequence[ir.Value], kind: str, answer: str, uncertainty: str, lengths: ir.Value | None
) -> None:
    p = [add.op("Softmax", h, axis=-1) for h in heads] if kind == "logits" else list(heads)
    dtype = (heads[0].dtype or ir.DataType.FLOAT).numpy()
    # Add and Mul, as onnxruntime has no Mean of doubles.
    share = add.weight(f"{JOIN}_share_{len(p)}_{dtype}", np.array(1 / len(p), dtype))
    mean = add.op("Mul", _sum(add, p), share, name=answer)
    distance = _sum(add, [add.op("Abs", add.op("Sub", member, mean)) for member in p])
    last = add.weight(f"{JOIN}_axis_last", np.array([-1], np.int64))
    half = add.weight(f"{JOIN}_half_{len(p)}", np.array(0.5 / len(p), np.float32))
    total = add.op("Cast", add.op("ReduceSum", distance, last, keepdims=0), to=int(ir.DataType.FLOAT))
    add.per_input(add.op("Mul", total, half), uncertainty, lengths)


def _sum(add: Nodes, terms: Sequence[ir.Value]) -> ir.Value:
    total = terms[0]
    for term in terms[1:]:
        total = add.op("Add", total, term)
    return total


def _learned(add: Nodes, value: ir.Value, name: str, lengths: ir.Value | None) -> str:
    if value.shape is not None and len(value.shape) == 1 and value.dtype == ir.DataType.FLOAT:
        return value.name or ""
    one = value.shape is not None and len(value.shape) == 1
    add.per_input(value, name, None if one else lengths)
    return name


def _lengths(add: Nodes, value: ir.Value, name: str, taken: set[str | None]) -> ir.Value:
    """The lengths in int64, as a tensor that is this exit's alone: exits often share one, or give an input's."""
    if value.name in taken or value.dtype not in (None, ir.DataType.INT64):
        value = add.op("Cast", value, name=name, to=int(ir.DataType.INT64))
    taken.add(value.name)
    return value


def _counted(lengths: NDArray[Any], answer: NDArray[Any], exit: RawExit) -> NDArray[np.int64]:
    if answer.ndim != 3 or lengths.shape != answer.shape[:1] or lengths.dtype.kind not in "iu":
        raise ModelError(
            f"exit {exit.name!r}: lengths are whole numbers (inputs,) for an answer (inputs, positions, classes); "
            f"found {lengths.dtype}{list(lengths.shape)} in {exit.lengths!r} for an answer of {list(answer.shape)}"
        )
    if lengths.min() < 0 or lengths.max() > answer.shape[1]:
        raise ModelError(
            f"exit {exit.name!r}: lengths count the valid positions of the answer, found {lengths.min()} to "
            f"{lengths.max()} in {exit.lengths!r} for {answer.shape[1]} positions: compute them as the network "
            "shortens its input, (T - 3) // 4 for two convolutions of kernel 3 and stride 2 without padding"
        )
    return lengths.astype(np.int64)


def valid_of(values: NDArray[Any], lengths: NDArray[Any]) -> NDArray[Any]:
    """`values` `(inputs, positions, ...)` at valid positions, `(m, ...)`; as they are where they have no positions."""
    return values if values.ndim < 2 else values[valid_positions(lengths, values.shape[1])]


def _mean(values: NDArray[Any], lengths: NDArray[Any] | None, exit: str) -> NDArray[np.float32]:
    """`(inputs,)` means over (valid) positions."""
    flat = values.reshape(len(values), -1)
    if lengths is None or values.ndim == 1:
        return np.asarray(flat.mean(-1), np.float32)
    if flat.shape != values.shape[:2]:
        raise ModelError(
            f"exit {exit!r}: a learned score beside lengths is (inputs,) or (inputs, positions), found "
            f"{list(values.shape)}"
        )
    return np.asarray(mean_over_valid(flat, lengths), np.float32)


def _free(name: str, known: Mapping[str, Any]) -> str:
    """The name, or one like it that no tensor of the graph has."""
    while name in known:
        name += "_"
    return name


def _softmax(z: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(z - z.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))
