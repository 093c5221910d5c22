"""Heads in the graph: a network with one answer gets more of them; what it computed before stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from edgeexit.errors import ModelError
from edgeexit_exporters import measure
from edgeexit_exporters.augment.features import Pool, add_head, add_pooled, pooled
from edgeexit_exporters.augment.heads import Head
from edgeexit_exporters.augment.places import Place
from edgeexit_exporters.join import JoinedExit, Joint, RawExit
from edgeexit_exporters.onnx_graph import values
from edgeexit_exporters.onnx_nodes import Nodes
from edgeexit_exporters.source import Arrays, Source

PREFIX = "edgeexit_exit_"


def graft(source: Source, places: Sequence[Place], heads: Sequence[Head], pool: Pool) -> Source:
    """A source with an exit at every place, and the network's own answer last.

    What the exits are compared with afterwards: for the last one, the network as it was, run without them; for the
    others, the heads in numpy on features of that same network.

    Args:
        source: of one exit with one head; not changed.
        places: shallow to deep.
        heads: one per place, fitted on features that `pool` makes.
        pool: as the features were made.

    Raises:
        ModelError: a tensor of the network has a name that an exit needs.
    """
    (final,) = source.exits
    model = ir.from_proto(ir.to_proto(source.model))
    names = [f"{PREFIX}{k}" for k in range(len(places))]
    if taken := set(names) & set(values(model.graph)):
        raise ModelError(f"a tensor of the network is called {sorted(taken)[0]!r} already; was it augmented before?")
    add = Nodes(model.graph, "edgeexit_augment")
    for name, place, head in zip(names, places, heads, strict=True):
        add_head(add, add_pooled(add, place, pool), head, name)
    joint = Joint(
        tuple(RawExit(n, (n,)) for n in (*names, final.answer)),
        tuple(JoinedExit(n, n) for n in (*names, final.answer)),
        (*["logits"] * len(names), source.joint.kinds[0]),
    )
    return Source(
        model,
        joint,
        source.inputs,
        _reference(source.model, final.answer, names, places, heads, pool),
        {**source.provenance, "augmented_at": [p.name for p in places], "pool": pool},
    )


def _reference(
    model: ir.Model, final: str, names: Sequence[str], places: Sequence[Place], heads: Sequence[Head], pool: Pool
) -> Callable[[Arrays], dict[str, NDArray[Any]]]:
    proto = ir.to_proto(model)
    tensors = [t for p in places for t in p.tensors]

    def reference(arrays: Arrays) -> dict[str, NDArray[Any]]:
        # The answer in a session of its own: tensors that are outputs, too, keep onnxruntime from fusing.
        found = measure.all_values(proto, [final], arrays)
        seen = measure.all_values(proto, tensors, arrays)
        for name, place, head in zip(names, places, heads, strict=True):
            found[name] = head.logits(pooled(seen, place, pool))
        return found

    return reference
