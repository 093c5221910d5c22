"""Stage inputs that preserve Conv+Add fusion: ways for a picture to enter a stage.

onnxruntime adds a skip connection inside the convolution before it where both come from its own blocked layout, and
that rounds otherwise than an addition afterwards. A cut tensor comes in plain layout, so such a fusion is lost at the
cut; a maximum over 1x1 windows changes no number and brings the tensor into that layout. Which way rounds as the uncut
network does, only running it tells.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from edgeexit_exporters.onnx.graph import values
from edgeexit_exporters.onnx.names import all_names, free_name
from edgeexit_exporters.stages import Stage

MOST = 6
"""So many stages are tried in both ways: 2 ** MOST graphs."""


def entries(model: ir.Model, stages: Sequence[Stage]) -> Iterator[ir.Model]:
    """The network with every choice of stages that a picture enters through a 1x1 maximum, the plain one left out.

    Args:
        model: the whole network, annotated with shapes; left as it is.
        stages: of it.
    """
    known = values(model.graph)
    pictures = [[n for n in s.inputs if k and _picture(known[n])] for k, s in enumerate(stages)]
    able = [k for k, names in enumerate(pictures) if names][:MOST]
    choices = itertools.chain.from_iterable(itertools.combinations(able, r) for r in range(1, len(able) + 1))
    for chosen in choices:
        changed = model.clone()
        nodes, own, taken = list(changed.graph), values(changed.graph), all_names(changed.graph)
        for k in chosen:
            readers = {nodes[i] for i in stages[k].nodes}
            for name in pictures[k]:
                _enter(changed.graph, own[name], readers, free_name(f"{name}_entry_{k}", taken))
        yield changed


def _picture(value: ir.Value) -> bool:
    return (
        value.dtype == ir.DataType.FLOAT
        and value.shape is not None
        and len(value.shape) == 4
        and not value.is_graph_input()
    )


def _enter(graph: ir.Graph, value: ir.Value, readers: set[ir.Node], name: str) -> None:
    """Let some readers of a value read it through a maximum over 1x1 windows."""
    node = ir.node("MaxPool", [value], attributes={"kernel_shape": [1, 1], "strides": [1, 1]}, name=name)
    (entered,) = node.outputs
    entered.name, entered.type, entered.shape = name, value.type, value.shape
    maker = value.producer()
    assert maker is not None
    for reader, k in [u for u in value.uses() if u[0] in readers]:
        reader.replace_input_with(k, entered)
    graph.insert_after(maker, node)
