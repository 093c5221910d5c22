"""torch modules as export sources: torch.export -> one all-exits ONNX graph."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeexit.errors import ModelError, first_line
from edgeexit_exporters.onnx import graph
from edgeexit_exporters.onnx.files import refuse_missing
from edgeexit_exporters.onnx.names import is_text, name_edges
from edgeexit_exporters.source import inputs as examples
from edgeexit_exporters.source.input_roles import with_roles
from edgeexit_exporters.source.inputs import InputSpec, one_at_a_time
from edgeexit_exporters.source.join import RawExit, join
from edgeexit_exporters.source.random_nodes import refuse_random
from edgeexit_exporters.source.source import Source, samples
from edgeexit_exporters.source.unstack import unstack
from edgeexit_exporters.stages import State


def load_module(target: str, weights: Path | str | None = None) -> nn.Module:
    """Build the module that ``package.module:function`` returns, and load its weights.

    Args:
        target: names a function without required arguments that returns an `nn.Module`.
        weights: a ``.safetensors`` file, or a state dict that `torch.save` wrote (read with `weights_only`).

    Raises:
        ModelError: nothing there, not a module, or weights that do not fit.
    """
    module_name, _, function = target.partition(":")
    if not function:
        raise ModelError(f"{target!r}: expected MODULE:FUNCTION, e.g. edgeexit_models:resnet8, or an .onnx file")
    here = "" if "" in sys.path else str(Path.cwd())
    if here:
        sys.path.insert(0, here)  # as `python -m` does, so that a user's own file is found
    try:
        made = getattr(importlib.import_module(module_name), function)
        module = made() if not isinstance(made, nn.Module) else made
    except ImportError as e:
        raise ModelError(f"{target}: cannot import {module_name!r}: {e}") from e
    except AttributeError as e:
        raise ModelError(f"{target}: {e}") from e
    except TypeError as e:
        raise ModelError(f"{target}: calling {function}() without arguments failed: {e}") from e
    except Exception as e:
        raise ModelError(f"{target}: making the network failed: {type(e).__name__}: {first_line(e)}") from e
    finally:
        if here:
            sys.path.remove(here)
    if not isinstance(module, nn.Module):
        raise ModelError(f"{target} returned {type(module).__name__}, expected a torch.nn.Module")
    if weights is not None:
        _load_weights(module, Path(weights))
    return module


def _load_weights(module: nn.Module, path: Path) -> None:
    refuse_missing(path, "weights file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        raise ModelError(f"{path}: not readable as plain weights: {first_line(e)}") from e
    if isinstance(state, Mapping) and not all(isinstance(v, Tensor) for v in state.values()):
        state = next((state[k] for k in ("state_dict", "model") if isinstance(state.get(k), Mapping)), state)
    if isinstance(state, Mapping) and state and all(str(k).startswith("module.") for k in state):
        state = {k.removeprefix("module."): v for k, v in state.items()}  # as nn.DataParallel saves them
    try:
        module.load_state_dict(cast(Mapping[str, Any], state))
    except (RuntimeError, TypeError, AttributeError) as e:
        raise ModelError(f"{path}: the weights do not fit the model: {' '.join(str(e).split())[:300]}") from e


class ExportedParts(NamedTuple):
    """What one exit of a module gives."""

    heads: list[Tensor]
    learned: list[Tensor]
    """Its learned score; empty = none."""
    lengths: list[Tensor]
    """How many positions of its answer are valid; empty = all."""


class Exits(nn.Module):
    """Positional inputs in, a flat tuple of tensors out; `exits` says which of them is what.

    Args:
        module: returns its exits.
        single: a lone tensor is an exit, too.
        picks: which of the exits, in which order; None = all as they come.
    """

    def __init__(self, module: nn.Module, single: bool = False, picks: Sequence[int] | None = None) -> None:
        super().__init__()
        self.module, self.single, self.picks = module, single, picks
        self.states = state_names(module)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        exits, states = self.given(*inputs)
        return (*(t for exit in exits for tensors in exit for t in tensors), *states)

    def exits(self, *inputs: Tensor) -> list[ExportedParts]:
        """What every exit gives.

        Raises:
            ModelError: the module returned something else.
        """
        return self.given(*inputs)[0]

    def given(self, *inputs: Tensor) -> tuple[list[ExportedParts], list[Tensor]]:
        """`exits`, and the next values of the module's states.

        Raises:
            ModelError: the module returned something else.
        """
        exits, states = self.named(*inputs)
        return list(exits.values()), states

    def named(self, *inputs: Tensor) -> tuple[dict[str, ExportedParts], list[Tensor]]:
        """`given`, with the exits' own names: the keys of a mapping, else exit0, exit1, ...

        Raises:
            ModelError: the module returned something else.
        """
        found = self.module(*inputs)
        states: list[Tensor] = []
        if self.states:
            found, states = self._parted(found)
        keys: list[str] = []
        values = found
        if isinstance(found, Mapping) and not _is_one_exit(found):
            keys, values = [str(k) for k in found], list(found.values())
        if (self.single and isinstance(found, Tensor)) or (isinstance(found, Mapping) and not keys):
            values = [found]
        exits = [parts(v) for v in values] if isinstance(values, list | tuple) and values else [None]
        if any(e is None for e in exits):
            raise ModelError(
                f"{type(self.module).__name__} returned {_describe(found)}; a multi-exit module returns its exits in "
                "order, at least two: tensors, tuples of tensors (heads that answer together), or dicts of `output` "
                "and `score`, `lengths` or both. `edgeexit_models.attach` gives a network exits"
            )
        if len(set(keys)) < len(exits):
            keys = [f"exit{k}" for k in range(len(exits))]
        named = {k: e for k, e in zip(keys, exits, strict=True) if e is not None}
        return named if self.picks is None else {keys[i]: named[keys[i]] for i in self.picks}, states

    def _parted(self, found: Any) -> tuple[Any, list[Tensor]]:
        pair = found if isinstance(found, tuple) and len(found) == 2 else (None, None)
        states = list(pair[1]) if isinstance(pair[1], list | tuple) else []
        if len(states) != len(self.states) or not all(isinstance(t, Tensor) for t in states):
            raise ModelError(
                f"{type(self.module).__name__} has states {', '.join(self.states)}, so it returns (exits, next values "
                f"of the states in that order); found {_describe(found)}"
            )
        return pair[0], states


def state_names(module: nn.Module) -> tuple[str, ...]:
    """The inputs of a module that it carries from one call to the next, as its attribute `states` names them."""
    names = getattr(module, "states", ())
    return tuple(names) if isinstance(names, list | tuple) and all(isinstance(n, str) for n in names) else ()


def next_name(state: str) -> str:
    """What the next value of a torch module's state is called."""
    return f"{state}_next"


