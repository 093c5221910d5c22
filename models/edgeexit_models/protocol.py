"""Protocol of multi-exit models: any module whose forward returns `(batch, classes)` tensors, shallow to deep.

There is no base class and no registration: `exits` checks the outputs where they are used. The attribute
`input_spec` is optional; with it the exporter needs no example input.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn

from edgeexit.errors import ModelError

InputSpec = dict[str, tuple[str, tuple[int | str, ...]]]
"""Input name -> (dtype, shape), strings are free axes: `{"image": ("float32", ("batch", 3, 32, 32))}`.

`"time=100"` is a free axis with length 100 in the example inputs of an export.
"""


_EXPECTED = "a multi-exit model returns a tuple or list of at least 2 tensors (batch, classes), shallow to deep"


def exits(module: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Calls the module and returns its exits' outputs, checked.

    Returns:
        K >= 2 tensors, each `(batch, classes)`, all of one shape.

    Raises:
        ModelError: the output is one tensor or a dict, or has fewer than 2 exits or exits of different shapes.
    """
    return check_outputs(module(*inputs), type(module).__name__)


def check_outputs(outputs: object, name: str = "the model") -> tuple[Tensor, ...]:
    """The checks of `exits` on outputs; `name` is used in messages."""
    if isinstance(outputs, Tensor):
        raise ModelError(
            f"{name} returned a single tensor {tuple(outputs.shape)}, {_EXPECTED}: "
            "return the exits' outputs together, or add exits with edgeexit_models.attach"
        )
    if not isinstance(outputs, (tuple, list)):
        raise ModelError(f"{name} returned a {type(outputs).__name__}, {_EXPECTED}")
    if len(outputs) < 2:
        raise ModelError(f"{name} returned {len(outputs)} output(s), {_EXPECTED}")
    checked: list[Tensor] = []
    for index, output in enumerate(outputs):
        if not isinstance(output, Tensor):
            raise ModelError(f"{name}: exit {index} is a {type(output).__name__}, not a tensor; {_EXPECTED}")
        if output.ndim != 2:
            raise ModelError(f"{name}: exit {index} has shape {tuple(output.shape)}; {_EXPECTED}")
        if output.shape != outputs[0].shape:
            raise ModelError(
                f"{name}: exit {index} has shape {tuple(output.shape)}, "
                f"exit 0 has {tuple(outputs[0].shape)}; all exits must answer for the same inputs and classes"
            )
        checked.append(output)
    return tuple(checked)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards every submodule has its previous mode (frozen parts stay frozen)."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
