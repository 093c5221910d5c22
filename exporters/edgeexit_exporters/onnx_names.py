"""Tensor and node names in ONNX graphs: free ones for what is added, and foreign ones that look like ours renamed."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

OURS = "edgeexit_"
"""Begins the names of what this toolkit adds to a graph."""
FUSED = {"exit_thresholds", "output", "exit_index", "exit_score", "exit_uncertainty", "exit_lengths"}
"""Inputs and outputs of fused graphs."""


def free_name(name: str, taken: Collection[str]) -> str:
    """The name, or one like it that is not taken."""
    while name in taken:
        name += "_"
    return name


def all_names(graph: ir.Graph) -> set[str]:
    """Every tensor's and node's name in a graph and the graphs inside it."""
    found: set[str | None] = set()
    for inner in (graph, *graph.subgraphs()):
        found.update(v.name for v in inner.inputs)
        found.update(inner.initializers)
        for node in inner:
            found.add(node.name)
            found.update(v.name for v in node.outputs)
    return {n for n in found if n}


def rename_ours(graph: ir.Graph, keep: Collection[str]) -> None:
    """Rename what a foreign graph calls as this toolkit calls its own: graphs that it wrote have such names.

    Args:
        graph: changed in place.
        keep: tensors that keep their names.
    """
    taken = {*all_names(graph), *keep}

    def other(name: str) -> str:
        new = free_name(f"source_{name}", taken)
        taken.add(new)
        return new

    for inner in (graph, *graph.subgraphs()):
        for name in [n for n in inner.initializers if (n.startswith(OURS) or n in FUSED) and n not in keep]:
            value = inner.initializers.pop(name)
            value.name = other(name)
            inner.register_initializer(value)
        for node in inner:
            if (node.name or "").startswith(OURS):
                node.name = other(node.name or "")
            for value in node.outputs:
                if value.name and value.name.startswith(OURS) and value.name not in keep:
                    value.name = other(value.name)