def parts(exit: Any) -> ExportedParts | None:
    """What one exit gave; None = it is no exit."""
    learned: list[Any] = []
    lengths: list[Any] = []
    if isinstance(exit, Mapping) and _is_one_exit(exit):
        learned, lengths = ([exit[what]] if what in exit else [] for what in ("score", "lengths"))
        exit = exit["output"]
    heads = list(exit) if isinstance(exit, list | tuple) else [exit]
    found = ExportedParts(heads, learned, lengths)
    return found if heads and all(isinstance(t, Tensor) for tensors in found for t in tensors) else None


def _is_one_exit(found: Mapping[Any, Any]) -> bool:
    """Whether a mapping is an exit with its score or lengths; else its values are exits, and its keys their names."""
    return {"output"} < set(found) <= {"output", "score", "lengths"}


def _describe(found: Any) -> str:
    if isinstance(found, Tensor):
        return "one tensor"
    if isinstance(found, list | tuple):
        return f"{type(found).__name__} of {', '.join(type(v).__name__ for v in found[:4]) or 'nothing'}"
    return type(found).__name__


def _raw_exits(exits: Sequence[ExportedParts], names: Sequence[str]) -> list[RawExit]:
    found = []
    for name, (heads, learned, lengths) in zip(names, exits, strict=True):
        tensors = [name] if len(heads) == 1 else [f"{name}_head{i}" for i in range(len(heads))]
        counts = f"{name}_lengths" if lengths else None
        found.append(RawExit(name, tuple(tensors), f"{name}_learned" if learned else None, counts))
    return found


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
        example = [torch.from_numpy(a) for a in examples.make_inputs(specs, 2, seed=0).values()]
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
        raw = _raw_exits(given, names)
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
                found = wrapped(*(torch.from_numpy(np.ascontiguousarray(arrays[s.tensor.name])) for s in specs))
        except Exception as e:
            shapes = ", ".join(f"{n} {list(a.shape)}" for n, a in arrays.items())
            raise ModelError(f"{type(module).__name__} does not run on inputs ({shapes}): {first_line(e)}") from e
        else:
            return {n: t.numpy() for n, t in zip(tensors, found, strict=True)}
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


def exit_names(module: str, own: Sequence[str], asked: Sequence[str] | None) -> tuple[list[str], list[int]]:
    """What a module's exits are called, and which of them these are.

    Args:
        module: the class, for messages.
        own: the names that the exits have anyway.
        asked: of these in any order, which selects and orders them; or a new name for every exit. None = all.

    Raises:
        ModelError: names that are neither.
    """
    if not asked:
        return list(own), list(range(len(own)))
    if len(set(asked)) < len(asked):
        twice = next(n for n in asked if list(asked).count(n) > 1)
        raise ModelError(f"exit {twice!r} is named twice")
    if set(asked) <= set(own):
        return list(asked), [list(own).index(n) for n in asked]
    if len(asked) != len(own):
        raise ModelError(
            f"{len(asked)} exit names for a module with {len(own)} exits: {', '.join(asked)}; they are called "
            f"{', '.join(own)}: name some of these in order, or give each a new name"
        )
    return list(asked), list(range(len(own)))


def check_states(states: Sequence[State], specs: Sequence[InputSpec], after: Sequence[Tensor]) -> None:
    """Whether the next values can take their inputs' places.

    Raises:
        ModelError: another type or shape.
    """
    known = {s.tensor.name: s.tensor for s in specs}
    for state, tensor in zip(states, after, strict=True):
        wanted = known[state.input]
        dtype = str(tensor.dtype).removeprefix("torch.")
        if (dtype, tuple(tensor.shape)) != (wanted.dtype, wanted.shape):
            raise ModelError(
                f"state {state.input!r} is {wanted.dtype}{list(wanted.shape)}, its next value "
                f"{dtype}{list(tensor.shape)}; they must be alike"
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
    return tuple(examples.shaped(n, dtype, shape, f"input_spec of {n!r}") for n, (dtype, shape) in spec.items())


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
        example = tuple(torch.from_numpy(a) for a in examples.make_inputs(specs, 2, seed=0).values())
        try:
            program = torch.export.export(wrapped, example, dynamic_shapes=(_free_sizes(specs),))
            found = program.run_decompositions({}).module()
        except Exception as e:
            raise ModelError(f"torch cannot trace {type(module).__name__}: {first_line(e)}") from e
    return torch.fx.GraphModule(found, found.graph)


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
