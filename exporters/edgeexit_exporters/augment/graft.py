"""Heads added to the graph of a single-exit network; what it computed before stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from edgeexit.errors import ModelError
from edgeexit_exporters.augment.features import feature_name, pooled_graph
from edgeexit_exporters.augment.heads import Head
from edgeexit_exporters.augment.nodes import PREFIX, add_head, add_pooled
from edgeexit_exporters.augment.places import Place
from edgeexit_exporters.onnx import measure
from edgeexit_exporters.onnx.graph import values
from edgeexit_exporters.onnx.nodes import Nodes
from edgeexit_exporters.source.join import JoinedExit, Joint, RawExit
from edgeexit_exporters.source.source import Arrays, Source


def graft(source: Source, places: Sequence[Place], heads: Sequence[Head], pool: str) -> Source:
    """A source with an exit at every place, and the network's own answer last.

    What the exits are compared with afterwards: for the last one, the network as it was, run without them; for the
    others, the heads in numpy on pooled features of that same network.

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
    names = [f"{PREFIX}_exit{k}" for k in range(len(places))]
    if taken := set(names) & set(values(model.graph)):
        raise ModelError(f"a tensor of the network is called {sorted(taken)[0]!r} already; was it augmented before?")
    add = Nodes(model.graph, PREFIX)
    for name, place, head in zip(names, places, heads, strict=True):
        add_head(add, add_pooled(add, place, pool), head, name)
    mask = next((p.mask for p in places if p.mask is not None), None)
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
        {
            **source.provenance,
            "augmented_at": [p.name for p in places],
            "pool": pool,
            **({"mask": mask} if mask else {}),
        },
        notes=source.notes,
        ordered=True,
    )


def _reference(
    model: ir.Model, final: str, names: Sequence[str], places: Sequence[Place], heads: Sequence[Head], pool: str
) -> Callable[[Arrays], dict[str, NDArray[Any]]]:
    # The answer in a session of its own: what else is read keeps onnxruntime from fusing as it would.
    alone = measure.session(ir.to_proto(model).SerializeToString())
    read = measure.session(ir.to_proto(pooled_graph(model, places, pool)).SerializeToString())
    features = [feature_name(k) for k in range(len(places))]

    def reference(arrays: Arrays) -> dict[str, NDArray[Any]]:
        outputs = measure.run(alone, arrays, [final])
        seen = measure.run(read, arrays, features)
        outputs.update({n: h.logits(seen[f]) for n, h, f in zip(names, heads, features, strict=True)})
        return outputs

    return reference
