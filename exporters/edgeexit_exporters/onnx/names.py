"""Names in ONNX graphs: free ones for additions, and foreign ones that look like ours changed."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir

from edgeexit.common.kinds import Misfit, String

OURS = "edgeexit_"
"""Begins the names of what this toolkit adds to a graph."""
FUSED = {"exit_thresholds", "output", "exit_index", "exit_score", "exit_uncertainty", "exit_lengths"}
"""Inputs and outputs of fused graphs."""


def free_name(name: str, taken: Collection[str]) -> str:
    """The name, or one like it that is not taken."""
    while name in taken:
        name += "_"
    return name


def is_text(name: str) -> bool:
    """Whether a manifest can hold the name: 1 to 512 printable characters."""
    try:
        return bool(String().read(name))
    except Misfit:
        return False


def all_names(graph: ir.Graph) -> set[str]:
    """Every tensor's and node's name in a graph and the graphs inside it."""
    names: set[str | None] = set()
    for inner in (graph, *graph.subgraphs()):
        names.update(v.name for v in inner.inputs)
        names.update(inner.initializers)
        for node in inner:
            names.add(node.name)
            names.update(v.name for v in node.outputs)
    return {n for n in names if n}


def rename_ours(graph: ir.Graph, keep: Collection[str]) -> None:
    """Rename what a foreign graph calls as this toolkit calls its own, or as no manifest can say.

    Graphs that this toolkit wrote, read anew, have such names.

    Args:
        graph: changed in place.
        keep: tensors that keep their names.
    """
    taken = {*all_names(graph), *keep}

    def other(name: str) -> str:
        new = free_name(f"source_{name}" if is_text(name) else f"source_{len(taken)}", taken)
        taken.add(new)
        return new

    for inner in (graph, *graph.subgraphs()):
        for name in [n for n in inner.initializers if (n.startswith(OURS) or n in FUSED or not is_text(n))]:
            value = inner.initializers.pop(name)
            value.name = other(name)
            inner.register_initializer(value)
        for node in inner:
            if node.name and (node.name.startswith(OURS) or not is_text(node.name)):
                node.name = other(node.name)
            for value in node.outputs:
                if value.name and value.name not in keep and (value.name.startswith(OURS) or not is_text(value.name)):
                    value.name = other(value.name)


def name_edges(graph: ir.Graph, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Name a graph's inputs and outputs, whatever inner tensors are called.

    Args:
        graph: changed in place; inner tensors that have one of the names get others.
        inputs, outputs: names in the graph's order.
    """
    edges = dict(zip((*graph.inputs, *graph.outputs), (*inputs, *outputs), strict=True))
    taken = {*all_names(graph), *inputs, *outputs}
    for inner in (graph, *graph.subgraphs()):
        for name in [n for n in inner.initializers if n in edges.values()]:
            value = inner.initializers.pop(name)
            value.name = free_name(f"inner_{name}", taken)
            taken.add(value.name)
            inner.register_initializer(value)
        for value in (v for node in inner for v in node.outputs):
            if value not in edges and value.name in edges.values():
                value.name = free_name(f"inner_{value.name}", taken)
                taken.add(value.name)
    for value, name in edges.items():
        value.name = name
