"""Exits of a torch module, traced, and the module's graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from edgeexit.errors import ModelError, first_line
from edgeexit_exporters.source.join import JoinedExit, valid_of
from edgeexit_exporters.source.output_kind import kind_of
from edgeexit_exporters.source.torch_exits import Exits, ExportedParts
from edgeexit_exporters.source.torch_source import quiet

ExitOutput = Sequence[ExportedParts]
"""What every exit gives."""


def evaluate(source: Exits, example: tuple[Tensor, ...]) -> ExitOutput:
    """The exits' tensors for an example.

    Raises:
        ModelError: the module does not run on it, or gives no exits.
    """
    try:
        with torch.no_grad():
            return source.exits(*example)
    except ModelError:
        raise
    except Exception as e:
        shapes = ", ".join(str(list(t.shape)) for t in example)
        raise ModelError(
            f"{type(source.module).__name__} does not run on inputs of {shapes}: {first_line(e)}; TFLite files "
            "are made with batch 1"
        ) from e


def exit_names(given: ExitOutput) -> tuple[JoinedExit, ...]:
    """exit0, exit1, ..., with `_uncertainty`, `_score` and `_lengths` behind what they give besides."""
    joined = []
    for k, (heads, learned, lengths) in enumerate(given):
        name = f"exit{k}"
        uncertainty = f"{name}_uncertainty" if len(heads) > 1 else None
        score, counts = f"{name}_score" if learned else None, f"{name}_lengths" if lengths else None
        joined.append(JoinedExit(name, name, len(heads), uncertainty, score, counts))
    return tuple(joined)


def check_exits(given: ExitOutput, names: Sequence[JoinedExit], module: str) -> None:
    """Whether the names fit the exits.

    Raises:
        ModelError: another number of exits, heads or scores; or heads of unlike shapes.
    """
    if len(names) != len(given):
        raise ModelError(f"{len(names)} exit names for {module}, a module with {len(given)} exits")
    for exit, (heads, learned, _) in zip(names, given, strict=True):
        if exit.members != len(heads) or (exit.learned is not None) != bool(learned):
            raise ModelError(
                f"exit {exit.name!r}: {exit.members} heads{' and a learned score' if exit.learned else ''} named, and "
                f"the module gives {len(heads)}{' and a learned score' if learned else ''}"
            )
        if len({tuple(h.shape) for h in heads}) > 1:
            raise ModelError(
                f"exit {exit.name!r}: heads that answer together have one shape, found "
                f"{', '.join(str(list(h.shape)) for h in heads)}"
            )


def exit_kinds(given: ExitOutput) -> tuple[str, ...]:
    """ "probs" of an exit whose heads' rows sum to 1, else "logits"; of a single head it changes nothing.

    Raises:
        ModelError: an exit that mixes them.
    """
    kinds = []
    for k, (heads, _, lengths) in enumerate(given):
        arrays = [h.numpy() if not lengths else valid_of(h.numpy(), lengths[0].numpy()) for h in heads]
        found = {kind_of(f"exit{k}", [a])[0] for a in arrays}
        if len(found) > 1:
            raise ModelError(f"exit {k}: some heads end in a Softmax and some do not; give all of one kind")
        kinds.append(found.pop())
    return tuple(kinds)


def to_graph(module: nn.Module, example: tuple[Tensor, ...], name: str) -> fx.GraphModule:
    """One graph without operations in place (a value means the same wherever it is read).

    Raises:
        ModelError: torch cannot export it, or it changes its own buffers.
    """
    with quiet(), torch.no_grad():
        try:
            program = torch.export.export(module, example, strict=False).run_decompositions({})
            changed = sorted(set(program.graph_signature.buffers_to_mutate.values()))
            traced = program.module()
        except Exception as e:
            raise ModelError(f"torch cannot export {name}: {first_line(e)}") from e
    if changed:
        raise ModelError(
            f"{name}: forward changes {changed[0].removeprefix('exits.module.')!r}; TFLite files carry no memory: make "
            "it an input, name it in `states` and return its next value beside the exits"
        )
    assert isinstance(traced, fx.GraphModule)
    return traced
