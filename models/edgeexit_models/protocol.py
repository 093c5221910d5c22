"""A multi-exit model is any module whose forward returns `(batch, classes)` tensors, shallow to deep.

No base class and no registration: `exits` checks the answer where it is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from edgeexit.errors import ModelError

InputSpec = dict[str, tuple[str, tuple[int | str, ...]]]
"""Input name -> (dtype, shape), strings are free axes: `{"image": ("float32", ("batch", 3, 32, 32))}`.

`"time=100"` is a free axis that is 100 long in the examples an export is tried with.
"""


class MultiExitModule(Protocol):
    """The protocol in types: call it, get the exits' logits in order."""

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]: ...


@runtime_checkable
class HasInputSpec(Protocol):
    """A module that also says what it takes; the exporter then needs no example input."""

    input_spec: InputSpec


_WANTED = "a multi-exit model returns a tuple or list of at least 2 tensors (batch, classes), shallow to deep"


def exits(module: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Calls the module and returns its exits' outputs, checked.

    Returns:
        K >= 2 tensors, each `(batch, classes)`, all of one shape.

    Raises:
        ModelError: the answer is one tensor, a dict, has fewer than 2 exits, or exits that do not fit each
            other.
    """
    return check_outputs(module(*inputs), type(module).__name__)


def check_outputs(outputs: object, name: str = "the model") -> tuple[Tensor, ...]:
    """The checks of `exits` for outputs already at hand; `name` is used in messages."""
    if isinstance(outputs, Tensor):
        raise ModelError(
            f"{name} returned a single tensor {tuple(outputs.shape)}, {_WANTED}: "
            "return the exits' outputs together, or add exits with edgeexit_models.attach"
        )
    if not isinstance(outputs, (tuple, list)):
        raise ModelError(f"{name} returned a {type(outputs).__name__}, {_WANTED}")
    if len(outputs) < 2:
        raise ModelError(f"{name} returned {len(outputs)} output(s), {_WANTED}")
    checked: list[Tensor] = []
    for index, output in enumerate(outputs):
        if not isinstance(output, Tensor):
            raise ModelError(f"{name}: exit {index} is a {type(output).__name__}, not a tensor; {_WANTED}")
        if output.ndim != 2:
            raise ModelError(f"{name}: exit {index} has shape {tuple(output.shape)}; {_WANTED}")
        if output.shape != outputs[0].shape:
            raise ModelError(
                f"{name}: exit {index} has shape {tuple(output.shape)}, "
                f"exit 0 has {tuple(outputs[0].shape)}; all exits must answer for the same inputs and classes"
            )
        checked.append(output)
    return tuple(checked)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every submodule is in its mode again (frozen parts stay frozen)."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
