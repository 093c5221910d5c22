"""Random operations that an exit depends on: refused, since no export can agree with such a network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath

import onnx_ir as ir

from edgeexit.errors import ModelError
from edgeexit_exporters.onnx.graph import RANDOM, read_by, values

_DROPOUTS = {"Dropout", "BiasDropout", "BitmaskDropout", "BitmaskBiasDropout"}
_RATIO = {"BiasDropout": 3, "BitmaskBiasDropout": 3}
"""Place of the ratio among the inputs, of those that do not have it second; whether it trains stands behind it."""
_TRACE = "pkg.torch.onnx.stack_trace"


def refuse_random(model: ir.Model, tensors: Sequence[str], name: str) -> None:
    """Whether what the exits give is the same in every run.

    Args:
        model: as `onnx_graph.prepare` gives it, so that functions are inlined.
        tensors: what the exits give.
        name: of the source, for messages.

    Raises:
        ModelError: names the random operations above them, those in the bodies of If, Loop and Scan included; or a
            batch norm that was left in training mode.
    """
    above = _above(model.graph, tensors)
    if batch := [n for n in above if n.op_type == "BatchNormalization" and _flag(n, "training_mode")]:
        raise ModelError(
            f"{name}: {_called(batch[0])} normalises by the batch at hand (training_mode), so an answer depends on its "
            "neighbours; export the network in evaluation mode (model.eval(), training=False)"
        )
    if random := [node for node in above if is_random(node)]:
        several = len(random) > 1
        raise ModelError(
            f"{name}: its answers differ from run to run: {', '.join(_called(n) for n in random[:4])}"
            f"{' and more' if len(random) > 4 else ''} {'are' if several else 'is'} random; export the network in "
            "evaluation mode (model.eval(), training=False), or take "
            f"{'these operations' if several else 'this operation'} out"
        )


def is_random(node: ir.Node) -> bool:
    """Whether an operation gives other numbers in every run; a Dropout does so in training only."""
    if node.op_type in _DROPOUTS:
        place = _RATIO.get(node.op_type, 1)
        return _number(node, place + 1, 0.0) != 0 and _number(node, place, 0.5) != 0
    return node.op_type in RANDOM


def _flag(node: ir.Node, name: str) -> bool:
    return name in node.attributes and node.attributes[name].as_int() == 1


def _number(node: ir.Node, place: int, default: float) -> float:
    """A constant input's number; what is known only while it runs may be any, here 1."""
    value = node.inputs[place] if place < len(node.inputs) else None
    if value is None:
        return default
    if value.const_value is None or (value.is_graph_input() and not value.is_initializer()):
        return 1.0
    array = value.const_value.numpy()
    return float(array.reshape(-1)[0]) if array.size else default


def _above(graph: ir.Graph, tensors: Sequence[str]) -> list[ir.Node]:
    """The nodes that tensors are computed from, with those of inner graphs, in the graph's order."""
    known = values(graph)
    seen: set[ir.Node] = set()
    todo = [known[n] for n in tensors]
    while todo:
        node = todo.pop().producer()
        if node is not None and node not in seen:
            seen.add(node)
            todo.extend(read_by(node, graph))
    above: list[ir.Node] = []
    for node in graph:
        if node in seen:
            above.append(node)
            above += [
                inner
                for a in node.attributes.values()
                if a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
                for g in ([a.as_graph()] if a.type == ir.AttributeType.GRAPH else a.as_graphs())
                for inner in ir.traversal.RecursiveGraphIterator(g)
            ]
    return above


def _called(node: ir.Node) -> str:
    lines = re.findall(r'File "([^"]+)", line (\d+)', node.metadata_props.get(_TRACE, ""))
    own = [(f, n) for f, n in lines if "site-packages" not in f and "edgeexit_exporters" not in f and f[:1] != "<"]
    at = f" at {PurePath(own[-1][0]).name}:{own[-1][1]}" if own else ""
    out = node.outputs[0].name if node.outputs else ""
    return f"node {node.name or out!r} ({node.op_type} of tensor {out!r}{at})"
