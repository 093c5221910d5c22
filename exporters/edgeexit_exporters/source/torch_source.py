"""Torch modules as export sources: torch.export to one ONNX graph of all exits."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeexit.errors import ModelError, first_line
from edgeexit_exporters.onnx import graph
from edgeexit_exporters.onnx.names import is_text, name_edges
from edgeexit_exporters.source.input_roles import with_roles
from edgeexit_exporters.source.inputs import InputSpec, make_inputs, one_at_a_time, shaped
from edgeexit_exporters.source.join import join
from edgeexit_exporters.source.random_nodes import refuse_random
from edgeexit_exporters.source.source import Source, samples
from edgeexit_exporters.source.torch_exits import Exits, check_states, exit_names, next_name, raw_exits
from edgeexit_exporters.source.unstack import unstack
from edgeexit_exporters.stages import State


def from_torch(
    module: nn.Module,
    inputs: Sequence[InputSpec] = (),
    exits: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
    outputs: str = "auto",
    single: bool = False,
) -> Source:
    """A torch module that returns its exits in order.

    An exit is a tensor ``(batch, ..., classes)``, a tuple of such tensors (heads that answer together), or a mapping
    of ``output`` (either of them), ``score`` (a learned score ``(batch,)`` in [0, 1]) and ``lengths`` (of an output
    ``(batch, positions, classes)``, how many positions are valid: whole numbers ``(batch,)``).

    A module with memory names those of its inputs that it carries on in an attribute ``states`` and returns
    ``(exits, next values of the states)``, for one input per call; a stream begins with zeros.

    Args:
        module: evaluated in eval mode; its mode is put back.
        inputs: in the order of `forward`; empty = the module's own `input_spec`
            (``{"image": ("float32", ("batch", 3, 32, 32))}``).
        exits: which of the exits, shallow to deep, by the keys of the mapping that the module returns, or exit0,
            exit1, ...; or new names for all of them. None = all in the order they are returned.
        provenance: what to note about the source.
        outputs: see `join`.
        single: a lone tensor is taken as the answer of a network without further exits.

    Raises:
        ModelError: no input spec, not a multi-exit module, or not exportable by torch; see also `join`.
    """
    wrapped = Exits(module, single)
    carried = tuple(State(n, next_name(n)) for n in wrapped.states)
    specs = one_at_a_time(tuple(inputs) or own_inputs(module), wrapped.states)
    training = {m: m.training for m in module.modules()}
    wrapped.eval()
    try:
        example = [torch.from_numpy(a) for a in make_inputs(specs, 2, seed=0).values()]
        try:
            with torch.no_grad():
                own, after = wrapped.named(*example)
        except ModelError:
            raise
        except Exception as e:
            shapes = ", ".join(f"{s.tensor.name} {list(a.shape)}" for s, a in zip(specs, example, strict=True))
            raise ModelError(f"{type(module).__name__} does not run on inputs ({shapes}): {first_line(e)}") from e
        names, wrapped.picks = exit_names(type(module).__name__, list(own), exits)
        given = [list(own.values())[i] for i in wrapped.picks]
        if taken := [n for n in names if n in {s.tensor.name for s in specs}]:
            raise ModelError(
                f"{type(module).__name__}: exit {taken[0]!r} is called as an input is; give it another name (--exits)"
            )
        if odd := [n for n in names if not is_text(n)]:
            raise ModelError(
                f"{type(module).__name__}: exit {odd[0]!r:.80} cannot be called so: names have 1 to 512 printable "
                "characters; give it another one (--exits)"
            )
        if len(given) < 2 and len(given[0].heads) < 2 and not exits and not single:
            raise ModelError(
                f"{type(module).__name__} has one exit with one head: name it with --exits to export it all the same; "
                "`edgeexit_models.attach` gives a network exits"
            )
        raw = raw_exits(given, names)
        check_states(carried, specs, after)
        tensors = [*(n for e in raw for n in e.tensors), *(s.output for s in carried)]
        proto = _to_onnx(wrapped, specs, example, len(tensors))
    finally:
        for m, mode in training.items():
            m.training = mode

    def reference(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        modes = {m: m.training for m in module.modules()}
        wrapped.eval()
        try:
            with torch.no_grad():
                values = wrapped(*(torch.from_numpy(np.ascontiguousarray(arrays[s.tensor.name])) for s in specs))
        except Exception as e:
            shapes = ", ".join(f"{n} {list(a.shape)}" for n, a in arrays.items())
            raise ModelError(f"{type(module).__name__} does not run on inputs ({shapes}): {first_line(e)}") from e
        else:
            return {n: t.numpy() for n, t in zip(tensors, values, strict=True)}
        finally:
            for m, mode in modes.items():
                m.training = mode

    model = graph.prepare(proto, type(module).__name__)
    name_edges(model.graph, [s.tensor.name for s in specs], tensors)
    unstack(model, tensors)
    roles = with_roles(model.graph, specs)
    joint = join(model, raw, outputs, samples=samples(reference, roles))
    refuse_random(
        model, [n for e in joint.exits for n in e.outputs] + [s.output for s in carried], type(module).__name__
    )
    return Source(
        model,
        joint,
        roles,
        reference,
        {"source": type(module).__name__, **(provenance or {}), "torch": torch.__version__},
        module,
        states=carried,
        notes=tuple(joint.notes),
        ordered=bool(exits),
        picks=tuple(wrapped.picks),
    )


def own_inputs(module: nn.Module) -> tuple[InputSpec, ...]:
    """What a module says it takes (`input_spec`).

    Raises:
        ModelError: it does not say.
    """
    spec = getattr(module, "input_spec", None)
    if not isinstance(spec, Mapping) or not spec:
        raise ModelError(
            f"{type(module).__name__} does not say what it takes: pass --input NAME:DTYPE[AXES] "
            "(e.g. image:float32[batch,3,32,32]), or give the module an `input_spec`"
        )
    return tuple(shaped(n, dtype, shape, f"input_spec of {n!r}") for n, (dtype, shape) in spec.items())


def traced(module: nn.Module, specs: Sequence[InputSpec], picks: Sequence[int] | None = None) -> torch.fx.GraphModule:
    """A network with one answer as a graph of torch operations that change nothing in place, in evaluation mode.

    It can be trained; batch norms keep their statistics and nothing is dropped out. Parameters are the module's own.

    Args:
        module: as `from_torch` takes it.
        specs: its inputs.
        picks: see `Exits`.

    Raises:
        ModelError: torch cannot trace it.
    """
    wrapped = Exits(module, True, picks)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped.eval()
        example = tuple(torch.from_numpy(a) for a in make_inputs(specs, 2, seed=0).values())
        try:
            program = torch.export.export(wrapped, example, dynamic_shapes=(_free_sizes(specs),))
            decomposed = program.run_decompositions({}).module()
        except Exception as e:
            raise ModelError(f"torch cannot trace {type(module).__name__}: {first_line(e)}") from e
    return torch.fx.GraphModule(decomposed, decomposed.graph)


def _free_sizes(specs: Sequence[InputSpec]) -> tuple[dict[int, Any], ...]:
    free = {a for s in specs for a in s.tensor.shape if isinstance(a, str)}
    dims = {name: torch.export.Dim(name) for name in sorted(free)}
    return tuple({k: dims[a] for k, a in enumerate(s.tensor.shape) if isinstance(a, str)} for s in specs)


def _to_onnx(module: nn.Module, specs: Sequence[InputSpec], example: list[Tensor], outputs: int) -> Any:
    # Names that no tensor inside has: torch looks for none that are taken.
    with quiet():
        try:
            program = torch.onnx.export(
                module,
                tuple(example),
                dynamo=True,
                input_names=[f"edgeexit_input_{k}" for k in range(len(specs))],
                output_names=[f"edgeexit_output_{k}" for k in range(outputs)],
                dynamic_shapes=(_free_sizes(specs),),  # one entry: the tuple of positional inputs
                verbose=False,
            )
        except Exception as e:
            cause = f" ({first_line(e.__cause__)})" if e.__cause__ and str(e.__cause__) else ""
            raise ModelError(
                f"torch cannot export {type(module.module).__name__} to ONNX: {first_line(e)}{cause}"
            ) from e
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter warns about its own internals and about packages that nobody here uses."""
    loggers = [logging.getLogger("torch.onnx"), logging.getLogger("torch.export"), logging.getLogger("onnxscript")]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
