"""Pieces of an ONNX graph as models of their own: all exits, one exit, one stage."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgeexit_exporters.onnx.serialize import finish
from edgeexit_exporters.stages import Stage


def all_exits(model: ir.Model, tensors: Sequence[str]) -> ir.Model:
    """One file that computes every exit; for calibration only, it never stops early."""
    inputs = [v for v in model.graph.inputs if v.name]
    return _piece(model, [v.name or "" for v in inputs], tensors)


def alone(stages: Sequence[Stage]) -> list[tuple[str, ...]]:
    """What a network with one exit only gives, for every exit: its tensors, and the next values of states up to it."""
    return [
        tuple(dict.fromkeys((*stage.answers, *(n for s in stages[: k + 1] for n in s.carried))))
        for k, stage in enumerate(stages)
    ]


def prefix(model: ir.Model, exit: Sequence[str]) -> ir.Model:
    """One self-contained file for one exit's tensors: the static baseline."""
    graph = ir.convenience.extract(model.graph, list(model.graph.inputs), list(exit))
    used = {v for v in graph.inputs if v.uses()}
    for value in [v for v in graph.inputs if v not in used]:
        graph.inputs.remove(value)
    return finish(model, graph)


def chain(model: ir.Model, stages: Sequence[Stage]) -> list[ir.Model]:
    """One file per stage; the runtime decides between calls."""
    return [_piece(model, stage.inputs, stage.outputs) for stage in stages]


def _piece(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> ir.Model:
    # An output that is also an input of the piece (an exit that only renames a cut) needs no node here.
    return finish(model, ir.convenience.extract(model.graph, list(inputs), list(outputs)))
