"""Nodes and constants added to an ONNX graph on trial: those that nothing reads at the end are left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeexit_exporters.onnx.names import all_names


class Rewriter:
    """Makes nodes besides a graph's own and puts those that are needed in their places.

    Args:
        graph: changed in place.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.taken = all_names(graph)
        self.nodes: list[ir.Node] = []
        self.renamed: set[str] = set()

    def constant(self, array: np.ndarray[Any, Any]) -> ir.Value:
        name = self.free("edgeexit_unstack_constant")
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def free(self, name: str) -> str:
        count = 0
        while f"{name}_{count}" in self.taken:
            count += 1
        self.taken.add(f"{name}_{count}")
        return f"{name}_{count}"

    def op(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: Sequence[ir.Attr] = (),
        type_: ir.TypeProtocol | None = None,
    ) -> ir.Value:
        """A new node of one output; of the type of its first input where none is known."""
        name = self.free(f"edgeexit_unstack_{kind}")
        node = ir.Node("", kind, list(inputs), list(attributes), num_outputs=1, name=name)
        out = node.outputs[0]
        out.name, first = name, inputs[0]
        out.type = type_ or (first.type if first is not None else None)
        self.nodes.append(node)
        return out

    def again(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Value:
        """The same operation on other inputs."""
        return self.op(node.op_type, inputs, list(node.attributes.values()), node.outputs[0].type)

    def rename(self, old: ir.Value, new: ir.Value, name: str) -> None:
        """Let another value take the name and the readers of a tensor."""
        same = self.op("Identity", [new], (), old.type or new.type)
        same.shape = old.shape
        old.replace_all_uses_with(same, replace_graph_outputs=True)
        old.name = self.free(f"edgeexit_unstack_{name}")
        same.name = name
        self.renamed.add(name)

    def place(self) -> None:
        """Put the new nodes where the graph needs them; what nobody reads now belongs to no stage."""
        for node in reversed(self.nodes):
            if node.outputs[0].uses() or node.outputs[0].name in self.renamed:
                self.graph.append(node)
            else:  # a way that was given up
                for k in range(len(node.inputs)):
                    node.replace_input_with(k, None)
        self.graph.sort()
